"""One `Model` over several replicas: sends each stream where its prefix is, and survives deaths.

Knows no HTTP and starts no servers; which replica to take is `policy.route`'s. A stream whose
replica dies goes on with another one from its text: with greedy decoding the reply is the same as
without the death; with sampling the rest is drawn anew, from the same distribution.

A replica that is alive and says nothing counts as dead, too: it is asked for its models once all
its streams have been silent for a while, and given up after a silence that is long for any replica.
Whether a lost one is back is found out beside the streams, with a token of our own.
"""

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

from aimo2.deadline import Deadline
from aimo2.errors import (
    ConfigError,
    DeadlinePassed,
    ModelError,
    ModelUnavailable,
    RequestRejected,
)
from aimo2.llm import Chunk, Conversation, Message, Sampling
from aimo2.llm.features import Features
from aimo2.llm.seat import Counters, Replica, Seat, Wait
from aimo2.llm.transport import Unavailable
from aimo2.policy.route import Candidate, blocks, choose

__all__ = ["Counters", "Replica", "RoutedModel"]

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
_PATIENCE = 60.0
"""Seconds with no replica at all, after which a stream fails."""
_LATECOMER = 10.0
"""Seconds that the others get to connect once one replica is there."""
_LOOK = 5.0
"""Seconds between two looks at the replicas that streams wait for."""
_SILENT = 20.0
"""Seconds without a chunk on any stream of a replica, after which it is asked for its models."""
_ANSWER = 10.0
"""Seconds that it has for that."""
_HUNG = 120.0
"""Seconds of silence after which it is given up although it answers: its engine may hang."""
_SLOWER = 5.0
"""But not before so many times the longest silence that ended in a chunk: some engines are slow."""
_TRIAL = 30.0
"""Seconds in which a replica that was lost has to sample a token."""
_TRIAL_ASK = Conversation((Message("user", "1+1?"),))


