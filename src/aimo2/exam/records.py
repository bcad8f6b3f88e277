"""What an exam writes down, and what can be read back from it. Knows no clocks and no models.

Every record says when it was written: on the wall clock, and in exam seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from aimo2.errors import InputError
from aimo2.exam.config import ExamConfig
from aimo2.types import Outcome, Problem, Value

JOURNAL_VERSION = 1


class ExamAnswer(Value):
    """What an exam answers to a problem. There always is one."""

    id: str
    answer: str
    """Canonical form; `ExamConfig.guess` where nothing better was known."""
    guessed: bool
    """Whether no rollout stands behind it."""
    number: int
    """In which place the problem was asked, from 1."""
    started: float
    """Exam seconds gone when its turn came."""
    seconds: float
    """From then to the answer."""
    granted: float
    """Seconds that the policy would have let it have at the most."""
    num_votes: int = 0
    """Votes that were cast, those of an earlier process not included."""
    first_vote: float | None = None
    """Seconds from its turn until the first of them was seen."""
    outcome: Outcome | None = None
    """`None` where no solver came to an end."""
    note: str | None = None
    """One line where something went wrong."""


class _Record(Value):
    at: float
    """Seconds since the epoch."""
    elapsed: float
    """Exam seconds gone."""


class Began(_Record):
    """The exam's first record."""

    kind: Literal["began"] = "began"
    version: int = JOURNAL_VERSION
    config: ExamConfig
    setup: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Whatever the caller needs to go on: engine, solver, problems. Never a key."""


class Resumed(_Record):
    """Another process goes on."""

    kind: Literal["resumed"] = "resumed"


class Asked(_Record):
    """A problem was seen."""

    kind: Literal["asked"] = "asked"
    problem: Problem
    number: int
    granted: float


class Counted(_Record):
    """The tally changed."""

    kind: Literal["counted"] = "counted"
    id: str
    weights: dict[str, float]
    num_votes: int
    num_tokens: int = 0


class Live(_Record):
    """What rollouts have written since the last such record."""

    kind: Literal["live"] = "live"
    id: str
    texts: dict[str, str]
    """Index of a rollout -> the text that was added."""
    num_tokens: int


class Answered(_Record):
    """A problem has its answer; on disk before anybody hears it."""

    kind: Literal["answered"] = "answered"
    answer: ExamAnswer


class Noted(_Record):
    """A line for whoever reads the journal."""

    kind: Literal["noted"] = "noted"
    text: str


class Ended(_Record):
    """The exam is over."""

    kind: Literal["ended"] = "ended"


Record = Annotated[
    Began | Resumed | Asked | Counted | Live | Answered | Noted | Ended,
    Field(discriminator="kind"),
]
_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@dataclass(slots=True)
class History:
    """What a journal says has happened so far."""

    began: Began | None = None
    last_at: float = 0.0
    last_elapsed: float = 0.0
    asked: dict[str, Asked] = field(default_factory=dict)
    answers: dict[str, ExamAnswer] = field(default_factory=dict)
    """By problem, in the order in which they were answered."""
    counted: dict[str, list[Counted]] = field(default_factory=dict)
    """By problem: its tally, each time that it changed."""
    num_resumed: int = 0
    ended: bool = False
    notes: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Take in the next record."""
        self.last_at = record.at
        self.last_elapsed = max(self.last_elapsed, record.elapsed)
        match record:
            case Began():
                self.began = record
            case Resumed():
                self.num_resumed += 1
                self.ended = False
            case Asked():
                self.asked[record.problem.id] = record
            case Counted():
                self.counted.setdefault(record.id, []).append(record)
            case Answered():
                # The first answer was given away; it stands.
                self.answers.setdefault(record.answer.id, record.answer)
            case Noted():
                self.notes.append(record.text)
            case Ended():
                self.ended = True
            case Live():
                pass


def read_history(lines: Sequence[str], name: str) -> History:
    """What the records of journal `name` say. Raises `InputError` for records of another kind."""
    history = History()
    for number, line in enumerate(lines, 1):
        try:
            history.add(_RECORD.validate_json(line))
        except ValidationError as error:
            raise InputError(
                f"{name}: record {number} is none of this version's ({error.errors()[0]['msg']});"
                " use the version of aimo2 that wrote it"
            ) from error
    if lines and (history.began is None):
        raise InputError(f"{name} has no beginning: it is no exam's journal, or its start is lost")
    return history
