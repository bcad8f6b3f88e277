"""What a rollout has so far: its turns and text, what it counted, how it ended; and who sees it.

An `Attempt` is a rollout without its motor. Observers, watchers and owners are shown that much and
can neither run it nor fork it; `rollout.Rollout` drives it. Knows no model calls, no kernels and
no decisions: nothing here awaits.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from aimo2 import prompts
from aimo2.answers import Canonical, Extracted
from aimo2.confidence import ConfidenceMeter
from aimo2.config import SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.llm import Chunk, Conversation, Model
from aimo2.prompts.families import UNKNOWN, Family
from aimo2.sandbox import Sandbox
from aimo2.spans import SpanMeter
from aimo2.turns import Pace, TurnSoFar
from aimo2.types import CodeRun, Opening, Problem, RolloutStop, Trace, Turn

Canonicalise = Callable[[str], Awaitable[Canonical]]
"""A raw answer to its canonical form, by the question's answer type and modulus."""

RolloutState = Literal["sampling", "running code", "waiting", "done"]
"""`waiting`: parked at a boundary, until it is run again."""
TextKind = Literal["prefix", "sampled", "injected"]
BoundaryKind = Literal["code", "step", "spike"]
"""Where a turn ended: behind a code run, at a blank line, before a token the model is unsure of."""
Onward = Literal["go on", "park"]

_CONTEXT_ROOM = 400
"""Characters given up at the end of a text that fills the context window, to force an answer."""


class Observer(Protocol):
    """Whoever watches. Called often and from the event loop: return at once, never raise."""

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """More text of a rollout; a fork's shared path comes first, as its prefix."""
        ...

    def progress(self, rollout: "Attempt") -> None:
        """A rollout changed its state."""
        ...


class Watcher(Protocol):
    """Looks at one rollout's chunks and may end it, as a stopping rule of rollouts does.

    `feed` returns at once; a watcher that asks the model itself, such as a probe, does so in tasks
    of its own and ends them in `close`. `Attempt.conversation` is what a probe continues.
    """

    def feed(self, chunk: Chunk, rollout: "Attempt") -> RolloutStop | None:
        """Called after each chunk; why the rollout ends now, or `None`."""
        ...

    async def close(self) -> None:
        """The rollout has ended or waits; called at least once, and never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Break:
    """A model call that is to end here. `keep`: characters of the turn's text that stay."""

    kind: BoundaryKind
    keep: int


class Stepper(Protocol):
    """Finds boundaries inside a model call. It is not asked inside code blocks."""

    def feed(self, chunk: Chunk, turn: str) -> Break | None:
        """`turn`: the text of the call so far, the chunk's included."""
        ...


class Owner(Protocol):
    """Whom a rollout belongs to: says who looks at it, and what follows at its boundaries."""

    def watchers(self, rollout: "Attempt") -> Sequence[Watcher]:
        """Asked once, at the rollout's start."""
        ...

    def stepper(self, rollout: "Attempt") -> Stepper | None:
        """Asked before each model call; `None` where only code runs are boundaries."""
        ...

    async def boundary(self, rollout: "Attempt", kind: BoundaryKind) -> Onward | RolloutStop:
        """A turn has ended and the rollout could be forked here, by who holds it: go on, or not."""
        ...


class Alone:
    """The owner of a rollout that nobody watches and that never forks."""

    def watchers(self, rollout: "Attempt") -> Sequence[Watcher]:
        """Nobody."""
        return ()

    def stepper(self, rollout: "Attempt") -> Stepper | None:
        """No boundary inside a call."""
        return None

    async def boundary(self, rollout: "Attempt", kind: BoundaryKind) -> Onward | RolloutStop:
        """Go on."""
        return "go on"


@dataclass(frozen=True, slots=True)
class Question:
    """What the rollouts of one question have in common.

    `began`: the question's start on the event loop's clock; `None` is each rollout's own start.
    `model_name`: for the record. `family`: how the model marks its thinking.
    """

    problem: Problem
    config: SolveConfig
    model: Model
    sandbox: Sandbox
    canonicalise: Canonicalise
    observer: Observer
    owner: Owner = field(default_factory=Alone)
    began: float | None = None
    model_name: str | None = None
    family: Family = UNKNOWN
    continues: bool = True
    """Whether the model goes on exactly where a reply ends; else nothing is begun for it."""


@dataclass(frozen=True, slots=True)
class Variation:
    """In what a branch differs from its parent besides the seed."""

    temperature: float | None = None
    """`None` keeps the question's."""
    nudge: str = ""
    """Text that the branch's reply goes on with; not sampled."""


SAME = Variation()
"""None besides the seed."""


