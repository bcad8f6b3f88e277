"""One question: grow its tree, weigh the votes, stop as soon as they decide, and answer in time.

Knows no files, no terminal and no servers. Where the tree grows, what a vote weighs and when they
decide are `policy`'s; here is when each is asked, and who is cancelled then.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aimo2.answers import Canonical, Judge
from aimo2.attempt import (
    Attempt,
    BoundaryKind,
    Observer,
    Onward,
    Question,
    Stepper,
    Watcher,
    derive_seed,
)
from aimo2.ballot import Ballot
from aimo2.config import SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.errors import DeadlinePassed, ModelError
from aimo2.llm import Chunk, Model
from aimo2.policy.select import Candidate
from aimo2.policy.signals import signals_of
from aimo2.policy.stop import stopped
from aimo2.policy.vote import Tally
from aimo2.prompts.families import Family, find_family
from aimo2.rollout import Rollout
from aimo2.sandbox import Sandbox
from aimo2.schedule import LEAST_WAIT_SECONDS, Schedule
from aimo2.scorer import Confidence, Scorer
from aimo2.tree import Tree
from aimo2.turns import Pace
from aimo2.types import Outcome, Problem, RolloutStop, StopReason, Trace, Vote
from aimo2.verifier import Verdict, Verifier, candidate
from aimo2.watch import Cuts, Prober

_CLEANUP_SECONDS = 0.5
"""How long a cancelled rollout may take to close its stream and kernel."""
_SCORE_SECONDS = 10.0
"""How long a step may wait for its scores: every rollout stands still meanwhile."""
_COMPARE_SECONDS = 2.0
"""How long the comparison with a gold answer may take after the question has ended."""
_CALLED_IN: dict[StopReason, RolloutStop] = {"deadline": "deadline", "max_tokens": "max_tokens"}
"""Why a rollout ends that gave no answer when the question was wound down."""


@dataclass(frozen=True, slots=True)
class Named:
    """A model and the name that it is served by."""

    model: Model
    name: str | None
    opens_thinking: bool = False
    """Whether its template begins each reply with thinking."""
    continues: bool = True
    """Whether it goes on exactly where a reply ends."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a solver works with; made and closed by whoever calls it."""

    model: Model
    sandbox: Sandbox
    judge: Judge
    sandbox_layers: tuple[str, ...] = ()
    """For the record: what isolates the sandbox."""
    model_name: str | None = None
    """For the record, and to know the model's family by."""
    asked_as: str | None = None
    """The name to know the family by, where it is another: of two models, the one that begins."""
    opens_thinking: bool = False
    """Whether the template of the model that begins opens each reply's thinking."""
    continues: bool = True
    """Whether the model goes on exactly where a reply ends."""
    verifier: Named | None = None
    """The model that compares solutions; `None` is the one that wrote them."""
    scorer: Scorer = field(default_factory=Confidence)
    """For the policies that score unfinished rollouts."""

    def family(self, wanted: str) -> Family:
        """The family of the model that begins. Raises `ConfigError` for an unknown one."""
        name = self.asked_as or self.model_name
        return find_family(name, wanted, opens_thinking=self.opens_thinking)


@dataclass(frozen=True, slots=True)
class Solved:
    """What a question came to, and the record of each rollout that was started."""

    outcome: Outcome
    traces: Sequence[Trace]


