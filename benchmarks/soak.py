"""Soak the sandbox: thousands of mixed cells over many kernels, with forks and hostile cells.

    python benchmarks/soak.py --cells 20000 --seconds 600 --kernels 64

Goes on until both the cells and the seconds are reached. Checks every answer; prints processes,
descriptors and memory before and after, and how long the event loop was held up.
"""

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import psutil

from aimo2.config import KernelConfig
from aimo2.deadline import NEVER
from aimo2.errors import SandboxError
from aimo2.sandbox import CellResult
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.sandbox.kernel import ForkKernel

HOSTILE = {
    "flood": "while True: print('y' * 1000)",
    "flood fd 1": "import os\nfor _ in range(50): os.write(1, bytes(1 << 20))",
    "exit": "import os\nos._exit(3)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "memory": "x = [bytearray(1 << 26) for _ in range(100)]",
    "fork": "import os\nos.fork()",
    "spin": "while True: pass",
    "stubborn": "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass",
    "garbage": "import os\nfor fd in range(3, 256):\n    try: os.write(fd, b'\\xff' * 64)\n"
    "    except OSError: pass",
    "threads": "import threading\n"
    "for _ in range(20): threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()",
    "files": "open('big', 'wb').write(bytes(1 << 26))",
    "close all": "import os\nos.closerange(0, 256)",
}


LOST_FILES = "[files were lost for want of space: big]"


@dataclass
class Tally:
    """What happened."""

    cells: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    forks: int = 0
    recoveries: int = 0


@dataclass
class Seat:
    """One of the kernels and the number that its state should hold."""

    kernel: ForkKernel
    count: int = 0


async def work(sandbox: ForkSandbox, rng: random.Random, tally: Tally, goal: "Goal") -> None:
    """Keep one kernel busy until the goal is reached."""
    seat = Seat(await sandbox.create())
    while not goal.reached(tally):
        if rng.random() < 0.02:
            await hostile(seat, rng, tally)
        elif rng.random() < 0.05:
            await fork(seat, rng, tally)
        else:
            await honest(seat, rng, tally)
    await seat.kernel.close()


