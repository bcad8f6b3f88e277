"""Run a data set: every rollout of every problem under one limit, graded and stored as it ends.

Two modes. `samples`: independent rollouts of fixed seeds, so that a run that was killed goes on
where it stopped and comes to the same figures. `solve`: the whole solver, once a problem. Knows no
files and no terminal; a lost server is waited for, and its rollouts are run again.
"""

import asyncio
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, get_args

from aimo2.answers import Judge
from aimo2.attempt import Attempt, Question, TextKind
from aimo2.config import SolveConfig
from aimo2.deadline import Deadline
from aimo2.errors import ModelUnavailable, ServerError
from aimo2.evals.datasets import Item
from aimo2.evals.samples import Classes, Grade, Key, Sample, classify, grade, outcome_of
from aimo2.evals.store import Mode
from aimo2.llm import Chunk, Conversation, Model, Sampling
from aimo2.prompts.families import find_family
from aimo2.rollout import Rollout
from aimo2.schedule import Schedule
from aimo2.solver import Named, Solved, Solver, Tools
from aimo2.types import Outcome, Problem, StopRule, Trace

PATIENCE_SECONDS = 600.0
"""How long a server may be away before the run ends (and can be resumed)."""
_LONGEST_PAUSE = 15.0
_FINISH_SECONDS = 20.0
"""How long grading may go on after an interruption."""
_SPOILED_TRIES = 5
"""A rollout or question that still loses the server while it answers others is then kept as it is:
its own requests may be what the server dies of."""
_DECIDED = frozenset(get_args(StopRule)) - {"unassailable"} | {"max_votes"}
"""Ends of a question that its votes alone brought about: `unassailable` also counts who may still
vote, and takes those that were lost for such that will not.
"""
T = TypeVar("T")


class Sink(Protocol):
    """Where results go; `store.RunStore` is one."""

    def add_trace(self, trace: Trace) -> None:
        """A rollout that has ended."""
        ...

    def add_grade(self, trace: Trace, grade: Grade) -> Sample:
        """Its verdict; the sample that the two make."""
        ...

    def add_end(self, classes: Classes, outcome: Outcome) -> None:
        """A problem that is done."""
        ...


class Watcher(Protocol):
    """Whoever watches; called from the event loop: return at once, never raise."""

    def sample_done(self, sample: Sample) -> None:
        """A sample was graded."""
        ...

    def problem_done(self, outcome: Outcome) -> None:
        """Every sample of a problem was graded."""
        ...

    def notice(self, text: str) -> None:
        """A line that a person should see once."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run. `samples`: rollouts a problem in mode `samples`."""

    items: Sequence[Item]
    mode: Mode
    samples: int
    config: SolveConfig


@dataclass(slots=True)
class Done:
    """What is there already, of an earlier part of the run."""

    samples: Mapping[Key, Sample] = field(default_factory=dict)
    ungraded: Mapping[Key, Trace] = field(default_factory=dict)
    problems: frozenset[str] = frozenset()


