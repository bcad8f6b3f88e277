"""One `Model` over several replicas: sends each stream where its prefix is, and survives deaths.

Knows no HTTP and starts no servers; which replica to take is `policy.route`'s. A stream whose
replica dies goes on with another one from its text: with greedy decoding the reply is the same as
without the death; with sampling the rest is drawn anew, from the same distribution.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from aimo2.deadline import Deadline
from aimo2.errors import ConfigError, DeadlinePassed, ModelUnavailable
from aimo2.llm import Chunk, Conversation, Model, Sampling
from aimo2.llm.features import Features
from aimo2.policy.route import Candidate, PrefixIndex, blocks, choose

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
_PATIENCE = 60.0
"""Seconds with no replica at all, after which a stream fails."""


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


@dataclass(slots=True)
class Counters:
    """What one replica was given. `num_blocks` and `num_cached`: of prompts, as predicted."""

    num_requests: int = 0
    num_tokens: int = 0
    num_failures: int = 0
    num_blocks: int = 0
    num_cached: int = 0


@dataclass(slots=True)
class _Seat:
    """One replica and what the router knows of it. `retry_at`: on the loop's clock."""

    model: Replica
    label: str
    load: int = 0
    prefixes: PrefixIndex = field(default_factory=PrefixIndex)
    counters: Counters = field(default_factory=Counters)
    lost: bool = False
    on_trial: bool = False
    pause: float = _FIRST_PAUSE
    retry_at: float = 0.0
    why: str = ""

    def usable(self, now: float) -> bool:
        """Whether a stream may be sent there: alive, or due for one trial."""
        return not self.lost or (now >= self.retry_at and not self.on_trial)