async def honest(seat: Seat, rng: random.Random, tally: Tally) -> None:
    """A cell whose answer is known."""
    a, b = rng.randrange(10**6), rng.randrange(2, 10**4)
    seat.count += 1
    count = f"count = globals().get('count', 0) + 1\nassert count == {seat.count}, count\n"
    code, answer = rng.choice(
        [
            (f"{a} * {b}", str(a * b)),
            (f"print(pow({a}, {b}, 1000))", str(pow(a, b, 1000))),
            (f"import sympy\nsympy.prod(p**e for p, e in sympy.factorint({b}).items())", str(b)),
            (f"sum(i * i for i in range({b}))", str(sum(i * i for i in range(b)))),
            (f"import numpy as np\nint(np.arange({b}).sum())", str(b * (b - 1) // 2)),
        ]
    )
    result = await run(seat, count + code, tally, "honest")
    if result.error == "died" and result.state_lost:
        seat.count = 0  # a neighbour's doing is a wrong answer; an own late death is not
    elif result.error is not None or result.output.strip() != answer:
        tally.wrong.append(f"{code!r} -> {result.output[:80]!r} {result.traceback[-200:]!r}")
        seat.count = 0
        await run(seat, "count = 0", tally, "reset")


async def hostile(seat: Seat, rng: random.Random, tally: Tally) -> None:
    """A cell that does harm; afterwards the kernel has its old state or says that it is gone."""
    name = rng.choice(sorted(HOSTILE))
    result = await run(seat, HOSTILE[name], tally, name, timeout=0.5)
    if result.error is None and name in ("flood", "exit", "crash", "fork", "spin", "stubborn"):
        tally.wrong.append(f"{name} succeeded")
    # What the cell left behind (threads, closed descriptors) may kill the kernel a little later.
    for _ in range(2):
        after = await run(seat, "globals().get('count', 0)", tally, "after", timeout=5)
        if after.error is None:
            seat.count = int(after.output)
            return
    tally.wrong.append(f"no recovery after {name}: {after.error} {after.traceback[-200:]!r}")


async def fork(seat: Seat, rng: random.Random, tally: Tally) -> None:
    """Go on in a fork, or in the old kernel."""
    try:
        child = await seat.kernel.fork()
    except SandboxError as error:
        tally.wrong.append(f"fork: {error}")
        return
    tally.forks += 1
    kept, dropped = (child, seat.kernel) if rng.random() < 0.5 else (seat.kernel, child)
    await dropped.close()
    seat.kernel = kept


async def run(seat: Seat, code: str, tally: Tally, name: str, timeout: float = 20) -> CellResult:
    result = await seat.kernel.run(code, timeout=timeout, deadline=NEVER)
    tally.cells[name] += 1
    if result.output.startswith(LOST_FILES):  # which an earlier "files" cell made too large
        result = replace(result, output=result.output.partition("\n")[2])
    tally.recoveries += result.state_lost or result.traceback.endswith("before this cell")
    return result


@dataclass
class Goal:
    cells: int
    until: float

    def reached(self, tally: Tally) -> bool:
        return tally.cells.total() >= self.cells and time.monotonic() >= self.until


async def tell(tally: Tally) -> None:
    """A line on standard error every half minute."""
    while True:
        await asyncio.sleep(30)
        print(f"{tally.cells.total()} cells, {len(tally.wrong)} wrong", file=sys.stderr)


async def watch(stalls: list[float]) -> None:
    """How much later than asked the event loop wakes us, in seconds."""
    while True:
        start = time.perf_counter()
        await asyncio.sleep(0.005)
        stalls.append(time.perf_counter() - start - 0.005)


def figures() -> dict[str, float]:
    """Processes below us, our descriptors and memory."""
    gc.collect()
    me = psutil.Process()
    family = me.children(recursive=True)
    return {
        "processes": len(family),
        "descriptors": me.num_fds(),
        "host_mib": round(me.memory_info().rss / 2**20, 1),
    }


def zygote_figures() -> dict[str, float]:
    """Memory and descriptors of the largest process below us that is a zygote, in MiB."""
    first = psutil.Process().children()[0]
    zygote = (first.children() or [first])[0]
    return {
        "zygote_uss_mib": round(zygote.memory_full_info().uss / 2**20, 1),
        "zygote_descriptors": zygote.num_fds(),
    }


async def soak(cells: int, seconds: float, kernels: int, seed: int) -> dict[str, object]:
    start = figures()
    tally, stalls = Tally(), list[float]()
    async with ForkSandbox(KernelConfig(memory_mib=1024), seed=seed) as sandbox:
        await sandbox.report()
        warm = figures() | zygote_figures()
        watchers = [asyncio.create_task(watch(stalls)), asyncio.create_task(tell(tally))]
        goal, begun = Goal(cells, time.monotonic() + seconds), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for index in range(kernels):
                group.create_task(work(sandbox, random.Random(seed + index), tally, goal))
        took = time.monotonic() - begun
        for watcher in watchers:
            watcher.cancel()
        await asyncio.sleep(1)
        idle = figures() | zygote_figures()
    end = figures()
    stalls.sort()
    return {
        "kernels": kernels,
        "seconds": round(took),
        "cells": dict(tally.cells),
        "cells_total": tally.cells.total(),
        "forks": tally.forks,
        "recoveries": tally.recoveries,
        "wrong": len(tally.wrong),
        "wrong_examples": tally.wrong[:5],
        "stall_ms": {
            name: round(1000 * stalls[min(int(len(stalls) * share), len(stalls) - 1)], 1)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1))
        },
        "before": start,
        "warm": warm,
        "all_kernels_closed": idle,
        "after": end,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--kernels", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(soak(**vars(options))), indent=2))


if __name__ == "__main__":
    main()
