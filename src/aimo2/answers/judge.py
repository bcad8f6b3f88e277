r"""Decide equality with algebra, in worker processes that are ended at a time limit.

Most comparisons never reach a worker. A worker that hangs, dies or sends nonsense is killed and
replaced by a fresh one when the next question comes; its question counts as "not equal", with a
note. No signals and no threads are used. Knows no models and no votes.
"""

import asyncio
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import orjson

from aimo2.answers.canonical import Canonical, canonical, integer
from aimo2.answers.comparing import compare
from aimo2.answers.latex import Unreadable
from aimo2.answers.reading import read
from aimo2.config import AnswerType
from aimo2.deadline import NEVER, Deadline

DEFAULT_TIMEOUT = 3.0
_START_SECONDS = 30.0
"""For a worker to import its libraries; not part of a question's time limit."""
_LEAST_SECONDS = 0.05
"""For a further part of an answer when the earlier ones have used up the time."""
_REMEMBERED = 20_000
_LATE = {"note": "not decided before the deadline", "untried": True}
_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
_WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two answers are equal; `note` says why they count as not equal, where unclear."""

    equal: bool
    note: str | None = None


class Judge:
    """Compares answers. An asynchronous context manager: leaving it ends every worker.

    `workers`: processes at most, each started when first needed. `memory_mib`: address space of
    one worker (where the system can limit it). Belongs to one event loop.
    """

    def __init__(self, *, workers: int = 1, memory_mib: int = 1024) -> None:
        if workers < 1:
            raise ValueError(f"a judge needs 1 or more workers, not {workers}")
        self._memory_mib = memory_mib
        self._free = asyncio.Semaphore(workers)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._known: dict[tuple[str, str], tuple[Verdict, float]] = {}
        """By pair, and the time limit up to which it holds: endless where it was decided."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in list(self._all):
            await self._end(worker)

    async def warm(self) -> None:
        """Start one worker now, so that the first hard question does not wait for it."""
        async with self._free:
            await self._give_back(await self._worker())

    async def equal(
        self, a: str, b: str, *, timeout: float = DEFAULT_TIMEOUT, deadline: Deadline = NEVER
    ) -> bool:
        """Whether two raw or canonical answers are equal; `False` where that is not known in time.

        `timeout`: seconds of algebra, without the wait for a worker to be free and started.
        `deadline`: bounds everything. Symmetric in `a` and `b`.
        """
        return (await self.verdict(a, b, timeout=timeout, deadline=deadline)).equal

    async def verdict(
        self, a: str, b: str, *, timeout: float = DEFAULT_TIMEOUT, deadline: Deadline = NEVER
    ) -> Verdict:
        """As `equal`, with a note where the answers could not be read or compared.

        A pair that the algebra did not decide is not asked again, unless with more time.
        """
        a, b = sorted((a.strip(), b.strip()))
        if a == b:
            return Verdict(bool(a))
        known, limit = self._known.get((a, b), (None, 0.0))
        if known is not None and timeout <= limit:
            return known
        try:
            asking = compare(read(a), read(b))
        except Unreadable as error:
            return Verdict(False, str(error))
        asked = _Asked(self, timeout, deadline)
        verdict = await asked.drive(asking)
        if asked.was_tried:
            self._remember(a, b, verdict, math.inf if verdict.note is None else timeout)
        return verdict

    async def canonicalise(
        self,
        raw: str,
        answer_type: AnswerType,
        modulus: int | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        deadline: Deadline = NEVER,
    ) -> Canonical:
        """As `canonical`, with algebra where arithmetic is not enough: `\\log_2 1024`."""
        result = canonical(raw, answer_type, modulus)
        if result.question is None:
            return result
        reply = await self.ask({"op": "value", "latex": result.question}, timeout, deadline)
        found = reply.get("value")
        if isinstance(found, str):
            return integer(Fraction(found), raw, modulus)
        why = reply.get("note")
        note = result.note if why in (None, "not a number") else f"{why}: {raw.strip()[:60]}"
        return replace(result, note=note, question=None)

    async def ask(
        self, request: dict[str, Any], timeout: float, deadline: Deadline
    ) -> dict[str, Any]:
        """A worker's reply; a `note` in it says what went wrong, a time limit included.

        `untried` stands in one where the deadline or the start of a worker was what failed.
        """
        if deadline.passed():
            return _LATE
        try:
            async with asyncio.timeout_at(deadline.when()), self._free:
                worker = await self._worker()
                return await self._ask(worker, request, timeout)
        except TimeoutError:
            return _LATE
        except _NotStarted as failure:
            return {"note": str(failure), "untried": True}
        except _WorkerFailed as failure:
            return {"note": str(failure)}

    async def _ask(
        self, worker: "_Worker", request: dict[str, Any], timeout: float
    ) -> dict[str, Any]:
        answered = False
        try:
            reply = await worker.ask(request, timeout)
            answered = True
            return reply
        finally:
            await (self._give_back(worker) if answered else self._end(worker))

    async def _worker(self) -> "_Worker":
        if self._idle:
            return self._idle.pop()
        worker = _Worker()
        self._all.add(worker)
        started = False
        try:
            await worker.start(self._memory_mib)
            started = True
            return worker
        except _WorkerFailed as failure:
            raise _NotStarted(str(failure)) from failure
        finally:
            if not started:
                await self._end(worker)

    async def _give_back(self, worker: "_Worker") -> None:
        self._idle.append(worker)

    async def _end(self, worker: "_Worker") -> None:
        self._all.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        await worker.end()

    def _remember(self, a: str, b: str, verdict: Verdict, limit: float) -> None:
        if len(self._known) >= _REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[a, b] = verdict, limit


