"""The `predict` endpoint: rows in, one answer a row out, in time and whatever happens.

Knows no network, and of who answers only the `Predictor` protocol.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Protocol

from aimo2.deadline import Deadline
from aimo2.errors import ProtocolError, Withheld
from aimo2.kaggle.calls import Call, Row, answers_frame, rows
from aimo2.kaggle.payloads import Value
from aimo2.types import Problem

Notify = Callable[[str], None]
"""Hears one line for a person now and then."""

_MARGIN_SECONDS = 0.5
"""The answer is sent this long before the caller gives up; of short limits a tenth."""


class Predictor(Protocol):
    """Who answers problems. It is asked the same problem again by a client that came back."""

    async def predict(self, problem: Problem, within: float | None = None) -> str:
        """The answer, `within` so many seconds. A cancelled caller leaves the question going.

        Raises `Withheld` where there will be none before the end.
        """
        ...

    def best(self, problem: Problem) -> str:
        """What the answer would be now; never raises."""
        ...


class PredictEndpoint:
    """Answers calls of `predict`, each by its limit, with the best guess where nothing better is.

    Raises `ProtocolError` for a call in which there is no problem at all, and `Withheld` where
    who answers does so: a guess would be final.
    """

    def __init__(
        self, predictor: Predictor, notify: Notify, *, limit: float | None, integers: bool = True
    ) -> None:
        """`limit`: seconds a call may take, as the gateway enforces it; `None` is no limit.

        `integers`: answers are whole numbers, and the answer column holds such.
        """
        self._predictor = predictor
        self._notify = notify
        self._limit = limit
        self._integers = integers
        self._going: set[asyncio.Future[str]] = set()

    async def __call__(self, call: Call, patience: float | None) -> Value:
        """The frame to return. `patience`: seconds after which the caller gives up, if it said."""
        asked = rows(call)
        limits = [limit for limit in (self._limit, patience) if limit is not None]
        allowed = min(limits, default=None)
        margin = 0.0 if allowed is None else min(_MARGIN_SECONDS, allowed / 10)
        deadline = Deadline.after(None if allowed is None else max(0.0, allowed - margin))
        answers = []
        for number, row in enumerate(asked):
            answers.append(await self._answer(row, deadline, len(asked) - number))
        if self._integers:
            return answers_frame([row.id for row in asked], [_whole(each) for each in answers])
        return answers_frame([row.id for row in asked], answers)

    async def _answer(self, row: Row, deadline: Deadline, num_left: int) -> str:
        """One row's answer, with an equal share of the time; the time saved is the next one's."""
        problem = Problem(id=problem_id(row), statement=row.statement)
        if not row.statement.strip():
            self._notify(f"[{problem.id}] was asked without a statement; a guess is sent")
            return self._predictor.best(problem)
        left = None if deadline.when() is None else deadline.remaining() / num_left
        going = asyncio.ensure_future(self._predictor.predict(problem, left))
        self._going.add(going)
        going.add_done_callback(self._ended)
        done, _ = await asyncio.wait({going}, timeout=left)
        if not done:
            self._notify(f"[{problem.id}] the limit came before the answer: the best guess is sent")
            return self._predictor.best(problem)
        error = going.exception()
        if isinstance(error, Withheld):
            raise error
        if error is not None:
            self._notify(f"[{problem.id}] {type(error).__name__}: {error}; a guess is sent")
            return self._predictor.best(problem)
        return going.result()

    def _ended(self, going: "asyncio.Future[str]") -> None:
        self._going.discard(going)
        if not going.cancelled():
            going.exception()  # looked at, so that asyncio does not complain of it

    async def close(self) -> None:
        """End the questions that nobody waits for any more."""
        for going in list(self._going):
            going.cancel()
        if self._going:
            await asyncio.wait(self._going, timeout=_MARGIN_SECONDS)


def problem_id(row: Row) -> str:
    """The row's id as text; without one, a name that the statement always has."""
    if row.id is None or row.id == "":
        return "unnamed-" + hashlib.sha256(row.statement.encode()).hexdigest()[:12]
    return str(row.id)


def _whole(answer: str) -> int:
    """A frame's column has one type: what is no number of 64 bits is 0 in it."""
    try:
        number = int(answer)
    except ValueError:
        return 0
    return number if -(2**63) <= number < 2**63 else 0


def missing(name: str) -> ProtocolError:
    """What the competition's servers say of a function that they do not have."""
    return ProtocolError(f"No listener for {name} was registered.")
