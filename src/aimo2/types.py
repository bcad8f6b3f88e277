"""The values that are stored and shown: problem, turn, trace, vote, outcome. Knows no behaviour."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

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

Opening = str
"""How a rollout starts: the name of an opening, such as `plain` or `code` (`prompts` has them)."""

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
    "forked",  # it ended by splitting: its children go on instead of it
    "certain",  # probes of its answer agreed (`probe`)
    "unsure",  # its confidence fell below the threshold: it does not vote (`confidence`)
    "too_long",  # far longer than its siblings that have answered
    "pruned",  # the search went on elsewhere (`rebase`, `beam`, `dvts`)
    "salvaged",  # an answer was forced out of it, at the deadline or at a limit
    "model_error",
    "sandbox_error",
]
"""Why a rollout ended; each has exactly one."""

StopRule = Literal["majority", "k_equal", "window", "unassailable", "adaptive_consistency", "never"]
"""When a question is decided; the rules are in `policy.stop`."""

StopReason = Literal[
    "majority",
    "k_equal",
    "window",
    "unassailable",
    "adaptive_consistency",
    "max_votes",  # as many votes as were asked for
    "exhausted",  # every rollout ended
    "max_tokens",  # the question's tokens are spent
    "no_progress",  # the exam took the time back
    "deadline",
    "interrupted",  # Ctrl-C
    "failed",  # nothing ran
]
"""Why a question ended: the stopping rule that fired, or what else ended it."""

AnswerSource = Literal["boxed", "stated", "output", "forced", "guessed"]
"""Where an answer stood: in `\\boxed{}`, in a closing sentence, in the last code output, behind an
answer prefix that we forced, or, where nothing else voted at all, the last number in the text."""


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


class TokenStats(Value):
    """How sure the model was over some sampled tokens, from the server's top candidates.

    Confidence of a token: -(1/k) times the sum of the log-probabilities of its top k candidates
    (DeepConf, arXiv 2508.15260, section 2): larger is surer. Nats throughout.
    """

    num_tokens: int
    """Tokens that the figures are over."""
    mean_logprob: float
    """Mean log-probability of the sampled tokens."""
    tail_logprob: float
    """The same over the last 2,048 tokens."""
    min_window_logprob: float
    """The lowest mean log-probability over 64 tokens in a row."""
    confidence: float | None = None
    """Mean token confidence; `None` where the server gives no candidates, as are the next four."""
    tail_confidence: float | None = None
    """Over the last 2,048 tokens."""
    bottom_confidence: float | None = None
    """Mean of the lowest 10 % of sliding windows of 2,048 tokens."""
    min_confidence: float | None = None
    """The lowest sliding window of 2,048 tokens."""
    entropy: float | None = None
    """Mean entropy of the top 5 candidates."""


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
    started: float = 0.0
    """Seconds from the question's start to this model call."""
    seconds: float = 0.0
    """Wall-clock time of the model call and of the code run, queueing included."""
    token_spans: tuple[tuple[NonNegativeInt, NonNegativeInt], ...] | None = None
    """How sure the model was along `text`: (characters, mean surprise in hundredths of nats, at
    most 1,000) of each piece as it arrived, usually one token. Only where it was asked for."""


TRACE_VERSION = 2
"""Of the stored form; a reader refuses a newer one."""


class Trace(Value):
    """The saved record of one rollout: a root-to-leaf path of the question's tree.

    A forked rollout starts with its parent's turns, which stand here again, so that each trace
    can be read alone: `turns[:num_shared_turns]` are the first `num_shared_turns` turns of trace
    `parent`, and their tokens were sampled only once.
    """

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
    version: int = TRACE_VERSION
    parent: int | None = None
    """Index of the rollout that this one was forked from; `None` for a root."""
    num_shared_turns: int = 0
    """Leading turns that the parent sampled; 0 for a root."""
    started: float = 0.0
    """Seconds from the question's start to this rollout's own first request."""
    stats: TokenStats | None = None
    """Over the whole path; `None` where the server gave no log-probabilities."""
    num_side_tokens: int = 0
    """Sampled for it besides and thrown away: probes of its answer."""
    weight: float | None = None
    """What its vote weighed in the last tally; `None` where it cast none."""
    model: str | None = None
    """The served model's name."""

    @property
    def num_tokens(self) -> int:
        """Sampled tokens of all turns, the shared ones included: the length of the path."""
        return sum(turn.num_tokens for turn in self.turns)

    @property
    def num_own_tokens(self) -> int:
        """Sampled tokens that this rollout cost: those of the shared turns are the parent's."""
        return sum(turn.num_tokens for turn in self.turns[self.num_shared_turns :])

    @property
    def num_code_runs(self) -> int:
        """Cells run."""
        return sum(turn.run is not None for turn in self.turns)

    @property
    def num_own_code_runs(self) -> int:
        """Cells that this rollout ran itself."""
        return sum(turn.run is not None for turn in self.turns[self.num_shared_turns :])

    @property
    def text(self) -> str:
        """The whole reply: prefix, sampled and injected text."""
        return self.prefix + "".join(turn.text + turn.injected for turn in self.turns)


class Vote(Value):
    """One weighted answer."""

    rollout: int
    answer: str
    weight: float = 1.0
    """What is summed to find the leader, in units of a plain vote."""
    count: float = 1.0
    """How much of an independent, reasoned vote it is, 0 to 1: what rules that count go by."""


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