class _WorkerFailed(Exception):  # noqa: N818 - never leaves this module
    """`str(failure)` is the note."""


class _NotStarted(_WorkerFailed):
    """No worker came up, whatever it was to be asked."""


class _Asked:
    """One comparison: drives the generator with a worker's verdicts, under one time limit."""

    def __init__(self, judge: Judge, timeout: float, deadline: Deadline) -> None:
        self._judge = judge
        self._left = timeout
        self._deadline = deadline
        self._note: str | None = None
        self.was_tried = True
        """Whether it was decided, or undecided for reasons of its own."""

    async def drive(self, asking: Any) -> Verdict:
        try:
            pair = next(asking)
            while True:
                pair = asking.send(await self._decide(*pair))
        except StopIteration as end:
            return Verdict(bool(end.value) and self._note is None, self._note)

    async def _decide(self, a: str, b: str) -> bool:
        if self._note is not None:  # Undecided once is undecided.
            return False
        request = {"op": "equal", "a": a, "b": b}
        reply = await self._judge.ask(request, self._left, self._deadline)
        self._left = max(_LEAST_SECONDS, self._left - reply.get("seconds", 0.0))
        self._note = reply.get("note")
        self.was_tried = "untried" not in reply
        return reply.get("equal") is True


class _Worker:
    """One child process that answers one question at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, memory_mib: int) -> None:
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-s",
            "-P",
            str(_WORKER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment | {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
        )
        await self.ask({"path": sys.path, "memory_mib": memory_mib}, _START_SECONDS)

    async def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The reply. Raises `_WorkerFailed` where none comes in time; the worker is then unfit."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                process.stdin.write(orjson.dumps(request) + b"\n")
                await process.stdin.drain()
                reply = orjson.loads(await process.stdout.readline())
        except TimeoutError:
            raise _WorkerFailed(f"not decided in {timeout:.3g} s") from None
        except (OSError, ValueError) as error:  # ValueError: no line, too long a line, no JSON
            raise _WorkerFailed("not decided: the worker died") from error
        return reply if isinstance(reply, dict) else {}

    async def end(self) -> None:
        """Kill the process and wait until it is gone. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()


async def group(answers: Sequence[str], judge: Judge, deadline: Deadline = NEVER) -> list[int]:
    """The class of each answer: the index of the first answer that it equals.

    Compared with the first member of each class, in the order of arrival; an answer that no class
    takes by `deadline` begins its own. Deterministic, as long as no comparison meets a time limit.
    """
    first_of: dict[str, int] = {}
    classes: list[int] = []
    for index, answer in enumerate(answers):
        if answer not in first_of:
            heads = [answers[first] for first in dict.fromkeys(classes)]
            found = await _head_of(answer, heads, judge, deadline)
            first_of[answer] = index if found is None else first_of[found]
        classes.append(first_of[answer])
    return classes


async def _head_of(
    answer: str, heads: Sequence[str], judge: Judge, deadline: Deadline
) -> str | None:
    for head in heads:
        if await judge.equal(head, answer, deadline=deadline):
            return head
    return None
