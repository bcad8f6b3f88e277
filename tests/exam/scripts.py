"""A scripted question and a clock that is moved by hand, on the virtual loop."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from aimo2.attempt import Observer
from aimo2.deadline import Deadline
from aimo2.exam import ExamConfig
from aimo2.policy.budget import BudgetConfig
from aimo2.policy.vote import Tally, tally
from aimo2.solver import Solved
from aimo2.types import Outcome, Problem, StopReason, Vote

EPOCH = 1_000_000.0


class LoopClock:
    """The wall clock runs with the virtual loop; `jump` sets it forward or back."""

    def __init__(self) -> None:
        self.jumped = 0.0

    def now(self) -> float:
        return EPOCH + self.jumped + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def jump(self, seconds: float) -> None:
        self.jumped += seconds


@dataclass
class Script:
    """What a scripted question does: `votes` are (seconds, answer), then it ends or hangs."""

    votes: Sequence[tuple[float, str]] = ()
    ends: float | None = None
    """Seconds until it is exhausted; `None` runs to its deadline."""
    deaf: bool = False
    """Ignores deadline, interruption and cancellation, as a bug would."""
    error: Exception | None = None
    failures: int = 0
    """How often it finds no server before it works."""


@dataclass
class ScriptedQuestion:
    """A `Question` without rollouts."""

    problem: Problem
    script: Script
    deadline: Deadline | None = None
    reason: StopReason | None = None
    votes: list[Vote] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def tally(self) -> Tally:
        return tally(self.votes)

    def interrupt(self, reason: StopReason) -> None:
        self.reason = self.reason or reason
        self.over.set()

    async def solve(self, deadline: Deadline) -> Solved:
        self.deadline = deadline
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number, (at, answer) in enumerate(self.script.votes):
            if not self.script.failures:
                loop.call_at(started + at, self.votes.append, Vote(rollout=number, answer=answer))
        if self.script.error is not None:
            raise self.script.error
        if self.script.failures:
            self.script.failures -= 1
            self.votes.clear()
            return Solved(self._outcome("failed", 0.0), ())
        if self.script.deaf:
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                await asyncio.sleep(50)
                raise
        until = deadline.at - 0.3
        if self.script.ends is not None:
            until = min(until, started + self.script.ends)
        ended: StopReason = "deadline" if until == deadline.at - 0.3 else "exhausted"
        try:
            async with asyncio.timeout_at(until):
                await self.over.wait()
        except TimeoutError:
            pass
        return Solved(self._outcome(self.reason or ended, loop.time() - started), ())

    def _outcome(self, reason: StopReason, seconds: float) -> Outcome:
        return Outcome(
            id=self.problem.id,
            answer=self.tally.leader,
            votes=self.tally.weights,
            stop_reason=reason,
            num_rollouts=len(self.votes),
            num_sampled_tokens=0,
            num_code_runs=0,
            seconds=seconds,
        )


@dataclass
class ScriptedSolver:
    """Opens questions by problem id; keeps them all."""

    scripts: dict[str, Script] = field(default_factory=dict)
    default: Script = field(default_factory=lambda: Script([(1.0, "7")], ends=2.0))
    opened: list[ScriptedQuestion] = field(default_factory=list)

    def __call__(self, problem: Problem, observer: Observer) -> ScriptedQuestion:
        question = ScriptedQuestion(problem, self.scripts.get(problem.id, self.default))
        self.opened.append(question)
        return question


def problems(number: int) -> list[Problem]:
    return [Problem(id=f"p{index}", statement=f"What is {index}?") for index in range(number)]


def rules(num_problems: int = 4, limit: float = 400.0, **rest: object) -> ExamConfig:
    budget = rest.pop("budget", BudgetConfig(policy="even"))
    return ExamConfig.model_validate(
        {"num_problems": num_problems, "limit": limit, "budget": budget, **rest}
    )