class RoutedModel:
    """A `Model` over replicas that all serve the same model; an asynchronous context manager.

    `labels`: names for people, such as base URLs. `notify` hears one line when a replica is lost
    or back. `patience`: seconds to wait where every replica is lost. `by_prefix`: whether it counts
    what a replica has cached; else each stream goes to the shortest queue, to equal ones in turn.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        labels: Sequence[str],
        *,
        notify: Callable[[str], None] = lambda line: None,
        patience: float = _PATIENCE,
        by_prefix: bool = True,
    ) -> None:
        if not replicas or len(replicas) != len(labels):
            raise ValueError(f"{len(replicas)} replicas and {len(labels)} labels")
        self._seats = [Seat(*pair) for pair in zip(replicas, labels, strict=True)]
        self._notify = notify
        self._patience = patience
        self._name: str | None = None
        self._longest_silence = 0.0
        self._one_is_back = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_prefix = by_prefix
        self._turns = itertools.count()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()  # a bug in one, or in the caller's `notify`, shows here

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

    def _reached(self) -> list[Seat]:
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
        """Reach the replicas. One that does not answer soon is used when it does.

        Raises `ConfigError` where they serve different models, `ModelUnavailable` or
        `DeadlinePassed` where none answers.
        """
        limits: set[asyncio.Timeout] = set()
        await asyncio.gather(*(self._reach(seat, deadline, limits) for seat in self._seats))
        if all(seat.lost for seat in self._seats):
            late = DeadlinePassed if deadline.passed() else ModelUnavailable
            raise late(self._all_lost())
        names = {seat.model.name: seat.label for seat in self._seats if not seat.lost}
        if len(names) > 1:
            served = ", ".join(f"{label} serves {name}" for name, label in names.items())
            raise ConfigError(f"the replicas serve different models ({served}): name one --model")
        (self._name,) = names
        return self.features

    async def _reach(self, seat: Seat, deadline: Deadline, limits: set[asyncio.Timeout]) -> None:
        """Connect one; the first to succeed leaves the others `_LATECOMER` seconds."""
        try:
            async with asyncio.timeout_at(deadline.when()) as limit:
                limits.add(limit)
                try:
                    await seat.model.connect(deadline)
                finally:
                    limits.remove(limit)
        except (ModelUnavailable, DeadlinePassed, TimeoutError) as error:
            self._lose(seat, _spoken(error))
        else:
            soon = deadline.within(_LATECOMER).at
            for other in limits:
                when = other.when()
                other.reschedule(soon if when is None else min(soon, when))

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        """Sample a continuation; see `Model.stream`."""
        texts: list[str] = []
        num_tokens = 0
        loop = asyncio.get_running_loop()
        tries = _Tries(loop.time() + self._patience)
        while True:
            seat = await self._take(conversation, "".join(texts), deadline, tries)
            asked = replace(conversation, reply=conversation.reply + "".join(texts))
            left = replace(sampling, max_tokens=sampling.max_tokens - num_tokens)
            wait = self._waiting(seat)
            try:
                async with aclosing(seat.model.stream(asked, left, deadline)) as chunks:
                    while (chunk := await wait.next(chunks)) is not None:
                        texts.append(chunk.text)
                        num_tokens += chunk.num_tokens
                        seat.counters.num_tokens += chunk.num_tokens
                        tries.give_up = self._heard(seat, wait) + self._patience
                        yield chunk
                return
            except ModelUnavailable as error:
                if isinstance(error, Unavailable) and error.reached:  # perhaps only this request
                    seat.counters.num_failures += 1
                    tries.refused(seat, error)
                else:
                    self._lose(seat, str(error))
                if num_tokens and not self.features.exact_continuation:
                    raise
            finally:
                self._leave(seat, wait, conversation, "".join(texts))
            if num_tokens >= sampling.max_tokens:
                yield Chunk("", 0, (), "length")
                return

    async def _take(
        self, conversation: Conversation, more: str, deadline: Deadline, tries: "_Tries"
    ) -> Seat:
        """A seat on a replica; waits where none is to be had, until `tries.give_up`."""
        numbers = blocks(_text(conversation) + more)
        while True:
            alive = {i: seat for i, seat in enumerate(self._seats) if not seat.lost}
            usable = {i: seat for i, seat in alive.items() if seat not in tries.avoided}
            if usable:
                candidates = [
                    Candidate(i, seat.load, self._cached(seat, numbers))
                    for i, seat in usable.items()
                ]
                chosen = choose(candidates, self._tie(conversation, numbers))
                return self._sit(self._seats[chosen], numbers)
            if alive:
                await tries.again(deadline)
            else:
                await self._until_one_is_back(deadline, tries.give_up)

    async def _until_one_is_back(self, deadline: Deadline, give_up: float) -> None:
        if asyncio.get_running_loop().time() >= give_up:
            raise ModelUnavailable(self._all_lost())
        if deadline.passed():
            raise DeadlinePassed("the deadline came while no replica was there")
        self._one_is_back.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(give_up, deadline.at)):
                await self._one_is_back.wait()

    def _cached(self, seat: Seat, numbers: Sequence[int]) -> int:
        return seat.prefixes.cached(numbers) if self._by_prefix else 0

    def _tie(self, conversation: Conversation, numbers: Sequence[int]) -> int:
        """What decides between equal replicas: the prompt's start, or whose turn it is."""
        if not self._by_prefix:
            return next(self._turns)
        return numbers[0] if numbers else hash(_text(conversation))

    def _sit(self, seat: Seat, numbers: Sequence[int]) -> Seat:
        seat.load += 1
        seat.counters.num_requests += 1
        seat.counters.num_blocks += len(numbers)
        seat.counters.num_cached += seat.prefixes.cached(numbers)
        seat.prefixes.add(numbers)
        return seat

    def _waiting(self, seat: Seat) -> Wait:
        wait = Wait()
        seat.waits.add(wait)
        if self._watcher is None or self._watcher.done():
            self._watcher = self._begin(self._watch())
        return wait

    def _heard(self, seat: Seat, wait: Wait) -> float:
        """A chunk has come; returns the time."""
        now = asyncio.get_running_loop().time()
        silence = now - max(seat.heard_at, wait.since)
        self._longest_silence = max(self._longest_silence, silence)
        seat.heard_at = now
        self._welcome(seat)
        return now

    def _leave(self, seat: Seat, wait: Wait, conversation: Conversation, text: str) -> None:
        seat.load -= 1
        seat.waits.discard(wait)
        if not seat.lost:  # what it has sampled is in its cache, too
            seat.prefixes.add(blocks(_text(conversation) + text))

    async def _watch(self) -> None:
        """Look for replicas that hang, while streams are there."""
        while any(seat.waits for seat in self._seats):
            await asyncio.sleep(_LOOK)
            await asyncio.gather(*(self._look_at(seat) for seat in self._seats))

    async def _look_at(self, seat: Seat) -> None:
        loop = asyncio.get_running_loop()
        silence = seat.silence(loop.time())
        if seat.lost or silence <= _SILENT:
            return
        why = f"it has sent nothing for {silence:.0f} s"
        if silence <= self._hung_after():
            try:
                await seat.model.check(self._name, Deadline.after(_ANSWER))
                return
            except RequestRejected:
                return  # an answer
            except (ModelError, ConfigError) as error:
                why = f"{why}: {_spoken(error)}"
            if seat.silence(loop.time()) < silence:
                return
        self._lose(seat, why)
        seat.break_off(why)

    def _hung_after(self) -> float:
        """Seconds of silence; endless while no replica has shown how fast it is."""
        if not any(seat.counters.num_tokens for seat in self._seats):
            return math.inf
        return max(_HUNG, _SLOWER * self._longest_silence)

    def _lose(self, seat: Seat, why: str) -> None:
        seat.why = why
        if seat.lost:
            return
        seat.lost = True
        seat.counters.num_failures += 1
        seat.prefixes.clear()
        self._notify(f"replica {seat.label} is lost ({why}); the others go on")
        if seat.revival is None or seat.revival.done():
            seat.revival = self._begin(self._revive(seat))

    async def _revive(self, seat: Seat) -> None:
        """Ask a lost replica until it is back, with the right model."""
        pause = _FIRST_PAUSE
        while seat.lost:
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)
            deadline = Deadline.after(_TRIAL)
            try:
                await seat.model.check(self._name, deadline)
                trial = seat.model.stream(_TRIAL_ASK, Sampling(max_tokens=1), deadline)
                async with aclosing(trial) as chunks:
                    async for _ in chunks:
                        pass
            except (ModelError, ConfigError) as error:
                seat.why = _spoken(error)
            else:
                self._welcome(seat)

    def _welcome(self, seat: Seat) -> None:
        if seat.lost:
            seat.lost = False
            self._one_is_back.set()
            self._notify(f"replica {seat.label} is back")

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with us at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)

    def _all_lost(self) -> str:
        return "no replica answers: " + "; ".join(f"{s.label} ({s.why})" for s in self._seats)


