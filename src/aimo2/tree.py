"""A question's tree: roots, points that branches start from, rollouts that wait for each other.

Hands out what is to run next and keeps the kernels of what is not running. `policy.branch` decides;
this knows no votes and no deadlines.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from aimo2.attempt import Attempt, BoundaryKind, Break, Onward, Question, Stepper, Variation
from aimo2.confidence import token_entropy
from aimo2.config import STEP_POLICIES
from aimo2.errors import SandboxError
from aimo2.llm import Chunk
from aimo2.policy import branch
from aimo2.rollout import BranchPoint, Rollout

Score = Callable[[Sequence[Rollout], Sequence[Rollout]], Coroutine[None, None, list[float]]]
"""Scores of the waiting rollouts, given the ended ones; see `scorer.Scorer`."""


@dataclass(slots=True)
class _Open:
    """A point with branches left. `order`: when it came up."""

    point: BranchPoint
    order: int
    left: int
    num_opened: int = 0


class Tree:
    """Every rollout of a question, and what is to run next.

    Whoever takes a rollout runs it and gives it back with `returned`, ended or waiting.
    """

    def __init__(self, question: Question, score: Score) -> None:
        self._question = question
        self._config = question.config
        self._branch = question.config.branch
        self._score = score
        self.rollouts: list[Rollout] = []
        self._num_roots = 0
        self._open: list[_Open] = []
        self._num_points: dict[int, int] = {}
        self._num_steps: dict[int, int] = {}
        self._roots: dict[int, int] = {}
        self._waiting: list[Rollout] = []
        self._ready: deque[Rollout] = deque()
        self._num_running = 0
        self._awaited: set[int] = set()
        """Running rollouts of whose branches an idle slot waits."""
        self._scoring: asyncio.Task[list[float]] | None = None
        self._changed = asyncio.Event()
        self._taking = asyncio.Lock()
        self._growing = True

    @property
    def running(self) -> int:
        """Rollouts that may still vote: those that have not ended, and those not opened yet."""
        alive = sum(rollout.stop_reason is None for rollout in self.rollouts)
        if self._branch.policy in STEP_POLICIES or not self._growing:
            return alive
        return alive + max(0, self._config.num_rollouts - len(self.rollouts))

    async def take(self) -> Rollout | None:
        """The next rollout to run, waiting for one to come up; `None` where none can any more."""
        while True:
            async with self._taking:
                rollout = await self._next()
            if rollout is not None:
                self._num_running += 1
                return rollout
            if not self._num_running:
                return None
            self._changed.clear()
            await self._changed.wait()

    def returned(self, rollout: Rollout) -> None:
        """A rollout that was taken does not run any more."""
        self._num_running -= 1
        if rollout.stop_reason is None:
            self._waiting.append(rollout)
        self._changed.set()

    def stop_growing(self) -> None:
        """From now on only what waits is handed out, to be brought to its end."""
        self._growing = False
        if self._scoring is not None:
            self._scoring.cancel()
        self._changed.set()

    def sampled(self, rollout: Attempt) -> None:
        """A rollout has sampled more: one that does not fork in time is waited for no longer."""
        if rollout.index in self._awaited and not self._may_branch(rollout):
            self._awaited.discard(rollout.index)
            self._changed.set()

    def _awaits_branches(self) -> bool:
        """Whether a slot rather stays idle for now than begins a root: what runs may soon fork.

        Roots that were begun for want of branches are not waited for in their turn.
        """
        if self._branch.policy in STEP_POLICIES:
            return self._num_running > 0
        first = branch.first_roots(self._branch, self._config.num_rollouts)
        self._awaited = {
            rollout.index
            for rollout in self.rollouts
            if rollout.stop_reason is None
            and (rollout.parent is not None or rollout.index < first)
            and self._may_branch(rollout)
        }
        return bool(self._awaited)

    def _may_branch(self, rollout: Attempt) -> bool:
        given = self._num_points.get(rollout.index, 0)
        return branch.may_branch(self._branch, rollout.depth, given, rollout.num_own_tokens)

    async def _next(self) -> Rollout | None:
        if not self._growing:
            self._ready.extend(self._waiting)
            self._waiting.clear()
            return self._ready.popleft() if self._ready else None
        if self._ready:
            return self._ready.popleft()
        if self._num_roots < branch.first_roots(self._branch, self._config.num_rollouts):
            return self._root()
        while self._open and self._room():
            grown = await self._grow()
            if grown is not None:
                return grown
        if self._awaits_branches():
            return None
        if self._waiting:
            await self._decide_step()
            return await self._next()
        step = self._branch.policy in STEP_POLICIES
        return self._root() if self._room() and not step else None

    def _room(self) -> bool:
        return len(self.rollouts) < self._config.num_rollouts

    def _root(self) -> Rollout:
        config = self._config
        opening = config.openings[self._num_roots % len(config.openings)]
        rollout = Rollout(self._question, len(self.rollouts), opening=opening)
        self._num_roots += 1
        self._roots[rollout.index] = rollout.index
        self.rollouts.append(rollout)
        return rollout

    async def _grow(self) -> Rollout | None:
        """A branch of the point whose turn it is; `None` where its kernel cannot be forked."""
        at = branch.next_point(
            [
                branch.Candidate(one.point.path.depth, one.num_opened, one.order)
                for one in self._open
            ]
        )
        chosen = self._open[at]
        number = chosen.num_opened
        chosen.num_opened += 1
        chosen.left -= 1
        if not chosen.left:
            del self._open[at]
        try:
            rollout = await chosen.point.fork(len(self.rollouts), self._variation(number))
            self._enlist(rollout)
        except SandboxError:
            chosen.left = 0
            self._open = [one for one in self._open if one is not chosen]
            return None
        finally:
            if not chosen.left:
                await chosen.point.close()
        return rollout

    def _enlist(self, rollout: Rollout) -> None:
        assert rollout.parent is not None
        self._roots[rollout.index] = self._roots[rollout.parent]
        self._num_steps[rollout.index] = self._num_steps.get(rollout.parent, 0)
        self.rollouts.append(rollout)

    def _variation(self, number: int) -> Variation:
        """In what branch `number` of a point, from 0, differs from its parent besides the seed."""
        temperatures, nudges = self._branch.temperatures, self._branch.nudges
        return Variation(
            temperatures[number % len(temperatures)] if temperatures else None,
            nudges[number % len(nudges)] if nudges else "",
        )

    async def _decide_step(self) -> None:
        """Every rollout waits: let the best go on, in as many ways as the policy gives them."""
        waiting = sorted(self._waiting, key=lambda rollout: rollout.index)
        ended = [rollout for rollout in self.rollouts if rollout.stop_reason is not None]
        scores = await self._scores(waiting, ended)
        if not self._growing:
            return  # Time is up: all of them are made to answer instead.
        self._waiting.clear()
        finished = sum(rollout.stop_reason not in ("pruned", "forked") for rollout in ended)
        ways = branch.allot(
            self._branch,
            scores,
            [self._roots[rollout.index] for rollout in waiting],
            self._config.num_rollouts - finished,
        )
        for rollout, count in zip(waiting, ways, strict=True):
            if not count:
                rollout.finish("pruned")
                await rollout.close()
                continue
            self._ready.append(rollout)
            for number in range(count - 1):
                try:
                    child = await rollout.fork(len(self.rollouts), self._variation(number))
                except SandboxError:
                    break  # It goes on in fewer ways.
                self._enlist(child)
                self._ready.append(child)

    async def _scores(self, waiting: Sequence[Rollout], ended: Sequence[Rollout]) -> list[float]:
        """Of those that wait; none where `stop_growing` comes first."""
        self._scoring = asyncio.create_task(self._score(waiting, ended))
        try:
            await asyncio.wait([self._scoring])
            return self._scoring.result() if self._growing else []
        finally:
            self._scoring.cancel()
            await asyncio.wait([self._scoring])
            self._scoring = None

    def stepper(self, rollout: Attempt) -> Stepper | None:
        """What finds boundaries inside the rollout's next model call, if anything has to."""
        config = self._branch
        if not self._growing:
            return None
        if branch.waits(config, self._num_steps.get(rollout.index, 0)):
            return TokenSteps(config.step_tokens) if config.policy == "rebase" else LineSteps()
        if config.policy == "entropy" and self._branches_at(rollout):
            return Spikes(config.entropy, max(1, config.step_tokens // 4))
        if config.policy == "bfs" and self._branches_at(rollout):
            return LineSteps(config.step_tokens)
        return None

    def _branches_at(self, rollout: Attempt) -> int:
        if not (self._growing and self._room()):
            return 0
        given = self._num_points.get(rollout.index, 0)
        return branch.branches_at(self._branch, rollout.depth, given)

    async def boundary(self, rollout: Attempt, kind: BoundaryKind) -> Onward:
        """A turn of the rollout has ended: keep the point, or have it wait for the others."""
        if branch.waits(self._branch, self._num_steps.get(rollout.index, 0)) and self._growing:
            self._num_steps[rollout.index] = self._num_steps.get(rollout.index, 0) + 1
            return "park"
        branches = self._branches_at(rollout)
        if not branches or (kind == "code" and rollout.last_good_output is None):
            return "go on"  # Nobody should have to start behind a cell that failed.
        if kind == "code" and self._branch.policy == "entropy":
            return "go on"
        try:
            point = await self.rollouts[rollout.index].hold()
        except SandboxError:
            return "go on"
        self._num_points[rollout.index] = self._num_points.get(rollout.index, 0) + 1
        self._open.append(_Open(point, sum(self._num_points.values()), branches))
        self._changed.set()
        return "go on"

    async def close(self) -> None:
        """Let go of every kernel that is kept here, all at the same time."""
        points = [one.point for one in self._open]
        self._open.clear()
        await asyncio.gather(
            *(point.close() for point in points), *(rollout.close() for rollout in self.rollouts)
        )


class LineSteps:
    """A step ends at a blank line behind some text (beam search and DVTS of search-and-learn).

    `quiet`: tokens of a call that come before any is looked for.
    """

    def __init__(self, quiet: int = 0) -> None:
        self._left = quiet

    def feed(self, chunk: Chunk, turn: str) -> Break | None:
        """See `Stepper`."""
        self._left -= chunk.num_tokens
        if self._left >= 0:
            return None
        lead = len(turn) - len(turn.lstrip())
        at = turn.find("\n\n", max(lead, len(turn) - len(chunk.text) - 1))
        return Break("step", at + 2) if at >= 0 else None


class TokenSteps:
    """A step ends after so many tokens (REBASE: 256)."""

    def __init__(self, num_tokens: int) -> None:
        self._left = num_tokens

    def feed(self, chunk: Chunk, turn: str) -> Break | None:
        """See `Stepper`."""
        self._left -= chunk.num_tokens
        return Break("step", len(turn)) if self._left <= 0 else None


class Spikes:
    """A call ends before a token that the model is unsure of, `quiet` tokens into it at least.

    Branches then draw that token anew. A chunk of several tokens is cut before its first.
    """

    def __init__(self, entropy: float, quiet: int) -> None:
        self._entropy = entropy
        self._left = quiet

    def feed(self, chunk: Chunk, turn: str) -> Break | None:
        """See `Stepper`."""
        self._left -= chunk.num_tokens
        keep = len(turn) - len(chunk.text)
        if self._left >= 0 or keep <= 0:
            return None
        unsure = any(token_entropy(top) >= self._entropy for top in chunk.top_logprobs)
        return Break("spike", keep) if unsure else None