class Limit(asyncio.Semaphore):
    """How many rollouts may stream at the same time."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Runner:
    """Runs a plan once. `interrupt` may be called at any time: what has ended is kept."""

    def __init__(
        self,
        plan: Plan,
        tools: Tools,
        sink: Sink,
        watcher: Watcher,
        *,
        limit: Limit,
        done: Done | None = None,
        patience: float = PATIENCE_SECONDS,
        failure: Callable[[], str | None] = lambda: None,
        model_name: str | None = None,
    ) -> None:
        """`limit`: over all problems, and over all runners that share it.

        `failure`: why the server is gone for good, so that nobody waits for it. `tools.judge`
        should have a worker for every few cores: it grades, too. `model_name`: for the record,
        and to know the model's family by. Raises `ConfigError` for an unknown family.
        """
        self._plan = plan
        self._outage = _Outage(watcher, patience, failure)
        self._tools = replace(
            tools,
            model=_Watched(tools.model, self._outage),
            verifier=_watched(tools.verifier, self._outage),
        )
        self._sink = sink
        self._watcher = watcher
        self._limit = limit
        self._model_name = model_name
        self._family = find_family(
            tools.asked_as or model_name, plan.config.family, opens_thinking=tools.opens_thinking
        )
        self._done = done or Done()
        self._by_problem: dict[str, dict[int, Sample]] = defaultdict(dict)
        for (problem_id, rollout), sample in self._done.samples.items():
            self._by_problem[problem_id][rollout] = sample
        self._work: asyncio.Task[None] | None = None
        self._grading: set[asyncio.Task[None]] = set()
        self._bug: BaseException | None = None
        self.interrupted = False

    def interrupt(self) -> None:
        """Stop now: rollouts that run are dropped, those that ended are graded and kept."""
        self.interrupted = True
        if self._work is not None:
            self._work.cancel()

    async def run(self) -> None:
        """Run what is not done. Raises `ServerError` where the server stays away."""
        self._work = asyncio.create_task(self._all())
        try:
            await asyncio.wait([self._work])
            if not self._work.cancelled() and (error := self._work.exception()) is not None:
                raise _first(error)
        finally:
            self._work.cancel()
            await asyncio.wait([self._work])
            await self._end_grading()
        if self._bug is not None:
            raise self._bug

    async def _all(self) -> None:
        items = [item for item in self._plan.items if item.problem.id not in self._done.problems]
        async with asyncio.TaskGroup() as group:
            if self._plan.mode == "solve":
                self._start_solving(items, group)
            else:
                self._start_sampling(items, group)
        while self._grading:
            await asyncio.wait(self._grading)

    async def _end_grading(self) -> None:
        if self._grading:
            await asyncio.wait(self._grading, timeout=_FINISH_SECONDS)
        left = list(self._grading)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    # Independent samples

    def _start_sampling(self, items: Sequence[Item], group: asyncio.TaskGroup) -> None:
        for item in items:
            rest = [
                (item, trace)
                for (problem_id, _), trace in self._done.ungraded.items()
                if problem_id == item.problem.id
            ]
            for _, trace in rest:
                self._grade_later(item, trace)
            if not rest and len(self._by_problem[item.problem.id]) >= self._plan.samples:
                self._end_later(item)
        jobs = self._jobs(items)
        # As many workers as could ever run: each holds one open job, none holds the whole list.
        for _ in range(min(self._limit.size, len(items) * self._plan.samples)):
            group.create_task(self._sampler(jobs))

    def _jobs(self, items: Iterable[Item]) -> Iterator[tuple[Item, int]]:
        """Problem by problem, so that a server's prefix cache helps and problems get done."""
        for item in items:
            for rollout in range(self._plan.samples):
                key = (item.problem.id, rollout)
                if key not in self._done.samples and key not in self._done.ungraded:
                    yield item, rollout

    async def _sampler(self, jobs: Iterator[tuple[Item, int]]) -> None:
        for item, rollout in jobs:
            async with self._limit:
                trace = await self._sample(item.problem, rollout)
            self._sink.add_trace(trace)
            self._grade_later(item, trace)

    async def _sample(self, problem: Problem, rollout: int) -> Trace:
        """One rollout's record; run again where the server was away, if only for its last words."""
        return await self._undisturbed(
            f"{problem.id}, sample {rollout}", lambda: self._attempt(problem, rollout)
        )

    async def _undisturbed(
        self,
        name: str,
        work: Callable[[], Awaitable[T]],
        spoiled: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """What `work` gives; done again where the server was lost and that has `spoiled` it."""
        tries = 0
        while True:
            heard = _Heard()
            _heard.set(heard)
            done = await work()
            if not (heard.lost and spoiled(done)):
                return done
            # Without an answer to anything it was an outage like any other, however long.
            tries += heard.answered
            if tries == _SPOILED_TRIES:
                self._watcher.notice(
                    f"{name}: the server was lost in each of {tries} tries ({heard.lost[-1]});"
                    " it is kept as it is"
                )
                return done
            await self._outage.wait(heard.lost[-1])

    async def _attempt(self, problem: Problem, rollout: int) -> Trace:
        config = self._plan.config
        began = asyncio.get_running_loop().time()
        deadline = Deadline.after(config.timeout)
        schedule = Schedule(config, verifies=False, began=began, deadline=deadline)

        async def canonicalise(raw: str) -> Any:
            return await self._tools.judge.canonicalise(
                raw, config.answer_type, config.modulus, deadline=deadline
            )

        question = Question(
            problem,
            config,
            self._tools.model,
            self._tools.sandbox,
            canonicalise,
            _Unwatched(),
            model_name=self._model_name,
            family=self._family,
            continues=self._tools.continues,
        )
        attempt = Rollout(question, rollout)
        async with asyncio.TaskGroup() as group:
            winding = group.create_task(_wind_down(attempt, schedule))
            await attempt.run(schedule.settled_by())
            winding.cancel()
        return attempt.trace().model_copy(update={"sandbox_layers": self._tools.sandbox_layers})

    def _grade_later(self, item: Item, trace: Trace) -> None:
        """Beside the rollouts: a slow comparison must not hold a place at the server."""
        self._spawn(self._grade(item, trace))

    def _end_later(self, item: Item) -> None:
        self._spawn(self._end(item))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._grading.add(task)
        task.add_done_callback(self._graded)

    def _graded(self, task: "asyncio.Task[None]") -> None:
        self._grading.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._failed(bug)

    def _failed(self, bug: BaseException) -> None:
        """Grading failed: end the run with it (a full disk, or a bug)."""
        if self._work is not None and not self._work.done():
            self._bug = bug
            self._work.cancel()

    async def _grade(self, item: Item, trace: Trace) -> None:
        found = await grade(trace, item.problem, self._plan.config, self._tools.judge)
        sample = self._sink.add_grade(trace, found)
        of_problem = self._by_problem[item.problem.id]
        of_problem[trace.rollout] = sample
        self._watcher.sample_done(sample)
        if len(of_problem) == self._plan.samples:
            await self._end(item)

    async def _end(self, item: Item) -> None:
        samples = list(self._by_problem[item.problem.id].values())
        classes = await classify(item.problem.id, samples, self._plan.config, self._tools.judge)
        outcome = outcome_of(item.problem, samples, classes)
        self._sink.add_end(classes, outcome)
        self._watcher.problem_done(outcome)

    # The whole solver

    def _start_solving(self, items: Sequence[Item], group: asyncio.TaskGroup) -> None:
        """As many questions at once as their own rollouts leave room for."""
        config = self._plan.config
        each = min(config.concurrency, config.num_rollouts)
        questions = iter(items)
        for _ in range(max(1, min(len(items), self._limit.size // each))):
            group.create_task(self._solving(questions))

    async def _solving(self, questions: Iterator[Item]) -> None:
        for item in questions:
            await self._solve(item)

    async def _solve(self, item: Item) -> None:
        config = self._plan.config

        async def solve() -> Solved:
            solver = Solver(item.problem, config, self._tools, _Unwatched())
            return await solver.solve(Deadline.after(config.timeout))

        def spoiled(solved: Solved) -> bool:
            """Votes that decided the question did so without those that were lost."""
            return solved.outcome.stop_reason not in _DECIDED or config.verify.comparisons > 0

        solved = await self._undisturbed(item.problem.id, solve, spoiled)
        samples = []
        for trace in solved.traces:
            found = await grade(trace, item.problem, self._plan.config, self._tools.judge)
            self._sink.add_trace(trace)
            samples.append(self._sink.add_grade(trace, found))
        classes = await classify(item.problem.id, samples, self._plan.config, self._tools.judge)
        self._sink.add_end(classes, solved.outcome)
        for sample in samples:
            self._watcher.sample_done(sample)
        self._watcher.problem_done(solved.outcome)


def _first(error: BaseException) -> BaseException:
    """The first real error of a task group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Unwatched:
    """Nobody reads a rollout's text here."""

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """Drop it."""

    def progress(self, rollout: Attempt) -> None:
        """Nothing to show."""


async def _wind_down(attempt: Rollout, schedule: Schedule) -> None:
    """Have the rollout answer while there is time for it, by how fast it has streamed so far."""
    if schedule.deadline.when() is None:
        return
    while True:
        seconds = schedule.look_again([attempt.pace] if attempt.pace else [])
        if seconds <= 0:
            break
        await asyncio.sleep(seconds)
    attempt.move(schedule.settled_by(), Deadline.after(0))


@dataclass(slots=True)
class _Heard:
    """Of the current rollout or question: why the server was lost each time, and whether it
    answered anything.
    """

    lost: list[str] = field(default_factory=list)
    answered: bool = False


_heard: ContextVar[_Heard] = ContextVar("_heard")


def _watched(named: Named | None, outage: "_Outage") -> Named | None:
    return None if named is None else replace(named, model=_Watched(named.model, outage))


class _Watched:
    """The model, but a lost server is remembered beside the rollout's own record."""

    def __init__(self, model: Model, outage: "_Outage") -> None:
        self._model = model
        self._outage = outage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        """As the model's own."""
        heard, began = _heard.get(_Heard()), asyncio.get_running_loop().time()
        try:
            async with aclosing(self._model.stream(conversation, sampling, deadline)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ModelUnavailable as error:
            heard.lost.append(str(error))
            raise
        except GeneratorExit:
            # Whoever reads it had enough: it was served.
            heard.answered = True
            self._outage.over(began)
            raise
        heard.answered = True
        self._outage.over(began)


class _Outage:
    """The time since the server was lost; shared by every rollout that waits for it."""

    def __init__(
        self, watcher: Watcher, patience: float, failure: Callable[[], str | None]
    ) -> None:
        self._watcher = watcher
        self._patience = patience
        self._failure = failure
        self._since: float | None = None

    def over(self, began: float) -> None:
        """A request that was made at `began` has been answered in full."""
        if self._since is not None and began >= self._since:
            self._since = None
            self._watcher.notice("the server answers again")

    async def wait(self, why: str) -> None:
        """Pause before the next try. Raises `ServerError` where patience has run out."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
            self._watcher.notice(f"the server is away ({why}); waiting for it")
        if (gone := self._failure()) is not None:
            raise ServerError(gone)
        away = now - self._since
        if away > self._patience:
            raise ServerError(
                f"the server has been away for {away / 60:.0f} min ({why}); start it again and"
                " repeat the command: what has ended is kept"
            )
        await asyncio.sleep(min(_LONGEST_PAUSE, max(1.0, away / 4)))


@dataclass(slots=True)
class Score:
    """Running accuracy: the mean over problems of their samples' share of right ones."""

    right: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    tokens: int = 0

    def add(self, sample: Sample) -> None:
        """Count a sample; one without a gold only costs tokens."""
        self.tokens += sample.num_sampled_tokens
        if sample.correct is not None:
            self.samples[sample.problem_id] += 1
            self.right[sample.problem_id] += sample.correct

    def accuracy(self) -> tuple[float, float] | None:
        """Mean and half the width of a rough 95 % interval, both 0 to 1; `None` before a sample."""
        shares = [self.right[name] / count for name, count in self.samples.items()]
        if not shares:
            return None
        if len(shares) < 3:
            return statistics.fmean(shares), math.nan
        spread = 1.96 * statistics.stdev(shares) / math.sqrt(len(shares))
        return statistics.fmean(shares), spread


def judge_for(cores: int) -> Judge:
    """A judge with workers enough to grade beside `cores` cores of work."""
    return Judge(workers=max(1, cores // 2))
