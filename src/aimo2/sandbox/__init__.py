"""The seam to the interpreter: create, run, fork, close. Knows no processes and no models."""

from dataclasses import dataclass
from typing import Protocol

from aimo2.deadline import Deadline
from aimo2.types import ErrorKind

__all__ = ["CellResult", "ErrorKind", "Kernel", "Sandbox"]


@dataclass(frozen=True, slots=True)
class CellResult:
    """What one cell did.

    `output`: printed text and the shown value of a bare last expression, at most the byte limit.
    `error`: `None` when the cell succeeded. `traceback`: for a failed cell, trimmed to the
    frames of the cell, ending in the exception's line; empty otherwise; not part of `output`.
    `seconds`: wall-clock time of the cell alone. `bytes_dropped`: output beyond the limit.
    `state_lost`: the namespace is gone and the kernel starts empty with the next cell.
    """

    output: str
    error: ErrorKind | None = None
    traceback: str = ""
    seconds: float = 0.0
    bytes_dropped: int = 0
    state_lost: bool = False


class Kernel(Protocol):
    """One stateful interpreter. Cells run one at a time, in the order they were asked for."""

    async def run(self, code: str, *, timeout: float, deadline: Deadline) -> CellResult:
        """Run one cell, at most `timeout` seconds and never past the deadline.

        A cell's failure, time-out or death is a result, not an exception. The kernel stays
        usable after each. Cancelling the call stops the cell.

        Raises `SandboxError` where the kernel was closed or cannot be brought back.
        """
        ...

    async def fork(self, *, reseed: int | None = None) -> "Kernel":
        """A second kernel with the same namespace, independent from then on.

        `reseed`: seed for the child's `random` and `numpy.random`; `None` keeps their states.

        Raises `SandboxError` where the kernel was closed or cannot be forked.
        """
        ...

    async def close(self) -> None:
        """End the interpreter. Idempotent."""
        ...


class Sandbox(Protocol):
    """Makes kernels. An asynchronous context manager: leaving it ends every kernel."""

    async def create(self) -> Kernel:
        """A fresh kernel, ready to run. Raises `SandboxError`."""
        ...

    async def __aenter__(self) -> "Sandbox": ...

    async def __aexit__(self, *exc: object) -> None: ...