@dataclass(frozen=True, slots=True)
class Path:
    """A rollout's way up to the end of a turn: what its branches begin with."""

    parent: int
    depth: int
    """Forks above this one."""
    opening: Opening
    start: prompts.Start
    turns: tuple[Turn, ...]
    last_good_output: str | None
    temperature: float | None
    confidence: ConfidenceMeter
    """Of the path's tokens; a branch goes on with a copy."""
    num_thinking_tokens: int
    num_waits: int
    """How often its thinking was made to go on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rollout answered: as written, where it stood, and its canonical form."""

    extracted: Extracted
    canonical: Canonical


def derive_seed(seed: int, problem_id: str, rollout: int, turn: int) -> int:
    """A seed of 31 bits for one model call; the same for the same four values, everywhere."""
    text = f"{seed}\0{problem_id}\0{rollout}\0{turn}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) & 0x7FFFFFFF


class Attempt:
    """One rollout as everyone else sees it; `trace` may be read once it has ended.

    A root begins with an opening; a branch where its parent's path ended.
    """

    def __init__(
        self,
        question: Question,
        index: int,
        opening: Opening | None,
        path: Path | None,
        variation: Variation,
    ) -> None:
        """`opening`: of a root; `None` takes the question's openings in turn."""
        config = question.config
        self.index = index
        self.state: RolloutState = "waiting"
        self.answer: Answer | None = None
        self.stop_reason: RolloutStop | None = None
        self.error: str | None = None
        self._question = question
        self._observer = question.observer
        self._start = self._started_with(opening, path)
        self.parent = path.parent if path else None
        self.depth = path.depth if path else 0
        self.turns: list[Turn] = list(path.turns) if path else []
        self.num_shared_turns = len(self.turns)
        self._num_fixed = len(self.turns)
        """Leading turns that stand in other rollouts' paths, too: they do not change any more."""
        self._reply = self._start.prefix + "".join(t.text + t.injected for t in self.turns)
        self.last_good_output = path.last_good_output if path else None
        """What the last cell printed, whole; `None` if it failed, or where none ran."""
        inherited = path.temperature if path else None
        self._temperature = inherited if variation.temperature is None else variation.temperature
        self.confidence = path.confidence.copy() if path else ConfidenceMeter(config.cut.window)
        self._num_thinking_tokens = path.num_thinking_tokens if path else 0
        self._num_waits = path.num_waits if path else 0
        self.in_block = False
        """Whether its text ends inside a code block, while it samples."""
        self.offered: Extracted | None = None
        """An answer that a watcher has found, for the rollout that it ends."""
        self.num_side_tokens = 0
        """Sampled for it besides, by its watchers."""
        self._current: TurnSoFar | None = None
        self._last_pace: Pace | None = None
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._soft = NEVER
        """When it stops sampling."""

    def _started_with(self, opening: Opening | None, path: Path | None) -> prompts.Start:
        config = self._question.config
        if path is not None:
            self.opening = path.opening
            return path.start
        code = config.rollout.max_code_runs > 0
        wanted = opening or config.openings[self.index % len(config.openings)]
        self.opening = prompts.fitting(wanted, config.custom_openings, code=code)
        start = prompts.start(
            self._question.problem.statement,
            self.opening,
            config.answer_type,
            code=code,
            family=self._question.family,
            thinking=config.thinking,
            custom=config.custom_openings,
        )
        return start if self._question.continues else replace(start, prefix="")

    @property
    def num_tokens(self) -> int:
        """Sampled tokens of the whole path so far, those of the current turn included."""
        current = self._current.num_tokens if self._current else 0
        return sum(turn.num_tokens for turn in self.turns) + current

    @property
    def num_own_tokens(self) -> int:
        """Those of the path that this rollout sampled itself."""
        shared = self.turns[: self.num_shared_turns]
        return self.num_tokens - sum(turn.num_tokens for turn in shared)

    @property
    def num_code_runs(self) -> int:
        """Cells run on the whole path."""
        return sum(turn.run is not None for turn in self.turns)

    @property
    def num_code_errors(self) -> int:
        """Cells of the path that failed."""
        return sum(turn.run is not None and turn.run.error is not None for turn in self.turns)

    @property
    def num_own_code_runs(self) -> int:
        """Those that this rollout ran itself."""
        return sum(turn.run is not None for turn in self.turns[self.num_shared_turns :])

    @property
    def seconds(self) -> float:
        """Time since the start, up to the end if it has ended."""
        if self._started_at is None:
            return 0.0
        ended = self._ended_at
        return (asyncio.get_running_loop().time() if ended is None else ended) - self._started_at

    @property
    def text(self) -> str:
        """The whole reply so far, the current turn included."""
        return self._reply + (self._current.text if self._current else "")

    @property
    def conversation(self) -> Conversation:
        """What the next token depends on; a side request that continues it shares its prefix."""
        return Conversation(self._start.messages, self.text)

    @property
    def pace(self) -> Pace | None:
        """Of the newest model call that has brought anything; `None` before there is one."""
        current = self._current.pace() if self._current else None
        return current or self._last_pace

    @property
    def deadline(self) -> Deadline:
        """When it stops sampling."""
        return self._soft

    @property
    def started(self) -> bool:
        """Whether it was run at all."""
        return self._started_at is not None

    @property
    def has_text(self) -> bool:
        """Whether any token of its path was sampled."""
        return self.num_tokens > 0

    def path(self) -> Path:
        """Its way up to the end of the last turn."""
        assert self._current is None, "a rollout forks between two turns"
        self._num_fixed = len(self.turns)
        return Path(
            parent=self.index,
            depth=self.depth + 1,
            opening=self.opening,
            start=self._start,
            turns=tuple(self.turns),
            last_good_output=self.last_good_output,
            temperature=self._temperature,
            confidence=self.confidence.copy(),
            num_thinking_tokens=self._num_thinking_tokens,
            num_waits=self._num_waits,
        )

    def finish(self, stop: RolloutStop) -> None:
        """Set the stop reason, the first time only. The owner calls this for one it cancelled."""
        if self.stop_reason is not None:
            return
        self._abandon_turn()
        self.stop_reason = stop
        self.state = "done"
        self._ended_at = asyncio.get_running_loop().time()
        self._observer.progress(self)

    def trace(self) -> Trace:
        """The record of this rollout, which must have ended."""
        assert self.stop_reason is not None, "the rollout has not ended"
        return Trace(
            problem_id=self._question.problem.id,
            rollout=self.index,
            opening=self.opening,
            seed=self._question.config.seed,
            prefix=self._start.prefix,
            turns=tuple(self.turns),
            answer=self.answer.canonical.value if self.answer else None,
            raw_answer=self.answer.extracted.raw if self.answer else None,
            answer_source=self.answer.extracted.source if self.answer else None,
            stop_reason=self.stop_reason,
            error=self.error,
            seconds=self.seconds,
            parent=self.parent,
            num_shared_turns=self.num_shared_turns,
            started=self._since_question(self._started_at) if self._started_at else 0.0,
            stats=self.confidence.stats(),
            num_side_tokens=self.num_side_tokens,
            model=self._question.model_name,
        )

    @property
    def _has_code(self) -> bool:
        """Whether the path has run code, or was made to write some."""
        return self.num_code_runs > 0 or any(
            turn.injected.endswith(self._question.family.fence) for turn in self.turns
        )

    def _new_turn(self) -> TurnSoFar:
        meter = SpanMeter() if self._question.config.sampling.token_spans else None
        return TurnSoFar(asyncio.get_running_loop().time(), meter=meter)

    def _end_turn(self, run: CodeRun | None, injected: str) -> None:
        assert self._current is not None
        now = asyncio.get_running_loop().time()
        self._last_pace = self._current.pace() or self._last_pace
        turn = Turn(
            text=self._current.text,
            num_tokens=self._current.num_tokens,
            finish_reason=self._current.finish_reason,
            run=run,
            injected=injected,
            mean_logprob=self._current.mean_logprob(),
            started=self._since_question(self._current.began),
            seconds=now - self._current.began,
            token_spans=self._current.spans(),
        )
        self._current = None
        self.turns.append(turn)
        self._reply += turn.text + turn.injected
        self._observer.text(self.index, "injected", injected)
        self._observer.progress(self)

    def _since_question(self, instant: float) -> float:
        began = self._question.began
        if began is None:
            began = self._started_at
        return 0.0 if began is None else instant - began

    def _inject(self, text: str) -> None:
        """Put text behind the reply between two turns; a shared turn is not touched."""
        if len(self.turns) > self._num_fixed:
            last = self.turns[-1]
            self.turns[-1] = last.model_copy(update={"injected": last.injected + text})
            self._reply += text
            self._observer.text(self.index, "injected", text)
        else:
            self._current = self._new_turn()
            self._end_turn(None, text)

    def _cut(self, length: int) -> None:
        """Keep `length` characters of the current turn."""
        assert self._current is not None
        self._current.parts = [self._current.text[: max(0, length)]]

    def _make_room(self) -> bool:
        """Give up the end of a text that fills the context window; whether there was one."""
        own = self.turns[self._num_fixed :]
        if not own or own[-1].injected or len(own[-1].text) <= _CONTEXT_ROOM:
            return False
        last = own[-1].model_copy(update={"text": own[-1].text[:-_CONTEXT_ROOM]})
        self.turns[-1] = last
        self._reply = self._reply[:-_CONTEXT_ROOM]
        return True

    def _abandon_turn(self) -> None:
        """Record a call that ended without an event: an error, the deadline, a cancellation."""
        if self._current is not None:
            self._end_turn(None, "")

    def _sampled_text(self) -> str:
        return "".join(turn.text for turn in self.turns)
