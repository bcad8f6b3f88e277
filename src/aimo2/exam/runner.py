"""A whole exam: one problem at a time, one clock, an answer to each. Knows no terminal.

Who asks calls `Exam.answer`: the command line with a file's problems, or a competition's gateway.
How long a question may go on is `policy.budget`'s to say; what happened is in the journal.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aimo2.attempt import Attempt, Observer, TextKind
from aimo2.deadline import Deadline
from aimo2.errors import InputError, ModelError, SetupError
from aimo2.exam.clock import Clock, Stopwatch, SystemClock, elapsed_since
from aimo2.exam.config import ExamConfig
from aimo2.exam.folder import ExamFolder
from aimo2.exam.lessons import default_lessons
from aimo2.exam.records import (
    Answered,
    Asked,
    Began,
    Counted,
    Ended,
    ExamAnswer,
    History,
    Live,
    Noted,
    Record,
    Resumed,
)
from aimo2.policy.budget import First, Grant, Ledger, Lessons, Pace, Standing, banked, grant
from aimo2.policy.vote import Tally
from aimo2.solver import Solved
from aimo2.types import Outcome, Problem, StopReason

_TICK_SECONDS = 0.5
"""How often the clock and the votes of a running question are looked at."""
_LIVE_SECONDS = 10.0
"""How often the text of live rollouts is written down."""
_MARGIN_SECONDS = 1.0
"""The solver is told to end this long before what must not be passed."""
_LAST_SECONDS = 0.3
"""A solver that has not ended this long before it is left behind."""
_FIRST_PAUSE_SECONDS = 2.0
"""Before a question that found no server is asked again; doubled each time."""
_LONGEST_PAUSE_SECONDS = 30.0
_INSTANT = 1e-3
"""Less than this is no time: a wait for it might not move the clock."""
_SHORTEST_SECONDS = 1.0
"""With less time than this nothing is started; the best guess is the answer."""


class Question(Protocol):
    """One problem being solved; `solver.Solver` is one."""

    @property
    def tally(self) -> Tally:
        """The votes so far."""
        ...

    async def solve(self, deadline: Deadline) -> Solved:
        """Run to the end, by `deadline` at the latest."""
        ...

    def interrupt(self, reason: StopReason) -> None:
        """End it now; the votes so far decide."""
        ...


Ask = Callable[[Problem, Observer], Question]
"""Opens a question; the observer wants to hear of its rollouts."""


class Watcher(Observer, Protocol):
    """Whoever shows the exam. Called from the event loop: return at once, never raise."""

    def notice(self, text: str) -> None:
        """A line that a person should see once."""
        ...

    def asked(self, problem: Problem, number: int) -> None:
        """Question `number`, from 1, begins."""
        ...

    def answered(self, answer: ExamAnswer, *, again: bool) -> None:
        """It has its answer; `again`: it had one already and was asked once more."""
        ...


class Unwatched:
    """A watcher that shows nothing."""

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """Nobody looks."""

    def progress(self, rollout: Attempt) -> None:
        """Nobody looks."""

    def notice(self, text: str) -> None:
        """Nobody looks."""

    def asked(self, problem: Problem, number: int) -> None:
        """Nobody looks."""

    def answered(self, answer: ExamAnswer, *, again: bool) -> None:
        """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Current:
    """The question that is being answered."""

    problem: Problem
    number: int
    seconds: float
    granted: float
    """Seconds that it may take at the most, as things stand."""
    tally: Tally
    grant: Grant


@dataclass(frozen=True, slots=True)
class ExamStatus:
    """An exam at one moment, for a board."""

    elapsed: float
    """Seconds gone of `total`; sleep and downtime included."""
    total: float
    """Seconds that may be used."""
    num_problems: int
    answers: tuple[ExamAnswer, ...]
    """In the order in which they were given."""
    current: Current | None
    banked: float
    """Seconds saved against the policy's base."""
    num_tokens: int
    """Sampled in this process."""
    slept: float
    """Seconds that only the wall clock has seen."""

    @property
    def left(self) -> float:
        """Seconds left of `total`."""
        return max(0.0, self.total - self.elapsed)


