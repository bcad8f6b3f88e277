"""The values that are stored and shown: problem, turn, trace, vote, outcome. Knows no behaviour."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

ErrorKind = Literal[
    "syntax",  # the cell could not be compiled
    "name",  # NameError, UnboundLocalError
    "import",  # ImportError, ModuleNotFoundError
    "type",  # TypeError, AttributeError
    "value",  # ValueError, ArithmeticError, LookupError
    "assertion",  # AssertionError
    "recursion",  # RecursionError
    "memory",  # MemoryError, or killed at the memory limit
    "timeout",  # wall-clock limit of the cell
    "output",  # so much output that the cell was stopped
    "input",  # the cell asked for keyboard input
    "died",  # the interpreter ended under the cell
    "other",
]
"""Why a cell failed, as the repair hint needs it."""

FinishReason = Literal["stop", "length", "closed"]
"""Why the server ended a turn: end of text or a stop string; token limit; we closed the stream."""

Opening = Literal["plain", "code"]
"""How a rollout starts: reasoning in words, or a reply that begins with a code fence."""

RolloutStop = Literal[
    "answered",  # a usable answer stands in the text
    "no_answer",  # the model ended its reply without one
    "max_tokens",
    "max_code_runs",
    "max_context",  # the server's context window is full
    "timeout",  # the rollout's own limit of seconds
    "loop",  # the text repeats itself
    "deadline",  # the question's deadline
    "cancelled",  # the vote was decided without it
    "model_error",
    "sandbox_error",
]
"""Why a rollout ended; each has exactly one."""

StopReason = Literal["majority", "exhausted", "deadline", "interrupted", "failed"]
"""Why a question ended: the vote was decided; every rollout ended; time; Ctrl-C; nothing ran."""

AnswerSource = Literal["boxed", "stated", "output"]
"""Where an answer stood: in `\\boxed{}`, in a closing sentence, or in the last code output."""


class Value(BaseModel):
    """Base of the stored values: frozen, strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Value):
    """A statement plus optional gold answer."""

    id: str
    statement: str
    gold: str | None = None


class CodeRun(Value):
    """One cell that was run for a rollout."""

    code: str
    output: str
    """What the cell printed or showed, cut at the limit; the traceback is part of it."""
    error: ErrorKind | None
    """`None` when the cell succeeded."""
    seconds: float
    """Wall-clock time of the cell alone, without queueing."""
    truncated: bool
    """Whether output was dropped."""


class Turn(Value):
    """One model call plus the code run that it caused."""

    text: str
    """What the model sampled and we kept, up to the end of the code block."""
    num_tokens: int
    """Sampled tokens, those of a discarded tail included."""
    finish_reason: FinishReason
    run: CodeRun | None
    injected: str
    """What we appended after `text`: the output block and a nudge; not sampled."""
    mean_logprob: float | None = None
    """Mean log-probability of the sampled tokens; `None` where the server gives none."""


class Trace(Value):
    """The saved record of one rollout."""

    problem_id: str
    rollout: int
    """Index within the question, from 0."""
    opening: Opening
    seed: int
    prefix: str
    """Text that the reply was begun with; not sampled."""
    turns: tuple[Turn, ...]
    answer: str | None
    """Canonical form, after the answer type and the modulus were applied."""
    raw_answer: str | None
    """As the model wrote it."""
    answer_source: AnswerSource | None
    stop_reason: RolloutStop
    error: str | None
    """One line where `stop_reason` is an error."""
    seconds: float
    """Wall-clock time from the first request to the end, code runs included."""
    sandbox_layers: tuple[str, ...] = ()
    """What isolated the code runs, from the outside in."""

    @property
    def num_tokens(self) -> int:
        """Sampled tokens of all turns."""
        return sum(turn.num_tokens for turn in self.turns)

    @property
    def num_code_runs(self) -> int:
        """Cells run."""
        return sum(turn.run is not None for turn in self.turns)

    @property
    def text(self) -> str:
        """The whole reply: prefix, sampled and injected text."""
        return self.prefix + "".join(turn.text + turn.injected for turn in self.turns)


class Vote(Value):
    """One weighted answer."""

    rollout: int
    answer: str
    weight: float = 1.0


class Outcome(Value):
    """What a question came to."""

    id: str
    answer: str | None
    votes: dict[str, float]
    """Canonical answer -> summed weight, largest first."""
    stop_reason: StopReason
    num_rollouts: int
    """Rollouts that were started."""
    num_sampled_tokens: int
    num_code_runs: int
    seconds: float
    """Wall-clock time from the question's start to its answer."""
    note: str | None = None
    """One line where something needs explaining: no answer, a non-integer, a dead server."""
    gold: str | None = None
    correct: bool | None = None
    """`None` where there is no gold answer."""
