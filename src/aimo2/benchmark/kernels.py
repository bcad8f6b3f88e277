"""Time the sandbox on this machine: starts, cells, forks, all kernels at once, memory."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import psutil

from aimo2.deadline import NEVER
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.sandbox.kernel import ForkKernel

_FIRST = "import sympy\nprint(sympy.factor(sympy.Symbol('x') ** 6 - 1))"
_STATE = "import numpy\nstate = numpy.random.rand(6_553_600)"  # 50 MiB
_PAUSE = 0.02
"""Seconds between cells, as a model thinks between them."""
_BUSY_SECONDS = 3.0


async def measure_sandbox(trials: int, kernels: int) -> dict[str, list[float]]:
    """Name -> values. Seconds, except where the name says otherwise."""
    async with ForkSandbox() as sandbox:
        await sandbox.report()
        rows = {"start to first result with SymPy": await _starts(sandbox, trials)}
        kernel = await sandbox.create()
        await run_cell(kernel, _FIRST)
        rows["a cell, back to back"] = await times(trials, lambda: run_cell(kernel, "print(2 + 2)"))
        rows["a cell, after a pause"] = await times(
            trials, lambda: run_cell(kernel, "print(2 + 2)"), lambda: asyncio.sleep(_PAUSE)
        )
        await run_cell(kernel, _STATE)
        rows["fork with 50 MiB of state"] = await _forks(kernel, trials)
        await kernel.close()
        return rows | await _fleet(sandbox, kernels)


async def _starts(sandbox: ForkSandbox, trials: int) -> list[float]:
    made: list[ForkKernel] = []

    async def start() -> None:
        made.append(await sandbox.create())
        await run_cell(made[-1], _FIRST)

    return await times(trials, start, lambda: close_all(made))


async def _forks(kernel: ForkKernel, trials: int) -> list[float]:
    made: list[ForkKernel] = []

    async def fork() -> None:
        made.append(await kernel.fork())

    async def rest() -> None:
        await close_all(made)
        await asyncio.sleep(_PAUSE)

    return await times(trials, fork, rest)


async def _fleet(sandbox: ForkSandbox, number: int) -> dict[str, list[float]]:
    before = set(psutil.Process().children(True))
    fleet = [await sandbox.create() for _ in range(number)]
    for kernel in fleet:
        await run_cell(kernel, _FIRST)
    await asyncio.sleep(10 * _PAUSE)
    memory = 0.0
    for process in set(psutil.Process().children(True)) - before:
        try:
            memory += process.memory_full_info().uss
        except psutil.Error:
            continue
    begun, done = time.perf_counter(), 0

    async def keep_busy(kernel: ForkKernel) -> None:
        nonlocal done
        while time.perf_counter() - begun < _BUSY_SECONDS:
            await run_cell(kernel, "print(2 + 2)")
            done += 1

    await asyncio.gather(*(keep_busy(kernel) for kernel in fleet))
    rate = done / (time.perf_counter() - begun)
    await close_all(fleet)
    return {
        f"private memory of an idle kernel, of {number} (MiB)": [memory / number / 2**20],
        f"cells a second, {number} kernels at once": [rate],
    }


async def run_cell(kernel: ForkKernel, code: str) -> str:
    """Run a cell that cannot fail; its output."""
    result = await kernel.run(code, timeout=60, deadline=NEVER)
    if result.error is not None:
        raise RuntimeError(f"a cell of the benchmark failed: {result.traceback}")
    return result.output


async def close_all(kernels: list[ForkKernel]) -> None:
    """Close them and empty the list."""
    while kernels:
        await kernels.pop().close()


async def times(
    trials: int,
    work: Callable[[], Awaitable[object]],
    between: Callable[[], Awaitable[object]] | None = None,
) -> list[float]:
    """Seconds of each trial; what is done `between` them is not measured."""
    taken = []
    for _ in range(trials):
        begun = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - begun)
        if between is not None:
            await between()
    return taken