@dataclass(slots=True)
class _Running:
    """A question on its way, and what was heard of it."""

    problem: Problem
    number: int
    asked_at: float
    """Exam seconds gone when its turn came."""
    ledger: Ledger
    most: float
    """Seconds from then that must not be passed."""
    earlier: dict[str, float]
    """Votes that an earlier process had counted."""
    granted: Grant
    pace: Pace | None = None
    first_vote: float | None = None
    """Seconds until the first vote."""
    question: Question | None = None
    ear: "_Ear | None" = None
    counted: dict[str, float] = field(default_factory=dict)
    written_at: float = 0.0
    stop: StopReason | None = None
    note: str | None = None
    """One line where something went wrong."""

    @property
    def weights(self) -> dict[str, float]:
        """All votes, the largest first."""
        now = self.question.tally.weights if self.question else {}
        return merged(self.earlier, now)


class Exam:
    """Answers problems under one clock. `answer` never raises and is never late."""

    def __init__(
        self,
        config: ExamConfig,
        ask: Ask,
        folder: ExamFolder | None = None,
        clock: Clock | None = None,
        *,
        lessons: Lessons | None = None,
        watcher: Watcher | None = None,
        setup: Mapping[str, Any] | None = None,
        tick: float = _TICK_SECONDS,
    ) -> None:
        """`folder` with a history makes this exam go on with it, with the time really left.

        `lessons`: for the policy `value`; those that come with the package where it is `None`.

        `setup` is stored with the beginning, for whoever resumes. Raises `InputError` where the
        folder holds an exam of other rules.
        """
        self._config = config
        self._ask = ask
        self._folder = folder
        self._clock = SystemClock() if clock is None else clock
        if lessons is None and config.budget.policy == "value":
            lessons = default_lessons()
        self._lessons = lessons
        self._watcher: Watcher = Unwatched() if watcher is None else watcher
        self._setup = dict(setup or {})
        self._tick = tick
        self._history = folder.history if folder is not None else History()
        began = self._history.began
        if began is not None and began.config != config:
            raise InputError("the folder holds an exam of other rules; give an empty one")
        asked = self._history.asked.values()
        self._statements = {each.problem.id: each.problem.statement for each in asked}
        self._stopwatch: Stopwatch | None = None
        self._turn = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[ExamAnswer]] = {}
        self._left_behind: set[asyncio.Task[Solved]] = set()
        self._running: _Running | None = None
        self._num_tokens = 0
        self._interrupted = asyncio.Event()

    def start(self, elapsed: float = 0.0) -> None:
        """Start the clock; the first question does it, too. Doing it twice is allowed.

        `elapsed`: seconds of the exam that were gone before, such as a notebook's start. An exam
        that is resumed knows them itself.
        """
        if self._stopwatch is not None:
            return
        history, now = self._history, self._clock.now()
        if history.began is None:
            self._stopwatch = Stopwatch(self._clock, elapsed)
            self._write(Began(config=self._config, setup=self._setup, **self._when()), sync=True)
            return
        gone = elapsed_since(history.last_at, history.last_elapsed, now)
        self._stopwatch = Stopwatch(self._clock, gone)
        self._write(Resumed(**self._when()), sync=True)

    @property
    def config(self) -> ExamConfig:
        """The rules."""
        return self._config

    @property
    def answers(self) -> Mapping[str, ExamAnswer]:
        """By problem, in the order in which they were given."""
        return self._history.answers

    @property
    def num_resumed(self) -> int:
        """How often another process has gone on with it, this one included."""
        return self._history.num_resumed

    @property
    def elapsed(self) -> float:
        """Exam seconds gone; 0 before the start."""
        return 0.0 if self._stopwatch is None else self._stopwatch.elapsed()

    @property
    def status(self) -> ExamStatus:
        """How the exam stands now."""
        return ExamStatus(
            elapsed=self.elapsed,
            total=self._config.usable,
            num_problems=self._config.num_problems,
            answers=tuple(self._history.answers.values()),
            current=self._current(),
            banked=banked(self._config.budget, self._ledger(0.0)),
            num_tokens=self._num_tokens,
            slept=0.0 if self._stopwatch is None else self._stopwatch.slept,
        )

    def _current(self) -> Current | None:
        running = self._running
        if running is None:
            return None
        votes = running.question.tally.num_votes if running.question else 0
        return Current(
            running.problem,
            running.number,
            self.elapsed - running.asked_at,
            running.granted.seconds,
            Tally(running.weights, votes),
            running.granted,
        )

    async def answer(self, problem: Problem, within: float | None = None) -> ExamAnswer:
        """The answer to a problem, within its time; the same one whenever it is asked again.

        The same problem is one of the same id and statement; its answer has the id of `known_as`.

        `within`: seconds that the caller waits at the most. Two problems at once are answered one
        after the other: the second one's limits run from its call, its own time from its turn. A
        caller that is cancelled leaves the question going: its answer is kept for the next call.
        """
        self.start()
        own = self.known_as(problem)
        if own.id != problem.id:
            self._watcher.notice(f"[{problem.id}] stands for another problem already: {own.id}")
            problem = own
        self._statements.setdefault(problem.id, problem.statement)
        known = self._history.answers.get(problem.id)
        if known is not None:
            self._watcher.answered(known, again=True)
            return known
        task = self._tasks.get(problem.id)
        if task is None:
            limits = [each for each in (self._config.per_question, within) if each is not None]
            limit = min(limits, default=None)
            task = asyncio.create_task(self._in_turn(problem, self.elapsed, limit))
            self._tasks[problem.id] = task
        return await asyncio.shield(task)

    def known_as(self, problem: Problem) -> Problem:
        """The problem as this exam keeps it: an id that another statement has gets a suffix."""
        if self._statements.get(problem.id, problem.statement) == problem.statement:
            return problem
        digest = hashlib.sha256(problem.statement.encode()).hexdigest()[:8]
        return problem.model_copy(update={"id": f"{problem.id}-{digest}"})

    def interrupt(self) -> None:
        """Ctrl-C: end the running question with the votes so far; nothing is answered after it.

        A question that has no vote yet stays unanswered, so that a resumed exam asks it again:
        its `answer` is a guess that is not written down.
        """
        self._interrupted.set()
        if self._running is not None and self._running.question is not None:
            self._running.question.interrupt("interrupted")

    async def close(self) -> None:
        """End whatever still runs, and await it. The journal stays open: it is the caller's."""
        tasks = [*self._tasks.values(), *self._left_behind]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if len(self._history.answers) >= self._config.num_problems and not self._history.ended:
            self._write(Ended(**self._when()), sync=True)

    async def _in_turn(self, problem: Problem, called_at: float, limit: float | None) -> ExamAnswer:
        """Answer it when its turn comes, at the most `limit` seconds after the call."""
        try:
            async with self._turn:
                return await self._answered(self._opened(problem, called_at, limit))
        finally:
            self._tasks.pop(problem.id, None)

    async def _answered(self, running: _Running) -> ExamAnswer:
        self._running = running
        solved: Solved | None = None
        try:
            self._watcher.asked(running.problem, running.number)
            solved = await self._solved(running)
        # The boundary of an exam: whatever went wrong, there is an answer, and the next one.
        except Exception as error:  # noqa: BLE001
            running.note = _noted(error)
            self._watcher.notice(f"[{running.problem.id}] {running.note}")
        finally:
            self._running = None
        return self._decided(running, solved)

    def _ledger(self, left: float) -> Ledger:
        return Ledger(
            total=self._config.usable,
            left=left,
            num_problems=self._config.num_problems,
            spent=tuple(answer.seconds for answer in self._history.answers.values()),
            firsts=tuple(_first(answer) for answer in self._history.answers.values()),
        )

    def _opened(self, problem: Problem, called_at: float, limit: float | None) -> _Running:
        """Write down that the problem was seen, and what it may take."""
        begins = self.elapsed
        left = self._config.usable - begins
        most = max(0.0, left if limit is None else min(left, called_at + limit - begins))
        ledger = self._ledger(max(0.0, left))
        pace = None if self._lessons is None else Pace(self._lessons, ledger.share, ledger.firsts)
        first = grant(self._config.budget, ledger, Standing(), self._lessons, pace, most=most)
        seen = self._history.asked.get(problem.id)
        number = seen.number if seen else len(self._history.asked) + 1
        earlier = self._history.counted.get(problem.id)
        self._write(Asked(problem=problem, number=number, granted=first.seconds, **self._when()))
        return _Running(
            problem,
            number,
            begins,
            ledger,
            most,
            dict(earlier[-1].weights) if earlier else {},
            first,
            pace,
        )

    async def _solved(self, running: _Running) -> Solved | None:
        """Solve the problem, as long as the policy lets it; `None` where nothing was started.

        A question that found no engine, or whose every rollout failed, is asked again while its
        time lasts, with growing pauses, because a server may come back.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = self.elapsed
            gone = began - running.asked_at
            own = min(running.granted.seconds, running.most) - gone
            if self._interrupted.is_set() or own - _MARGIN_SECONDS < _SHORTEST_SECONDS:
                return None
            if self._config.sleep is not None:
                await self._paused(min(self._config.sleep, own - _MARGIN_SECONDS))
                return None
            solved, failure = await self._tried(running, began, own)
            left = own - (self.elapsed - began) - _MARGIN_SECONDS
            if failure is None or running.weights or left < pause + _SHORTEST_SECONDS:
                return solved
            self._watcher.notice(f"[{running.problem.id}] {failure}; trying again in {pause:g} s")
            await self._paused(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _paused(self, seconds: float) -> None:
        """Wait, unless the exam is interrupted meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._interrupted.wait()

    async def _tried(
        self, running: _Running, began: float, own: float
    ) -> tuple[Solved | None, str | None]:
        """One attempt; and why it failed, if another may do better."""
        try:
            solved = await self._attempt(running, began, own)
        except (SetupError, ModelError) as error:
            running.note = _noted(error)
            return None, str(error)
        running.note = None
        failed = solved is not None and solved.outcome.stop_reason == "failed"
        if solved is None or not failed:
            return solved, None
        return solved, f"every rollout failed ({solved.outcome.note})"

    async def _attempt(self, running: _Running, began: float, own: float) -> Solved | None:
        """Let a solver work for `own` seconds from `began` on, at the most."""
        ear = running.ear = _Ear(self._watcher)
        running.question = self._ask(running.problem, ear)
        deadline = Deadline.after(own - _MARGIN_SECONDS)
        solving = asyncio.create_task(running.question.solve(deadline))
        try:
            await self._watch(running, solving, began, own - _LAST_SECONDS)
            return solving.result() if solving.done() else None
        finally:
            self._num_tokens += ear.num_tokens
            if not solving.done():
                self._leave(solving)

    def _leave(self, solving: "asyncio.Task[Solved]") -> None:
        """A solver that does not come back must not hold up its answer; it ends when it may."""
        solving.cancel()
        self._left_behind.add(solving)
        solving.add_done_callback(self._left_behind.discard)

    async def _watch(
        self, running: _Running, solving: "asyncio.Task[Solved]", began: float, last: float
    ) -> None:
        """Look at clock and votes until the question ends, or `last` seconds after it `began`."""
        assert running.question is not None
        while not solving.done():
            left = last - (self.elapsed - began)
            if left <= _INSTANT:
                running.question.interrupt("deadline")
                return
            await asyncio.wait([solving], timeout=min(self._tick, left))
            self._note_progress(running)
            if running.stop is None and not solving.done():
                self._review(running, began)

    def _review(self, running: _Running, began: float) -> None:
        """Ask the policy whether the question may go on."""
        assert running.question is not None
        seconds = self.elapsed - running.asked_at
        votes = running.question.tally.num_votes
        if votes and running.first_vote is None:
            running.first_vote = seconds
        standing = Standing(seconds, tuple(running.weights.values()), votes, running.first_vote)
        running.granted = grant(
            self._config.budget,
            running.ledger,
            standing,
            self._lessons,
            running.pace,
            most=running.most,
        )
        if running.granted.stop is not None:
            running.stop = running.granted.stop
            running.question.interrupt(running.stop)
        elif seconds >= running.granted.seconds - _MARGIN_SECONDS:
            # The laptop slept: the loop's own deadline is still to come, the exam's is not.
            running.stop = "deadline"
            running.question.interrupt("deadline")

    def _note_progress(self, running: _Running) -> None:
        assert running.question is not None
        assert running.ear is not None
        votes = running.question.tally
        if votes.weights != running.counted:
            running.counted = dict(votes.weights)
            self._write(
                Counted(
                    id=running.problem.id,
                    weights=running.weights,
                    num_votes=votes.num_votes,
                    num_tokens=running.ear.num_tokens,
                    **self._when(),
                )
            )
        if self.elapsed - running.written_at >= _LIVE_SECONDS:
            running.written_at = self.elapsed
            texts = running.ear.take()
            if texts:
                tokens = running.ear.num_tokens
                self._write(
                    Live(id=running.problem.id, texts=texts, num_tokens=tokens, **self._when())
                )

    def _decided(self, running: _Running, solved: Solved | None) -> ExamAnswer:
        """Choose the answer, and write it down before anybody hears it."""
        outcome = solved.outcome if solved else None
        best = best_answer(self._config, running.earlier, running.weights, outcome)
        if outcome is not None:
            stop = running.stop if outcome.stop_reason in ("interrupted", "deadline") else None
            if stop is not None:
                outcome = outcome.model_copy(update={"stop_reason": stop})
        answer = ExamAnswer(
            id=running.problem.id,
            answer=self._config.guess if best is None else best,
            guessed=best is None,
            number=running.number,
            started=running.asked_at,
            seconds=self.elapsed - running.asked_at,
            granted=running.granted.seconds,
            num_votes=running.question.tally.num_votes if running.question else 0,
            first_vote=running.first_vote,
            outcome=outcome,
            note=running.note,
        )
        if self._interrupted.is_set() and best is None:
            return answer
        self._write(Answered(answer=answer, **self._when()), sync=True)
        if self._folder is not None:
            self._folder.keep(outcome, solved.traces if solved else ())
        self._watcher.answered(answer, again=False)
        return answer

    def _when(self) -> dict[str, float]:
        return {"at": self._clock.now(), "elapsed": self.elapsed}

    def _write(self, record: Record, *, sync: bool = False) -> None:
        if self._folder is None:
            self._history.add(record)
        else:
            self._folder.write(record, sync=sync)

    def note(self, text: str) -> None:
        """Write a line into the journal, and show it."""
        self._write(Noted(text=text, **self._when()))
        self._watcher.notice(text)


