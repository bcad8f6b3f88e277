"""One warm sandbox for all tests of kernels: its start costs a second."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from aimo2.config import KernelConfig
from aimo2.deadline import NEVER
from aimo2.sandbox import CellResult
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.sandbox.kernel import ForkKernel

T = TypeVar("T")


class Lab:
    """A sandbox and the event loop that it lives on."""

    def __init__(self, runner: asyncio.Runner, sandbox: ForkSandbox) -> None:
        self.sandbox = sandbox
        self._runner = runner

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the sandbox's loop."""
        return self._runner.run(work)

    def cells(self, *codes: str, timeout: float = 20) -> list[CellResult]:
        """Run cells in one fresh kernel."""

        async def main() -> list[CellResult]:
            kernel = await self.sandbox.create()
            try:
                return [await run(kernel, code, timeout) for code in codes]
            finally:
                await kernel.close()

        return self.do(main())


async def run(kernel: ForkKernel, code: str, timeout: float = 20) -> CellResult:
    """One cell without a deadline."""
    return await kernel.run(code, timeout=timeout, deadline=NEVER)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)


def _lab(**options: Any) -> Iterator[Lab]:
    with asyncio.Runner() as runner:
        sandbox = ForkSandbox(KernelConfig(memory_mib=512, output_bytes=4096), **options)
        runner.run(sandbox.__aenter__())
        try:
            yield Lab(runner, sandbox)
        finally:
            runner.run(sandbox.__aexit__())


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A sandbox with every layer of this machine, without checkpoints."""
    yield from _lab(checkpoints=False, concurrency=2)


@pytest.fixture(scope="session")
def keeper() -> Iterator[Lab]:
    """The same with checkpoints."""
    yield from _lab(checkpoints=True)


@pytest.fixture
def one_cell(lab: Lab) -> Callable[[str], CellResult]:
    """Run one cell in a fresh kernel."""
    return lambda code: lab.cells(code)[0]