@dataclass(slots=True)
class _Tries:
    """What one stream has tried. `give_up`: an instant on the loop's clock, moved by each chunk.

    `avoided`: replicas that answered this stream's request with an error. Others may use them: one
    bad request takes no replica out.
    """

    give_up: float
    avoided: list[Seat] = field(default_factory=list)
    pause: float = _FIRST_PAUSE
    error: Unavailable | None = None

    def refused(self, seat: Seat, error: Unavailable) -> None:
        """Keep away from a replica."""
        self.avoided.append(seat)
        self.error = error

    async def again(self, deadline: Deadline) -> None:
        """Every live replica has refused: wait and begin anew, or raise the error in the end."""
        assert self.error is not None
        if asyncio.get_running_loop().time() + self.pause >= min(self.give_up, deadline.at):
            raise self.error
        await asyncio.sleep(self.pause)
        self.pause = min(_LONGEST_PAUSE, 2 * self.pause)
        self.avoided.clear()


def _spoken(error: Exception) -> str:
    """Why a replica is not used; a deadline of ours is none that a user could move."""
    return "it does not answer" if isinstance(error, (DeadlinePassed, TimeoutError)) else str(error)


def _text(conversation: Conversation) -> str:
    """Everything that the next token depends on, in order."""
    said = "\0".join(f"{message.role}\0{message.content}" for message in conversation.messages)
    return f"{said}\0{conversation.reply}"
