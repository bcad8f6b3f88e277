"""One replica as its router sees it: load, prefixes, silence. Knows no HTTP and chooses nothing."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from aimo2.deadline import Deadline
from aimo2.errors import ModelUnavailable
from aimo2.llm import Chunk, Model
from aimo2.llm.features import Features
from aimo2.policy.route import PrefixIndex


class Replica(Model, Protocol):
    """What is routed to: a model that can be connected."""

    @property
    def features(self) -> Features:
        """What works with it."""
        ...

    @property
    def name(self) -> str:
        """The served model's name."""
        ...

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and reply together."""
        ...

    async def connect(self, deadline: Deadline) -> Features:
        """Find out what there is."""
        ...

    async def check(self, name: str | None, deadline: Deadline) -> None:
        """See that it answers, and serves `name`. Raises `ConfigError` or `ModelError`."""
        ...


@dataclass(slots=True)
class Counters:
    """What one replica was given. `num_blocks` and `num_cached`: of prompts, as predicted."""

    num_requests: int = 0
    num_tokens: int = 0
    num_failures: int = 0
    num_blocks: int = 0
    num_cached: int = 0


class Wait:
    """One stream's waiting for its next chunk, which can be broken off from outside.

    Costs nothing a chunk: no task and no timer of its own.
    """

    def __init__(self) -> None:
        self.since = 0.0
        """When the wait began, on the loop's clock."""
        self._task: asyncio.Task[object] | None = None
        self._why = ""

    @property
    def waiting(self) -> bool:
        """Whether the stream waits now, and not its reader."""
        return self._task is not None

    async def next(self, chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
        """The next chunk, `None` at the end. Raises `ModelUnavailable` where it is broken off."""
        task = asyncio.current_task()
        assert task is not None
        num_cancels = task.cancelling()
        self._task, self.since = task, asyncio.get_running_loop().time()
        try:
            return await anext(chunks, None)
        except asyncio.CancelledError:
            if self._why and task.uncancel() <= num_cancels:
                raise ModelUnavailable(self._why) from None
            raise
        finally:
            self._task = None

    def break_off(self, why: str) -> None:
        """End the wait, if there is one."""
        if self._task is not None and not self._why:
            self._why = why
            self._task.cancel()


@dataclass(slots=True, eq=False)
class Seat:
    """One replica and what the router knows of it. `heard_at`: its last chunk, on the loop's clock.

    `lost`: not to be used until it has answered again; `why` says what happened.
    """

    model: Replica
    label: str
    load: int = 0
    prefixes: PrefixIndex = field(default_factory=PrefixIndex)
    counters: Counters = field(default_factory=Counters)
    waits: set[Wait] = field(default_factory=set)
    heard_at: float = 0.0
    lost: bool = False
    why: str = ""
    revival: asyncio.Task[None] | None = None

    def silence(self, now: float) -> float:
        """Seconds for which streams have waited and none of them has had a chunk."""
        waiting = [wait.since for wait in self.waits if wait.waiting]
        return now - max(self.heard_at, min(waiting)) if waiting else 0.0

    def break_off(self, why: str) -> None:
        """End every wait: the streams go on elsewhere."""
        for wait in self.waits:
            wait.break_off(why)
