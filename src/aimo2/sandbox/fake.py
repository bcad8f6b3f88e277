"""A scripted sandbox for tests of what uses one. Knows no processes and runs no code.

A script is a function of the cell's text and the kernel's namespace. What it returns drives the
rest: `seconds` passes on the event loop's clock, so that a virtual clock jumps over it; more
seconds than the cell has make a time-out; `state_lost` empties the namespace, as a death does.
"""

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from aimo2.deadline import Deadline
from aimo2.errors import SandboxError
from aimo2.sandbox import CellResult

__all__ = ["FakeKernel", "FakeSandbox", "Script"]

Script = Callable[[str, dict[str, Any]], CellResult]
"""What a cell does: (code, namespace) -> result. It may change the namespace, and may raise
`SandboxError` for a kernel that cannot be brought back."""


@dataclass(eq=False, slots=True)
class FakeKernel:
    """One scripted kernel and the record of what was asked of it."""

    script: Script
    namespace: dict[str, Any] = field(default_factory=dict)
    parent: "FakeKernel | None" = None
    """The kernel that this one was forked from."""
    reseed: int | None = None
    """What `fork` was given for this kernel."""
    cells: list[str] = field(default_factory=list)
    """Every cell asked for, those that were cancelled included."""
    cancelled: int = 0
    """Cells whose `run` was cancelled."""
    closed: bool = False
    family: "list[FakeKernel]" = field(default_factory=list, repr=False)
    """Where forks are recorded: the sandbox's list."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def run(self, code: str, *, timeout: float, deadline: Deadline) -> CellResult:
        """Run the script; its result arrives after `seconds` on the loop's clock."""
        self._require_open()
        self.cells.append(code)
        try:
            async with self._lock:
                return await self._play(code, min(timeout, deadline.remaining()))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _play(self, code: str, limit: float) -> CellResult:
        result = self.script(code, self.namespace)
        if result.state_lost:
            self.namespace.clear()
        await asyncio.sleep(min(result.seconds, limit))
        if result.seconds <= limit:
            return result
        return replace(result, error="timeout", traceback="TimeoutError", seconds=limit)

    async def fork(self, *, reseed: int | None = None) -> "FakeKernel":
        """A kernel with a deep copy of the namespace."""
        self._require_open()
        async with self._lock:
            copied = copy.deepcopy(self.namespace)
        child = FakeKernel(self.script, copied, self, reseed, family=self.family)
        self.family.append(child)
        return child

    async def close(self) -> None:
        """Mark as closed."""
        self.closed = True

    def _require_open(self) -> None:
        if self.closed:
            raise SandboxError("the kernel is closed: create a new one")


@dataclass(eq=False, slots=True)
class FakeSandbox:
    """Makes scripted kernels and keeps them all, forks included, in `kernels`."""

    script: Script
    kernels: list[FakeKernel] = field(default_factory=list)
    entered: bool = False
    exited: bool = False

    async def create(self) -> FakeKernel:
        """A kernel with an empty namespace."""
        if not self.entered or self.exited:
            raise SandboxError("the sandbox is not open: use it with `async with`")
        kernel = FakeKernel(self.script, family=self.kernels)
        self.kernels.append(kernel)
        return kernel

    async def __aenter__(self) -> "FakeSandbox":
        self.entered = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.exited = True
        for kernel in self.kernels:
            await kernel.close()

    @property
    def open_kernels(self) -> list[FakeKernel]:
        """Those that nobody has closed."""
        return [kernel for kernel in self.kernels if not kernel.closed]
