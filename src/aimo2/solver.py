"""One question: open rollouts, collect their votes, stop as soon as the vote is decided.

Knows no files, no terminal and no servers; how votes add up and when to stop is `policy`'s.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from aimo2.answers import Canonical, Judge, group
from aimo2.config import SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.llm import Model
from aimo2.policy.stop import decided
from aimo2.policy.vote import SOURCE_WEIGHTS, Tally, tally
from aimo2.rollout import Observer, Question, Rollout
from aimo2.sandbox import Sandbox
from aimo2.types import Outcome, Problem, StopReason, Trace, Vote

_LAST_WORD_SECONDS = 0.3
"""Rollouts are cancelled this long before the deadline, so that the vote is out in time."""
_SETTLE_SECONDS = 0.2
"""Rollouts stop by themselves this long before that, and still read their own answer."""
_CLEANUP_SECONDS = 0.5
"""How long a cancelled rollout may take to close its stream and kernel."""
_COMPARE_SECONDS = 2.0
"""How long the comparison with a gold answer may take after the question has ended."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a solver works with; made and closed by whoever calls it."""

    model: Model
    sandbox: Sandbox
    judge: Judge
    sandbox_layers: tuple[str, ...] = ()
    """For the record: what isolates the sandbox."""


@dataclass(frozen=True, slots=True)
class Solved:
    """What a question came to, and the record of each rollout that was started."""

    outcome: Outcome
    traces: Sequence[Trace]


@dataclass(slots=True)
class _Board:
    """The question's rollouts and the votes they have cast."""

    rollouts: list[Rollout] = field(default_factory=list)
    votes: list[Vote] = field(default_factory=list)
    tally: Tally = field(default_factory=lambda: tally(()))


