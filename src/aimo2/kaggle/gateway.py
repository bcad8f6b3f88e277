"""A local gateway: hands problems to an inference server one by one, and keeps its answers.

It does what the competition's own gateway does, with the same checks under the same names, and
what that one does not: each answer is on disk before the next question, and a run that was broken
off goes on where it was. Knows no terminal and no network: it is given a `Call`.
"""

import hashlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from aimo2.answers import canonical, same
from aimo2.errors import GatewayError, InputError
from aimo2.journal import Journal
from aimo2.kaggle.calls import ANSWER_COLUMN, ID_COLUMN, PREDICT
from aimo2.kaggle.payloads import Value
from aimo2.types import Problem

Order = Literal["random", "file"]
Column = Literal["problem", "question"]

RECORD_NAME = "gateway.journal"
SUBMISSION_NAMES = ("submission.parquet", "submission.csv")


class Calls(Protocol):
    """The server's end of the line; `client.Client` is one."""

    def call(self, name: str, *args: Value, **kwargs: Value) -> Value:
        """What the server's function returned. Raises `GatewayError`."""
        ...


class Watcher(Protocol):
    """Whoever shows the run."""

    def asked(self, problem: Problem, number: int, total: int) -> None:
        """Question `number`, from 1, goes out."""
        ...

    def answered(self, reply: "Reply", number: int, total: int) -> None:
        """Its answer is on disk."""
        ...


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Began(_Record):
    """A run's first record: what it is a run of."""

    began: float
    """Wall clock, seconds since the epoch."""
    problems: str
    """A hash of ids and statements, so that another file's answers are never mixed in."""
    num_problems: int


class Reply(_Record):
    """What the server answered."""

    id: str
    answer: int | float | str
    seconds: float
    """From the call to the reply."""


@dataclass(frozen=True, slots=True)
class Score:
    """Against the golds; `num_graded` of the problems have one."""

    num_correct: int
    num_graded: int
    num_problems: int


class GatewayRecord:
    """The run's file of replies: each on disk before the next question."""

    def __init__(self, folder: Path, problems: Sequence[Problem]) -> None:
        """Opens the folder, or goes on with the run in it.

        Raises `InputError` where it holds a run of other problems, or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
        self.folder = folder
        self._journal = Journal(folder / RECORD_NAME)
        self.repaired = self._journal.repaired
        self.replies: dict[str, Reply] = {}
        """By problem, in the order in which they came."""
        try:
            self._take(self._journal.records, problems)
        except InputError:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._journal.close()

    def add(self, reply: Reply) -> None:
        """Keep a reply. Raises `DiskFullError` or `InputError` where the disk does not take it."""
        self.replies[reply.id] = reply
        self._journal.append(reply.model_dump_json(), sync=True)

    def _take(self, records: Sequence[str], problems: Sequence[Problem]) -> None:
        digest = _digest(problems)
        if not records:
            began = Began(began=time.time(), problems=digest, num_problems=len(problems))
            self._journal.append(began.model_dump_json(), sync=True)
            return
        path = self.folder / RECORD_NAME
        try:
            began = Began.model_validate_json(records[0])
            replies = [Reply.model_validate_json(record) for record in records[1:]]
        except ValidationError as error:
            raise InputError(f"{path} is no record of a gateway; give another --out") from error
        if began.problems != digest:
            raise InputError(
                f"{path} is the record of a run of other problems; give another --out, or --fresh"
            )
        self.replies.update((reply.id, reply) for reply in replies)


def _digest(problems: Sequence[Problem]) -> str:
    digest = hashlib.sha256()
    for problem in problems:
        for part in (problem.id, problem.statement):
            digest.update(f"{len(part)}:".encode() + part.encode())
    return digest.hexdigest()[:16]


def ordered(problems: Sequence[Problem], order: Order, seed: int | None) -> list[Problem]:
    """The order in which the problems are asked; `seed` `None` is another one every time."""
    if order == "file":
        return list(problems)
    shuffled = list(problems)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def run(
    problems: Sequence[Problem],
    calls: Calls,
    record: GatewayRecord,
    watcher: Watcher,
    *,
    column: Column = "problem",
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Ask every problem that has no answer yet, in the order given.

    Raises `GatewayError` at the first reply that the competition would not take; what came before
    is in `record`, and a later run goes on behind it.
    """
    total = len(problems)
    for number, problem in enumerate(problems, 1):
        if problem.id in record.replies:
            continue
        watcher.asked(problem, number, total)
        begun = clock()
        reply = calls.call(
            PREDICT, pl.Series(ID_COLUMN, [problem.id]), pl.Series(column, [problem.statement])
        )
        answer = checked_answer(problem.id, reply)
        taken = Reply(id=problem.id, answer=answer, seconds=clock() - begun)
        record.add(taken)
        watcher.answered(taken, number, total)