class _Ear:
    """Hears a question's rollouts for the journal, and passes everything on."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._tokens: dict[int, int] = {}
        self._texts: dict[str, list[str]] = {}

    @property
    def num_tokens(self) -> int:
        """Sampled tokens of all rollouts."""
        return sum(self._tokens.values())

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """Remember the text until the journal takes it."""
        self._texts.setdefault(str(rollout), []).append(text)
        self._watcher.text(rollout, kind, text)

    def progress(self, rollout: Attempt) -> None:
        """Remember how much it has sampled."""
        self._tokens[rollout.index] = rollout.num_tokens
        self._watcher.progress(rollout)

    def take(self) -> dict[str, str]:
        """What was added since the last call, by rollout."""
        texts = {index: "".join(parts) for index, parts in self._texts.items()}
        self._texts.clear()
        return {index: text for index, text in texts.items() if text}


def _first(answer: ExamAnswer) -> First:
    """What an answered problem says of the exam's pace."""
    if answer.first_vote is not None:
        return First(answer.first_vote, came=True)
    return First(answer.seconds, came=answer.num_votes > 0)


def _noted(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def merged(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Two tallies in one, the largest weight first; ties keep their order."""
    weights = dict(first)
    for answer, weight in second.items():
        weights[answer] = weights.get(answer, 0.0) + weight
    return dict(sorted(weights.items(), key=lambda item: -item[1]))


def best_answer(
    config: ExamConfig,
    earlier: Mapping[str, float],
    weights: Mapping[str, float],
    outcome: Outcome | None,
) -> str | None:
    """The best answer that can be right at all; `None` where there is none.

    The solver's own choice, unless votes of an earlier process join in; then, and where its
    choice is outside the exam's range, the heaviest answer inside it.
    """
    chosen = outcome.answer if outcome is not None and not earlier else None
    candidates = ([chosen] if chosen is not None else []) + list(weights)
    return next((answer for answer in candidates if config.admits(answer)), None)
