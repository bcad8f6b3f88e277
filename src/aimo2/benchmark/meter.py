"""Meter a model and a sandbox: when each token and each cell's result arrived.

Knows no servers and no workloads.
"""

import asyncio
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field
from typing import Literal

from aimo2.deadline import Deadline
from aimo2.llm import Chunk, Conversation, Model, PromptUse, Sampling
from aimo2.sandbox import CellResult, Kernel, Sandbox

State = Literal["open", "finished", "closed", "failed"]


@dataclass(slots=True)
class Call:
    """One call of a model. Instants are seconds on the event loop's clock.

    `instants` and `counts`: when tokens arrived, and how many together. `state`: "closed" where
    the caller ended the stream, as at a code block. `error`: one line of a failed call. `prompt`:
    what the server said of its prefix cache.
    """

    begun: float
    ended: float = 0.0
    state: State = "open"
    error: str = ""
    prompt: PromptUse | None = None
    instants: "array[float]" = field(default_factory=lambda: array("d"))
    counts: "array[int]" = field(default_factory=lambda: array("l"))

    @property
    def num_tokens(self) -> int:
        """Tokens received."""
        return sum(self.counts)


class MeteredModel:
    """A `Model` that remembers every call of another.

    `on_tokens` hears how many tokens have just arrived; it must return at once. `gate`: held by
    each stream, so that no more than so many run; the wait for it belongs to no call.
    """

    def __init__(
        self,
        model: Model,
        on_tokens: Callable[[int], None] = lambda number: None,
        gate: asyncio.Semaphore | None = None,
    ) -> None:
        self._model = model
        self._on_tokens = on_tokens
        self._gate = gate
        self.calls: list[Call] = []

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        """As the model's own."""
        async with (
            self._gate or nullcontext(),
            aclosing(self._metered(conversation, sampling, deadline)) as chunks,
        ):
            async for chunk in chunks:
                yield chunk

    async def _metered(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        now = asyncio.get_running_loop().time
        call = Call(begun=now())
        self.calls.append(call)
        try:
            async with aclosing(self._model.stream(conversation, sampling, deadline)) as chunks:
                async for chunk in chunks:
                    call.prompt = chunk.prompt
                    if chunk.num_tokens:
                        call.instants.append(now())
                        call.counts.append(chunk.num_tokens)
                        self._on_tokens(chunk.num_tokens)
                    yield chunk
            call.state = "finished"
        except (GeneratorExit, asyncio.CancelledError):
            call.state = "closed"
            raise
        except BaseException as error:
            call.state, call.error = "failed", str(error) or type(error).__name__
            raise
        finally:
            call.ended = now()


@dataclass(slots=True)
class Cell:
    """One code run, the making of its kernel included. Instants as in `Call`; 0 before they come.

    `seconds`: of the code alone. `done`: whether it came to a result, even to an error.
    """

    begun: float
    ended: float = 0.0
    seconds: float = 0.0
    done: bool = False
    failed: bool = False


class MeteredSandbox:
    """A `Sandbox` that remembers every cell of another, which stays its owner's to close.

    `gate`: held by each running cell; the wait for it belongs to no cell.
    """

    def __init__(self, sandbox: Sandbox, gate: asyncio.Semaphore | None = None) -> None:
        self._sandbox = sandbox
        self.gate = gate
        self.cells: list[Cell] = []

    async def create(self) -> "MeteredKernel":
        """As the sandbox's own."""
        begun = asyncio.get_running_loop().time()
        return self.wrap(await self._sandbox.create(), begun)

    def wrap(self, kernel: Kernel, begun: float) -> "MeteredKernel":
        """A kernel that was asked for at the instant `begun`."""
        return MeteredKernel(self, kernel, asyncio.get_running_loop().time() - begun)

    async def __aenter__(self) -> "MeteredSandbox":
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing of its own is open."""


class MeteredKernel:
    """A kernel of a `MeteredSandbox`. `owed`: seconds that it took to make; its first cell's."""

    def __init__(self, meter: MeteredSandbox, kernel: Kernel, owed: float) -> None:
        self._meter = meter
        self._kernel = kernel
        self._owed = owed

    async def run(self, code: str, *, timeout: float, deadline: Deadline) -> CellResult:
        """As the kernel's own."""
        now = asyncio.get_running_loop().time
        async with self._meter.gate or nullcontext():
            cell = Cell(now() - self._owed)
            self._owed = 0.0
            self._meter.cells.append(cell)
            try:
                result = await self._kernel.run(code, timeout=timeout, deadline=deadline)
            finally:
                cell.ended = now()
            cell.done, cell.seconds, cell.failed = True, result.seconds, result.error is not None
            return result

    async def fork(self, *, reseed: int | None = None) -> "MeteredKernel":
        """As the kernel's own."""
        begun = asyncio.get_running_loop().time()
        return self._meter.wrap(await self._kernel.fork(reseed=reseed), begun)

    async def close(self) -> None:
        """As the kernel's own."""
        await self._kernel.close()