def checked_answer(problem_id: str, reply: Value) -> int | float | str:
    """The answer in a reply: a frame of one row with the same id, or a number or text alone.

    Raises `GatewayError`, as the competition's gateway does, where the reply would not count.
    """
    if reply is None:
        raise _invalid(problem_id, "predict returned nothing")
    if isinstance(reply, pl.DataFrame):
        return _framed(problem_id, reply)
    if isinstance(reply, np.generic):
        reply = reply.item()
    if isinstance(reply, bool) or not isinstance(reply, int | float | str):
        raise _invalid(problem_id, f"predict returned a {type(reply).__name__}, not a frame")
    return _finite(problem_id, reply)


def _framed(problem_id: str, frame: pl.DataFrame) -> int | float | str:
    if frame.height != 1:
        raise _invalid(problem_id, f"expected 1 row, got {frame.height}")
    absent = [name for name in (ID_COLUMN, ANSWER_COLUMN) if name not in frame.columns]
    if absent:
        has = ", ".join(frame.columns) or "none"
        raise _invalid(problem_id, f"no column {absent[0]!r}; the frame has {has}")
    found = str(frame[ID_COLUMN].item())
    if found != problem_id:
        raise _invalid(problem_id, f"the answer is for another id, {found!r}")
    answer: Any = frame.to_dicts()[0][ANSWER_COLUMN]
    if answer is None:
        raise _invalid(problem_id, "the answer is null")
    if isinstance(answer, bool) or not isinstance(answer, int | float | str):
        raise _invalid(problem_id, f"the answer is a {type(answer).__name__}")
    return _finite(problem_id, answer)


def _finite(problem_id: str, answer: int | float | str) -> int | float | str:
    if isinstance(answer, float) and not math.isfinite(answer):
        raise _invalid(problem_id, f"the answer is {answer}, no number")
    return answer


def _invalid(problem_id: str, what: str) -> GatewayError:
    return GatewayError("INVALID_SUBMISSION", f"problem {problem_id}: {what}")


def submission(problems: Sequence[Problem], replies: Mapping[str, Reply]) -> pl.DataFrame:
    """A row of `id` and `answer` for each problem, in the order of `problems`.

    The answers are whole numbers where all are, and texts otherwise: a column has one type.
    """
    answers = [replies[problem.id].answer for problem in problems]
    if not all(isinstance(answer, int) for answer in answers):
        answers = [str(answer) for answer in answers]
    return pl.DataFrame({ID_COLUMN: [problem.id for problem in problems], ANSWER_COLUMN: answers})


def score(
    problems: Sequence[Problem], replies: Mapping[str, Reply], modulus: int | None = None
) -> Score:
    """How many answers equal their golds. `modulus` reduces both first."""
    graded = [problem for problem in problems if problem.gold is not None]
    correct = sum(_right(problem, replies.get(problem.id), modulus) for problem in graded)
    return Score(correct, len(graded), len(problems))


def _right(problem: Problem, reply: Reply | None, modulus: int | None) -> bool:
    if reply is None or problem.gold is None:
        return False
    answer = reply.answer
    given = str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)
    if modulus is not None:
        wanted, got = (canonical(text, "int", modulus).value for text in (problem.gold, given))
        return wanted is not None and wanted == got
    return same(problem.gold, given) is True