class Solver:
    """Solves one problem once. `interrupt` may be called at any time to end it early."""

    def __init__(
        self, problem: Problem, config: SolveConfig, tools: Tools, observer: Observer
    ) -> None:
        self._problem = problem
        self._config = config
        self._tools = tools
        self._observer = observer
        self._board = _Board()
        self._next_index = 0
        self._over = asyncio.Event()
        self._stop_reason: StopReason | None = None
        self._deadline = NEVER
        self._question = Question(
            problem, config, tools.model, tools.sandbox, self._canonicalise, observer
        )

    @property
    def tally(self) -> Tally:
        """The votes so far."""
        return self._board.tally

    def interrupt(self) -> None:
        """End the question now; the votes so far decide."""
        self._stop("interrupted")

    def _stop(self, reason: StopReason) -> None:
        if self._stop_reason is None:
            self._stop_reason = reason
            self._over.set()

    async def solve(self, deadline: Deadline) -> Solved:
        """Run the question to its end, by `deadline` at the latest.

        A failed rollout is in the traces; only bugs are raised.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._deadline = deadline
        warming = asyncio.create_task(self._warm())
        try:
            await self._run_workers(deadline.earlier(_LAST_WORD_SECONDS))
        finally:
            warming.cancel()
            await asyncio.wait([warming])
        return Solved(
            await self._outcome(loop.time() - started),
            tuple(
                rollout.trace().model_copy(update={"sandbox_layers": self._tools.sandbox_layers})
                for rollout in self._board.rollouts
            ),
        )

    async def _warm(self) -> None:
        """Expressions need algebra: its first worker starts while the model thinks."""
        if self._config.answer_type == "expr":
            await self._tools.judge.warm()

    async def _run_workers(self, deadline: Deadline) -> None:
        """Own every rollout's task: start them, wait for the end, cancel the rest and await it."""
        workers = [
            asyncio.create_task(self._worker(deadline.earlier(_SETTLE_SECONDS)))
            for _ in range(min(self._config.concurrency, self._config.num_rollouts))
        ]
        over = asyncio.create_task(self._over.wait())
        try:
            await self._wait(workers, over, deadline)
        finally:
            for task in (*workers, over):
                task.cancel()
            # Bounded: a server that never lets go of a stream must not cost us the deadline.
            await asyncio.wait((*workers, over), timeout=_CLEANUP_SECONDS)
            self._finish_rollouts()
        for task in workers:
            if task.done() and not task.cancelled() and (bug := task.exception()) is not None:
                raise bug

    async def _wait(
        self, workers: list[asyncio.Task[None]], over: asyncio.Task[bool], deadline: Deadline
    ) -> None:
        pending = set(workers)
        while pending and not over.done():
            left = None if deadline.when() is None else deadline.remaining()
            done, _ = await asyncio.wait(
                {*pending, over}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            pending -= done
            if any(task is not over and task.exception() is not None for task in done):
                return
            if not done or deadline.passed():
                self._stop("deadline")
        late = self._next_index < self._config.num_rollouts or any(
            rollout.stop_reason == "deadline" for rollout in self._board.rollouts
        )
        self._stop("deadline" if late else "exhausted")

    def _finish_rollouts(self) -> None:
        for rollout in self._board.rollouts:
            rollout.finish("deadline" if self._stop_reason == "deadline" else "cancelled")

    async def _worker(self, deadline: Deadline) -> None:
        """Take the next rollout until none is left or the vote is decided."""
        while self._next_index < self._config.num_rollouts and not self._over.is_set():
            if deadline.passed():
                return
            rollout = self._open(self._next_index)
            self._next_index += 1
            await rollout.run(deadline)
            await self._count(rollout)

    def _open(self, index: int) -> Rollout:
        rollout = Rollout(self._question, index)
        self._board.rollouts.append(rollout)
        return rollout

    async def _canonicalise(self, raw: str) -> Canonical:
        return await self._tools.judge.canonicalise(
            raw, self._config.answer_type, self._config.modulus, deadline=self._deadline
        )

    async def _count(self, rollout: Rollout) -> None:
        """Add the rollout's vote, and stop the question if that decides it."""
        if rollout.answer is None or rollout.answer.canonical.value is None:
            return
        self._board.votes.append(
            Vote(
                rollout=rollout.index,
                answer=rollout.answer.canonical.value,
                weight=SOURCE_WEIGHTS[rollout.answer.extracted.source],
            )
        )
        self._board.tally = tally(await self._merged(tuple(self._board.votes)))
        if decided(self._config.stop, self._board.tally, self._config.num_rollouts):
            self._stop("majority")

    async def _merged(self, votes: tuple[Vote, ...]) -> Sequence[Vote]:
        """Votes for equal expressions put under the one that the first rollout wrote."""
        if self._config.answer_type == "int":
            return votes
        ordered = sorted(votes, key=lambda vote: vote.rollout)
        classes = await group([vote.answer for vote in ordered], self._tools.judge)
        names: dict[int, str] = {}
        for vote, number in zip(ordered, classes, strict=True):
            names.setdefault(number, vote.answer)
        return [
            vote.model_copy(update={"answer": names[number]})
            for vote, number in zip(ordered, classes, strict=True)
        ]

    async def _outcome(self, seconds: float) -> Outcome:
        rollouts, votes = self._board.rollouts, self._board.tally
        assert self._stop_reason is not None
        errors = ("model_error", "sandbox_error")
        failed = bool(rollouts) and all(rollout.stop_reason in errors for rollout in rollouts)
        return Outcome(
            id=self._problem.id,
            answer=votes.leader,
            votes=votes.weights,
            stop_reason="failed" if failed else self._stop_reason,
            num_rollouts=len(rollouts),
            num_sampled_tokens=sum(rollout.num_tokens for rollout in rollouts),
            num_code_runs=sum(rollout.num_code_runs for rollout in rollouts),
            seconds=seconds,
            note=self._note(votes),
            gold=self._problem.gold,
            correct=await self._correct(votes.leader),
        )

    def _note(self, votes: Tally) -> str | None:
        """Why there is no answer, or what the canonical form hides."""
        rollouts = self._board.rollouts
        if votes.leader is None:
            return next((r.error for r in rollouts if r.error), None)
        for rollout in rollouts:
            if rollout.answer and rollout.answer.canonical.value == votes.leader:
                return rollout.answer.canonical.note
        return None

    async def _correct(self, answer: str | None) -> bool | None:
        gold = self._problem.gold
        if gold is None:
            return None
        if answer is None:
            return False
        wanted = await self._canonicalise(gold)
        return await self._tools.judge.equal(
            wanted.value or gold, answer, deadline=Deadline.after(_COMPARE_SECONDS)
        )