class Solver:
    """Solves one problem once. `interrupt` and `extend` may be called while it does."""

    def __init__(
        self, problem: Problem, config: SolveConfig, tools: Tools, observer: Observer
    ) -> None:
        """Raises `ConfigError` where the configuration names an unknown model family."""
        self._problem = problem
        self._config = config
        self._tools = tools
        self._observer = observer
        self._family = tools.family(config.family)
        self._cuts = Cuts(config.cut, Prober(tools.model, self._family, config.answer_type))
        self._verifier = self._chosen_verifier() if config.verify.comparisons else None
        self._verifying: asyncio.Task[Verdict] | None = None
        self._num_verifier_tokens = 0
        self._schedule = Schedule(config, verifies=self._verifier is not None)
        self._ballot = Ballot(config, tools.judge)
        self._tree: Tree | None = None
        self._over = asyncio.Event()
        self._moved = asyncio.Event()
        self._winding: StopReason | None = None
        self._stop_reason: StopReason | None = None
        self._num_tokens = 0
        self._blind: str | None = None
        """Why the search goes on without scores."""

    def _chosen_verifier(self) -> Verifier:
        other = self._tools.verifier
        model, family, continues = self._tools.model, self._family, self._tools.continues
        if other is not None:
            model, continues = other.model, other.continues
            family = find_family(other.name, opens_thinking=other.opens_thinking)
        return Verifier(model, family, self._config.verify, self._config.concurrency, continues)

    @property
    def tally(self) -> Tally:
        """The votes so far."""
        return self._ballot.tally

    @property
    def votes(self) -> Sequence[Vote]:
        """The same one by one, in order of arrival."""
        return self._ballot.votes

    @property
    def rollouts(self) -> Sequence[Rollout]:
        """Those started so far, live ones and ended ones, by index."""
        return tuple(self._tree.rollouts) if self._tree else ()

    @property
    def deadline(self) -> Deadline:
        """When the answer is due."""
        return self._schedule.deadline

    @property
    def num_tokens(self) -> int:
        """Sampled so far by all rollouts together, each token once."""
        return self._num_tokens

    def interrupt(self, reason: StopReason = "interrupted") -> None:
        """End the question: "interrupted" now, with the votes so far; any other reason soon, after
        every live rollout was made to answer.
        """
        if reason == "interrupted":
            self._stop(reason)
            if self._verifying is not None:
                self._verifying.cancel()
        else:
            self._wind_down(reason)

    def extend(self, deadline: Deadline) -> None:
        """Move the deadline, either way. Too late once answers are being forced."""
        self._schedule.deadline = deadline
        if self._winding is None:
            for rollout in self.rollouts:
                rollout.move(self._schedule.settled_by())
        self._moved.set()

    def _stop(self, reason: StopReason) -> None:
        if self._stop_reason is None:
            self._stop_reason = reason
            self._over.set()

    def _wind_down(self, reason: StopReason) -> None:
        """Open nothing more, and have what is open answer now."""
        if self._winding is not None:
            return
        self._winding = reason
        if self._tree is None:
            return
        self._tree.stop_growing()
        now = Deadline.after(0)
        for rollout in self._tree.rollouts:
            if rollout.state != "waiting":
                rollout.move(self._schedule.settled_by(), now, _CALLED_IN.get(reason, "deadline"))

    async def solve(self, deadline: Deadline) -> Solved:
        """Run the question to its end, by `deadline` at the latest.

        A failed rollout is in the traces; only bugs are raised.
        """
        self._schedule.began = asyncio.get_running_loop().time()
        self._schedule.deadline = deadline
        self._tree = Tree(self._question(), self._score)
        if self._winding is not None:  # it was interrupted before it began
            self._tree.stop_growing()
        warming = asyncio.create_task(self._warm())
        try:
            await self._run_workers(self._tree)
        finally:
            warming.cancel()
            await asyncio.wait([warming])
        self._settle()
        await self._last_resort()
        await self._verify()
        seconds = asyncio.get_running_loop().time() - self._schedule.began
        return Solved(await self._outcome(seconds), tuple(self._traces()))

    def _question(self) -> Question:
        return Question(
            self._problem,
            self._config,
            self._tools.model,
            self._tools.sandbox,
            self._admitted,
            self._observer,
            owner=self,
            began=self._schedule.began,
            model_name=self._tools.model_name,
            family=self._family,
            continues=self._tools.continues,
        )

    async def _warm(self) -> None:
        """Expressions need algebra: its first worker starts while the model thinks."""
        if self._config.answer_type == "expr":
            await self._tools.judge.warm()

    async def _run_workers(self, tree: Tree) -> None:
        """Own every rollout's task: start them, wait for the end, cancel the rest and await it."""
        workers = [asyncio.create_task(self._worker(tree)) for _ in range(self._config.concurrency)]
        try:
            await self._wait(workers)
        finally:
            for task in workers:
                task.cancel()
            # Bounded: a server that never lets go of a stream must not cost us the deadline.
            await asyncio.wait(workers, timeout=_CLEANUP_SECONDS)
            self._finish_rollouts(tree)
            closing = asyncio.create_task(tree.close())
            await asyncio.wait([closing], timeout=_CLEANUP_SECONDS)
        for task in (*workers, closing):
            if task.done() and not task.cancelled() and (bug := task.exception()) is not None:
                raise bug

    async def _wait(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """Until the vote is decided, every rollout has ended, or time is up."""
        pending = set(workers)
        while pending and not self._over.is_set():
            await self._wait_a_while(pending)
            if any(task.done() and task.exception() is not None for task in pending):
                return
            pending = {task for task in pending if not task.done()}
            if not pending:
                break
            if self._schedule.voted_by().passed():
                self._stop(self._winding or "deadline")
            elif self._schedule.wind_down_at(self._paces()).passed():
                self._wind_down("deadline")
        self._stop(self._winding or "exhausted")

    async def _wait_a_while(self, workers: set[asyncio.Task[None]]) -> None:
        """For a worker's end, a moved deadline or the decision; or until there may be news."""
        until = self._schedule.voted_by()
        seconds: float | None = None
        if until.when() is not None:
            seconds = until.remaining()
            if self._winding is None:
                seconds = min(seconds, self._schedule.look_again(self._paces()))
            seconds = max(seconds, LEAST_WAIT_SECONDS)
        signs = [asyncio.create_task(event.wait()) for event in (self._over, self._moved)]
        try:
            await asyncio.wait(
                {*workers, *signs}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for sign in signs:
                sign.cancel()
            await asyncio.wait(signs)
        self._moved.clear()

    def _paces(self) -> list[Pace]:
        """How fast the rollouts' newest calls have streamed."""
        return [pace for rollout in self.rollouts if (pace := rollout.pace) is not None]

    def _finish_rollouts(self, tree: Tree) -> None:
        reason = self._stop_reason or "failed"
        for rollout in tree.rollouts:
            rollout.finish(_CALLED_IN.get(reason, "cancelled"))

    async def _worker(self, tree: Tree) -> None:
        """Take the next rollout until none is left or the vote is decided."""
        while not self._over.is_set():
            if self._schedule.settled_by().passed():
                self._wind_down("deadline")
            if (rollout := await tree.take()) is None:
                return
            try:
                wind_down = NEVER if self._winding is None else Deadline.after(0)
                await rollout.run(self._schedule.settled_by(), wind_down)
            finally:
                tree.returned(rollout)
            if rollout.stop_reason is not None:
                await self._count(rollout, tree)

    async def _count(self, rollout: Rollout, tree: Tree) -> None:
        """Weigh the rollout's vote with the others, and stop the question if that decides it."""
        self._cuts.ended(rollout)
        await self._ballot.add(signals_of(rollout.trace()), deadline=self._schedule.voted_by())
        reason = stopped(
            self._config.stop,
            self._ballot.votes,
            self._still_to_vote(tree),
            self._config.num_rollouts,
            self._config.weigh,
        )
        if reason is not None:
            self._stop(self._winding or reason)

    def _still_to_vote(self, tree: Tree) -> int:
        """Rollouts that may yet vote, and those that have answered and are not counted yet."""
        counted = {vote.rollout for vote in self._ballot.votes}
        return tree.running + sum(
            rollout.stop_reason is not None
            and rollout.answer is not None
            and rollout.index not in counted
            for rollout in tree.rollouts
        )

    async def _canonicalise(self, raw: str) -> Canonical:
        return await self._tools.judge.canonicalise(
            raw, self._config.answer_type, self._config.modulus, deadline=self._schedule.last_word()
        )

    async def _admitted(self, raw: str) -> Canonical:
        """The canonical form of an answer that can be right at all."""
        found = await self._canonicalise(raw)
        lowest, highest = self._config.lowest, self._config.highest
        if found.value is None or self._config.answer_type != "int":
            return found
        number = int(found.value)
        if lowest is not None and number < lowest:
            return Canonical(None, f"cannot be right: {found.value} is below {lowest}")
        if highest is not None and number > highest:
            return Canonical(None, f"cannot be right: {found.value} is above {highest}")
        return found

    async def _score(self, waiting: Sequence[Attempt], ended: Sequence[Attempt]) -> list[float]:
        """By the scorer, until it fails: from then on all are worth the same."""
        if self._blind is None:
            by = self._schedule.settled_by().within(_SCORE_SECONDS)
            try:
                async with asyncio.timeout_at(by.when()):
                    return await self._tools.scorer.score(waiting, ended, by)
            except (TimeoutError, DeadlinePassed):
                self._blind = f"no scores within {_SCORE_SECONDS:g} s"
            except ModelError as error:
                self._blind = str(error)
        return [0.5] * len(waiting)

    def _settle(self) -> None:
        """Count those that had answered when their workers were cancelled: in the midst of
        comparing, or of closing a kernel. A vote that has decided stays as it was.
        """
        if self._stop_reason in (self._config.stop.rule, "max_votes"):
            return
        self._ballot.settle(
            *(
                signals_of(rollout.trace())
                for rollout in self.rollouts
                if rollout.answer is not None and not self._ballot.has_answer(rollout.index)
            )
        )

    async def _last_resort(self) -> None:
        """Nobody has voted: any rollout that has text gets a guess out of it."""
        if self._ballot.tally.leader is not None or self._stop_reason == "interrupted":
            return
        if not self._config.salvage.enabled:
            return
        for rollout in self.rollouts:
            await rollout.guess()
        await self._ballot.add(
            *(
                signals_of(rollout.trace())
                for rollout in self.rollouts
                if rollout.answer is not None and not self._ballot.has_answer(rollout.index)
            ),
            deadline=self._schedule.last_word(),
        )

    async def _verify(self) -> None:
        """Where the votes differ, have a model compare the solutions and vote, too."""
        if self._verifier is None or self._stop_reason == "interrupted":
            return
        by = self._schedule.last_word()
        seed = derive_seed(self._config.seed, self._problem.id, -1, 0)
        self._verifying = asyncio.create_task(
            self._verifier.judge(self._problem.statement, self._candidates(), seed, by)
        )
        try:
            await asyncio.wait([self._verifying])
        finally:
            self._verifying.cancel()
        if not self._verifying.cancelled():
            verdict = self._verifying.result()
            self._num_verifier_tokens = verdict.num_tokens
            self._ballot.hear(verdict.picks)

    def _candidates(self) -> list[Candidate]:
        """The solutions behind the votes, under the answers that they are counted for."""
        answers = {vote.rollout: vote.answer for vote in self._ballot.votes}
        chars = self._config.verify.summary_chars
        found = [
            candidate(rollout.trace(), self._family, chars)
            for rollout in self.rollouts
            if rollout.index in answers
        ]
        return [replace(each, answer=answers[each.rollout]) for each in found if each is not None]

    def watchers(self, rollout: Attempt) -> Sequence[Watcher]:
        """Who looks at a rollout: see `Owner`."""
        return (_Sampled(self), *self._cuts.watchers(rollout))

    def stepper(self, rollout: Attempt) -> Stepper | None:
        """What finds boundaries inside a model call: see `Owner`."""
        return self._tree.stepper(rollout) if self._tree else None

    async def boundary(self, rollout: Attempt, kind: BoundaryKind) -> Onward | RolloutStop:
        """What follows at a boundary: see `Owner`."""
        return await self._tree.boundary(rollout, kind) if self._tree else "go on"

    def sampled(self, chunk: Chunk, rollout: Attempt) -> None:
        """Count sampled tokens against the question's budget, and tell the tree."""
        self._num_tokens += chunk.num_tokens
        if self._tree is not None:
            self._tree.sampled(rollout)
        if self._num_tokens >= (self._config.max_tokens or self._num_tokens + 1):
            self._wind_down("max_tokens")

    def _traces(self) -> list[Trace]:
        weights = self._ballot.weights()
        return [
            rollout.trace().model_copy(
                update={
                    "sandbox_layers": self._tools.sandbox_layers,
                    "weight": weights.get(rollout.index),
                }
            )
            for rollout in self.rollouts
            if rollout.started
        ]

    async def _outcome(self, seconds: float) -> Outcome:
        rollouts = [rollout for rollout in self.rollouts if rollout.started]
        votes = self._ballot.tally
        assert self._stop_reason is not None
        errors = ("model_error", "sandbox_error")
        failed = bool(rollouts) and all(rollout.stop_reason in errors for rollout in rollouts)
        return Outcome(
            id=self._problem.id,
            answer=votes.leader,
            votes=votes.weights,
            stop_reason="failed" if failed else self._stop_reason,
            num_rollouts=len(rollouts),
            num_sampled_tokens=self._num_verifier_tokens
            + sum(rollout.num_own_tokens + rollout.num_side_tokens for rollout in rollouts),
            num_code_runs=sum(rollout.num_own_code_runs for rollout in rollouts),
            seconds=seconds,
            note=self._note(votes),
            gold=self._problem.gold,
            correct=await self._correct(votes.leader),
        )

    def _note(self, votes: Tally) -> str | None:
        """Why there is no answer, what the canonical form hides, or that the search was blind."""
        blind = None if self._blind is None else f"searched without scores: {self._blind}"
        if votes.leader is None:
            return next((r.error for r in self.rollouts if r.error), blind)
        for rollout in self.rollouts:
            if rollout.answer and rollout.answer.canonical.value == votes.leader:
                return rollout.answer.canonical.note or blind
        return blind

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


@dataclass(frozen=True, slots=True)
class _Sampled:
    """Tells the solver what its rollouts sample."""

    solver: Solver

    def feed(self, chunk: Chunk, rollout: Attempt) -> RolloutStop | None:
        self.solver.sampled(chunk, rollout)
        return None

    async def close(self) -> None:
        """Nothing is open."""
