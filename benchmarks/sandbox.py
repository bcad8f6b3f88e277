"""The sandbox beside what others use: medians and 90th percentiles, taken in turn.

    python benchmarks/sandbox.py --json results.json --minutes 9

Rows: this sandbox (every layer of this machine; with and without checkpoints; without layers),
Jupyter (jupyter_client and ipykernel, of this environment or of `--jupyter-python`), a new Python
process for each cell, and `exec` in a pool of threads as the floor, which isolates nothing and
keeps no state apart. The trials are made in rounds, each row a share in each round, so that what
else the machine does falls on all rows alike. With `--json`, a run that was ended, or that
`--minutes` ended, goes on where it was; `--only` measures some rows.
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

from aimo2.benchmark.kernels import close_all, run_cell, times
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.sandbox.kernel import ForkKernel
from aimo2.sandbox.report import LAYERS

FIRST = "import sympy\nprint(sympy.factor(sympy.Symbol('x') ** 6 - 1))"
CELL = "print(2 + 2)"
STATE = "import numpy\nstate = numpy.random.rand(6_553_600)"  # 50 MiB
PAUSE = 0.02
"""Seconds before a "paused" cell, as a model thinks between cells; a checkpoint is made in them."""
ROUNDS = 10
Row = dict[str, Any]
Measure = Callable[[int, int], Awaitable[Row]]


async def sandbox_row(trials: int, layers: bool, checkpoints: bool) -> Row:
    chosen = LAYERS if layers else ()
    async with ForkSandbox(layers=chosen, checkpoints=checkpoints) as sandbox:
        begun = time.perf_counter()
        await sandbox.report()
        row: Row = {"zygote_seconds": [time.perf_counter() - begun]}

        async def first() -> None:
            kernel = await sandbox.create()
            assert await run_cell(kernel, FIRST)
            spent.append(kernel)

        spent: list[ForkKernel] = []
        row["start"] = await times(trials, first, lambda: close_all(spent))
        kernel = await sandbox.create()
        row["cell"] = await times(trials, lambda: run_cell(kernel, CELL))
        row["paused"] = await times(
            trials, lambda: run_cell(kernel, CELL), lambda: asyncio.sleep(PAUSE)
        )
        await run_cell(kernel, STATE)

        async def fork() -> None:
            spent.append(await kernel.fork())
            await run_cell(spent[-1], "state[0] = 1")

        async def bare_fork() -> None:
            spent.append(await kernel.fork())

        row["fork_50_mib"] = await times(trials, bare_fork, lambda: rest(sandbox, kernel, spent))
        row["fork_50_mib_and_cell"] = await times(
            trials, fork, lambda: rest(sandbox, kernel, spent)
        )
        await kernel.close()
        return row


async def rest(sandbox: ForkSandbox, kernel: ForkKernel, spent: list[ForkKernel]) -> None:
    """Between trials: close what was made, and let the kernel make its checkpoint."""
    await close_all(spent)
    if kernel._renewal is not None:
        await kernel._renewal


async def sandbox_many(kernels: int, layers: bool, checkpoints: bool) -> Row:
    chosen = LAYERS if layers else ()
    async with ForkSandbox(layers=chosen, checkpoints=checkpoints) as sandbox:
        await sandbox.report()
        return await fleet_row(sandbox, kernels)


async def fleet_row(sandbox: ForkSandbox, kernels: int) -> Row:
    """Private memory of idle kernels, and cells a second of all together."""
    before = set(psutil.Process().children(True))
    fleet = [await sandbox.create() for _ in range(kernels)]
    for kernel in fleet:
        await run_cell(kernel, FIRST)
        if kernel._renewal is not None:
            await kernel._renewal
    new = set(psutil.Process().children(True)) - before
    memory = [process.memory_full_info().uss / 2**20 for process in new]
    rate = await throughput([functools.partial(run_cell, kernel, CELL) for kernel in fleet])
    await close_all(fleet)
    return {"uss_mib": [sum(memory) / kernels], "cells_per_second": [rate]}


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
    return {"start": taken, "cell": taken}


async def process_many() -> Row:
    """As many at a time as there are cores."""
    gate = asyncio.Semaphore(os.cpu_count() or 1)

    async def gated() -> None:
        async with gate:
            await process_row(1)

    return {"cells_per_second": [await throughput([gated] * 64)]}


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
            "cell": await times(trials, lambda: loop.run_in_executor(pool, call, CELL)),
            "paused": await times(
                trials,
                lambda: loop.run_in_executor(pool, call, CELL),
                lambda: asyncio.sleep(PAUSE),
            ),
            "cells_per_second": [
                await throughput([lambda: loop.run_in_executor(pool, call, CELL)] * 64)
            ],
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
        "paused": (f"cell, {PAUSE * 1000:.0f} ms after the last (ms)", 1000),
        "fork_50_mib": ("fork, 50 MiB of state (ms)", 1000),
        "fork_50_mib_and_cell": ("fork and a cell in it (ms)", 1000),
        "uss_mib": ("USS a kernel (MiB)", 1),
        "cells_per_second": ("cells/s, all", 1),
    }
    print("| | " + " | ".join(title for title, _ in columns.values()) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        cells = [
            spread(row[key], scale) if row.get(key) else "–" for key, (_, scale) in columns.items()
        ]
        print(f"| {name} ({len(row.get('start', []))} trials) | " + " | ".join(cells) + " |")


def spread(values: list[float], scale: float) -> str:
    """Median, and the 90th percentile where there are several values."""
    middle = statistics.median(values) * scale
    if len(values) < 10:
        return f"{middle:,.2f}"
    return f"{middle:,.2f} / {statistics.quantiles(values, n=10)[-1] * scale:,.2f}"


def rows_of(options: argparse.Namespace) -> dict[str, tuple[Measure, Measure | None]]:
    """Row -> (a share of its trials, what is measured once), both of (trials, kernels)."""

    async def jupyter(trials: int, kernels: int) -> Row:
        return await asyncio.to_thread(jupyter_row, options.jupyter_python, trials, kernels)

    def ours(layers: bool, checkpoints: bool) -> tuple[Measure, Measure]:
        return (
            lambda trials, kernels: sandbox_row(trials, layers, checkpoints),
            lambda trials, kernels: sandbox_many(kernels, layers, checkpoints),
        )

    return {
        "Jupyter": (lambda trials, _: jupyter(trials, 0), lambda _, kernels: jupyter(0, kernels)),
        "a process a cell": (lambda trials, _: process_row(trials), lambda *_: process_many()),
        "this sandbox, checkpoints (the default)": ours(True, True),
        "this sandbox, no checkpoints": ours(True, False),
        "this sandbox, no layers": ours(False, False),
        "exec in a thread": (lambda trials, _: exec_row(trials), None),
    }


async def measure(options: argparse.Namespace, pieces: dict[str, Row]) -> bool:
    """Fill in what `pieces` lacks. Returns whether all is there."""
    end = time.monotonic() + 60 * options.minutes
    rows = {name: row for name, row in rows_of(options).items() if wanted(name, options.only)}
    share = -(-options.trials // ROUNDS)
    tasks = {
        f"{turn}/{name}": (row[0], share) for turn in range(ROUNDS) for name, row in rows.items()
    }
    tasks |= {f"all/{name}": (row[1], 0) for name, row in rows.items() if row[1] is not None}
    for key, (work, trials) in tasks.items():
        if key in pieces or work is None:
            continue
        if time.monotonic() > end:
            return False
        print(f"{time.strftime('%H:%M:%S')} {key}", file=sys.stderr, flush=True)
        pieces[key] = await work(trials, options.kernels)
        if options.json is not None:
            options.json.write_text(json.dumps(pieces))
    return True


def wanted(name: str, only: list[str] | None) -> bool:
    return only is None or any(word.lower() in name.lower() for word in only)


def merged(pieces: dict[str, Row]) -> dict[str, Row]:
    """Row -> figure -> the values of all rounds."""
    rows: dict[str, Row] = {}
    for key, piece in pieces.items():
        row = rows.setdefault(key.partition("/")[2], {})
        for figure, values in piece.items():
            row.setdefault(figure, []).extend(values)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kernels", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after these")
    parser.add_argument("--only", nargs="+", default=None, help="words of the rows to measure")
    parser.add_argument("--jupyter-python", default=sys.executable)
    parser.add_argument("--json", type=Path, default=None, help="kept after each share")
    options = parser.parse_args()
    pieces: dict[str, Row] = {}
    if options.json is not None and options.json.exists():
        pieces = json.loads(options.json.read_text())
    complete = asyncio.run(measure(options, pieces))
    print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, ")
    print(f"{options.kernels} kernels; median / 90th percentile\n")
    show(merged(pieces))
    if not complete:
        print("\nnot finished: the same command goes on from here")


if __name__ == "__main__":
    main()