class RoutedModel:
    """A `Model` over replicas that all serve the same model.

    `labels`: names for people, such as base URLs. `notify` hears one line when a replica is lost
    or back. `patience`: seconds to wait where every replica is lost.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        labels: Sequence[str],
        *,
        notify: Callable[[str], None] = lambda line: None,
        patience: float = _PATIENCE,
    ) -> None:
        if not replicas or len(replicas) != len(labels):
            raise ValueError(f"{len(replicas)} replicas and {len(labels)} labels")
        self._seats = [_Seat(*pair) for pair in zip(replicas, labels, strict=True)]
        self._notify = notify
        self._patience = patience

    @property
    def counters(self) -> tuple[Counters, ...]:
        """Of each replica, in order."""
        return tuple(seat.counters for seat in self._seats)

    @property
    def loads(self) -> tuple[int, ...]:
        """Streams in flight on each replica."""
        return tuple(seat.load for seat in self._seats)

    @property
    def features(self) -> Features:
        """What works with every replica that was reached."""
        found = [seat.model.features for seat in self._reached()]
        return replace(
            found[0],
            exact_continuation=all(each.exact_continuation for each in found),
            logprobs=all(each.logprobs for each in found),
            min_p=all(each.min_p for each in found),
            seed=all(each.seed for each in found),
            reduced=tuple(dict.fromkeys(line for each in found for line in each.reduced)),
        )

    @property
    def name(self) -> str:
        """The served model's name."""
        return self._reached()[0].model.name

    @property
    def context_length(self) -> int | None:
        """The shortest that any replica has."""
        lengths = [seat.model.context_length for seat in self._reached()]
        return min((length for length in lengths if length is not None), default=None)

    def _reached(self) -> list[_Seat]:
        found = []
        for seat in self._seats:
            try:
                _ = seat.model.name
            except RuntimeError:
                continue
            found.append(seat)
        if not found:
            raise RuntimeError("call connect() first")
        return found

    async def connect(self, deadline: Deadline) -> Features:
        """Reach the replicas. One that does not answer now is used when it does.

        Raises `ConfigError` where they serve different models, `ModelUnavailable` where none
        answers.
        """
        await asyncio.gather(*(self._reach(seat, deadline) for seat in self._seats))
        if all(seat.lost for seat in self._seats):
            raise ModelUnavailable(self._all_lost())
        names = {seat.model.name: seat.label for seat in self._seats if not seat.lost}
        if len(names) > 1:
            served = ", ".join(f"{label} serves {name}" for name, label in names.items())
            raise ConfigError(f"the replicas serve different models ({served}): name one --model")
        return self.features

    async def _reach(self, seat: _Seat, deadline: Deadline) -> None:
        try:
            await seat.model.connect(deadline)
        except ModelUnavailable as error:
            self._lose(seat, str(error))

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        """Sample a continuation; see `Model.stream`."""
        texts: list[str] = []
        num_tokens = 0
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience
        while True:
            seat = await self._take(conversation, "".join(texts), deadline, give_up)
            asked = replace(conversation, reply=conversation.reply + "".join(texts))
            left = replace(sampling, max_tokens=sampling.max_tokens - num_tokens)
            try:
                async with aclosing(seat.model.stream(asked, left, deadline)) as chunks:
                    async for chunk in chunks:
                        texts.append(chunk.text)
                        num_tokens += chunk.num_tokens
                        seat.counters.num_tokens += chunk.num_tokens
                        self._welcome(seat)
                        give_up = loop.time() + self._patience
                        yield chunk
                return
            except ModelUnavailable as error:
                self._lose(seat, str(error))
                if num_tokens and not seat.model.features.exact_continuation:
                    raise
            finally:
                self._leave(seat, conversation, "".join(texts))
            if num_tokens >= sampling.max_tokens:
                yield Chunk("", 0, (), "length")
                return

    async def _take(
        self, conversation: Conversation, more: str, deadline: Deadline, give_up: float
    ) -> _Seat:
        """A seat on a replica; waits where none is alive, until the instant `give_up`."""
        numbers = blocks(_text(conversation) + more)
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            usable = {i: seat for i, seat in enumerate(self._seats) if seat.usable(now)}
            alive = {i: seat for i, seat in usable.items() if not seat.lost}
            if not alive and now >= give_up:
                raise ModelUnavailable(self._all_lost())
            trials = [seat for seat in usable.values() if seat.lost]
            if trials:  # one stream at a time finds out whether a lost replica is back
                trials[0].on_trial = True
                return self._sit(trials[0], numbers)
            if alive:
                candidates = [
                    Candidate(i, seat.load, seat.prefixes.cached(numbers))
                    for i, seat in alive.items()
                ]
                start = numbers[0] if numbers else hash(_text(conversation))
                return self._sit(self._seats[choose(candidates, start)], numbers)
            if deadline.passed():
                raise DeadlinePassed("the deadline came while no replica was there")
            soonest = min(seat.retry_at for seat in self._seats)
            pause = max(0.05, min(soonest, give_up, deadline.at) - now)
            await asyncio.sleep(pause)

    def _sit(self, seat: _Seat, numbers: Sequence[int]) -> _Seat:
        seat.load += 1
        seat.counters.num_requests += 1
        seat.counters.num_blocks += len(numbers)
        seat.counters.num_cached += seat.prefixes.cached(numbers)
        seat.prefixes.add(numbers)
        return seat

    def _leave(self, seat: _Seat, conversation: Conversation, text: str) -> None:
        seat.load -= 1
        seat.on_trial = False
        if not seat.lost:  # what it has sampled is in its cache, too
            seat.prefixes.add(blocks(_text(conversation) + text))

    def _lose(self, seat: _Seat, why: str) -> None:
        now = asyncio.get_running_loop().time()
        if not seat.lost:
            self._notify(f"replica {seat.label} is lost ({why}); the others go on")
            seat.counters.num_failures += 1
            seat.pause = _FIRST_PAUSE
            seat.prefixes.clear()
        elif now >= seat.retry_at:
            seat.pause = min(_LONGEST_PAUSE, seat.pause * 2)
        seat.lost, seat.why = True, why
        seat.retry_at = now + seat.pause

    def _welcome(self, seat: _Seat) -> None:
        if seat.lost:
            seat.lost = False
            self._notify(f"replica {seat.label} is back")

    def _all_lost(self) -> str:
        return "no replica answers: " + "; ".join(f"{s.label} ({s.why})" for s in self._seats)


def _text(conversation: Conversation) -> str:
    """Everything that the next token depends on, in order."""
    said = "\0".join(f"{message.role}\0{message.content}" for message in conversation.messages)
    return f"{said}\0{conversation.reply}"
