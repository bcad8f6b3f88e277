"""The sandbox beside what others use, in one run: medians and 90th percentiles.

    python benchmarks/sandbox.py --jupyter-python VENV/bin/python

`VENV` is a throw-away environment with jupyter_client, ipykernel and the same numpy, sympy, scipy
and networkx; without it, that row is left out. Rows: this sandbox (every layer of this machine;
with and without checkpoints; without layers), Jupyter, a new Python process for each cell, and
`exec` in a pool of threads as the floor, which isolates nothing and keeps no state apart.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import functools
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from aimo2.deadline import NEVER
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.sandbox.kernel import ForkKernel
from aimo2.sandbox.report import LAYERS

FIRST = "import sympy\nprint(sympy.factor(sympy.Symbol('x') ** 6 - 1))"
CELL = "print(2 + 2)"
STATE = "import numpy\nstate = numpy.random.rand(6_553_600)"  # 50 MiB
PAUSE = 0.02
"""Seconds before a "paused" cell, as a model thinks between cells; a checkpoint is made in them."""
Row = dict[str, Any]


async def sandbox_row(trials: int, kernels: int, layers: bool, checkpoints: bool) -> Row:
    chosen = LAYERS if layers else ()
    async with ForkSandbox(layers=chosen, checkpoints=checkpoints) as sandbox:
        begun = time.perf_counter()
        await sandbox.report()
        row: Row = {"zygote_seconds": time.perf_counter() - begun}

        async def first() -> None:
            kernel = await sandbox.create()
            assert await run(kernel, FIRST)
            spent.append(kernel)

        spent: list[ForkKernel] = []
        row["start"] = await times(trials, first, lambda: close_all(spent))
        kernel = await sandbox.create()
        row["cell"] = await times(max(trials, 200), lambda: run(kernel, CELL))
        row["paused"] = await times(
            max(trials, 200), lambda: run(kernel, CELL), lambda: asyncio.sleep(PAUSE)
        )
        await run(kernel, STATE)

        async def fork() -> None:
            spent.append(await kernel.fork())
            await run(spent[-1], "state[0] = 1")

        async def bare_fork() -> None:
            spent.append(await kernel.fork())

        row["fork_50_mib"] = await times(trials, bare_fork, lambda: rest(sandbox, kernel, spent))
        row["fork_50_mib_and_cell"] = await times(
            trials, fork, lambda: rest(sandbox, kernel, spent)
        )
        await kernel.close()
        return row | await sandbox_many(sandbox, kernels)


async def rest(sandbox: ForkSandbox, kernel: ForkKernel, spent: list[ForkKernel]) -> None:
    """Between trials: close what was made, and let the kernel make its checkpoint."""
    await close_all(spent)
    if kernel._renewal is not None:
        await kernel._renewal


async def sandbox_many(sandbox: ForkSandbox, kernels: int) -> Row:
    before = set(psutil.Process().children(True))
    fleet = [await sandbox.create() for _ in range(kernels)]
    for kernel in fleet:
        await run(kernel, FIRST)
        if kernel._renewal is not None:
            await kernel._renewal
    new = set(psutil.Process().children(True)) - before
    memory = [process.memory_full_info().uss / 2**20 for process in new]
    rate = await throughput([functools.partial(run, kernel, CELL) for kernel in fleet])
    await close_all(fleet)
    return {"uss_mib": [sum(memory) / kernels], "cells_per_second": rate}


async def run(kernel: ForkKernel, code: str) -> str:
    result = await kernel.run(code, timeout=60, deadline=NEVER)
    assert result.error is None, result
    return result.output


async def close_all(kernels: list[ForkKernel]) -> None:
    while kernels:
        await kernels.pop().close()


async def times(
    trials: int,
    work: Callable[[], Awaitable[object]],
    between: Callable[[], Awaitable[object]] | None = None,
) -> list[float]:
    """Seconds of each trial."""
    taken = []
    for _ in range(trials):
        begun = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - begun)
        if between is not None:
            await between()
    return taken


async def throughput(clients: list[Callable[[], Awaitable[object]]], seconds: float = 5) -> float:
    """Cells a second of all clients together."""
    begun, done = time.perf_counter(), 0

    async def keep_busy(client: Callable[[], Awaitable[object]]) -> None:
        nonlocal done
        while time.perf_counter() - begun < seconds:
            await client()
            done += 1

    await asyncio.gather(*(keep_busy(client) for client in clients))
    return done / (time.perf_counter() - begun)


async def process_row(trials: int) -> Row:
    """A new interpreter for each cell: its first cell is every cell."""

    async def cell() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FIRST, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert output

    taken = await times(trials, cell)
    gate = asyncio.Semaphore(os.cpu_count() or 1)

    async def gated() -> None:
        async with gate:
            await cell()

    return {"start": taken, "cell": taken, "cells_per_second": await throughput([gated] * 64)}


async def exec_row(trials: int) -> Row:
    """The floor: `exec` in a thread of this process, with SymPy imported."""
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def call(code: str) -> str:
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                exec(code, {})
            return text.getvalue()

        await loop.run_in_executor(pool, call, FIRST)
        return {
            "start": await times(trials, lambda: loop.run_in_executor(pool, call, FIRST)),
            "cell": await times(max(trials, 200), lambda: loop.run_in_executor(pool, call, CELL)),
            "paused": await times(
                max(trials, 200),
                lambda: loop.run_in_executor(pool, call, CELL),
                lambda: asyncio.sleep(PAUSE),
            ),
            "cells_per_second": await throughput(
                [lambda: loop.run_in_executor(pool, call, CELL)] * 64
            ),
        }


def jupyter_row(python: str, trials: int, kernels: int) -> Row:
    plan = {"trials": trials, "kernels": kernels, "first": FIRST, "cell": CELL, "pause": PAUSE}
    side = Path(__file__).with_name("jupyter_side.py")
    finished = subprocess.run(
        [python, str(side), json.dumps(plan)], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(f"the Jupyter half failed: {finished.stderr.strip()[-2000:]}")
    row: Row = json.loads(finished.stdout)
    return row


def show(rows: dict[str, Row]) -> None:
    """A Markdown table: median / 90th percentile, times in milliseconds."""
    columns = {
        "start": ("first result, SymPy ready (ms)", 1000),
        "cell": ("cell, back to back (ms)", 1000),
        "paused": ("cell after a pause (ms)", 1000),
        "fork_50_mib": ("fork, 50 MiB of state (ms)", 1000),
        "fork_50_mib_and_cell": ("fork and a cell in it (ms)", 1000),
        "uss_mib": ("USS a kernel (MiB)", 1),
    }
    print("| | " + " | ".join(title for title, _ in columns.values()) + " | cells/s, all |")
    print("|---" * (len(columns) + 2) + "|")
    for name, row in rows.items():
        cells = [
            spread(row[key], scale) if key in row else "–" for key, (_, scale) in columns.items()
        ]
        print(f"| {name} | " + " | ".join(cells) + f" | {row['cells_per_second']:,.0f} |")


def spread(values: list[float], scale: float) -> str:
    """Median, and the 90th percentile where there are several values."""
    middle = statistics.median(values) * scale
    if len(values) < 10:
        return f"{middle:.2f}"
    return f"{middle:.2f} / {statistics.quantiles(values, n=10)[-1] * scale:.2f}"


async def measure(options: argparse.Namespace) -> dict[str, Row]:
    trials, kernels = options.trials, options.kernels
    rows = {}
    if options.jupyter_python:
        rows["Jupyter"] = await asyncio.to_thread(
            jupyter_row, options.jupyter_python, trials, kernels
        )
    rows["a process a cell"] = await process_row(trials)
    rows["this sandbox"] = await sandbox_row(trials, kernels, True, False)
    rows["this sandbox, checkpoints"] = await sandbox_row(trials, kernels, True, True)
    rows["this sandbox, no layers"] = await sandbox_row(trials, kernels, False, False)
    rows["exec in a thread"] = await exec_row(trials)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kernels", type=int, default=64)
    parser.add_argument("--jupyter-python", default=None)
    parser.add_argument("--json", type=Path, default=None, help="write every value here")
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, ")
    print(f"{options.trials} trials, {options.kernels} kernels; median / 90th percentile\n")
    show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
