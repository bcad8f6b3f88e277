"""Builders for rollouts and questions on a scripted model, kernel and clock."""

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aimo2.answers import Canonical, Judge
from aimo2.attempt import Attempt, Question, TextKind
from aimo2.config import (
    KernelConfig,
    RolloutConfig,
    SalvageConfig,
    SamplingConfig,
    SolveConfig,
)
from aimo2.deadline import NEVER, Deadline
from aimo2.llm import Conversation, Sampling
from aimo2.llm.fake import ScriptedModel, Step
from aimo2.prompts.families import UNKNOWN, Family
from aimo2.rollout import Rollout
from aimo2.sandbox import CellResult
from aimo2.sandbox.fake import FakeSandbox
from aimo2.scorer import Confidence, Scorer
from aimo2.solver import Solved, Solver, Tools
from aimo2.types import Opening, Problem, StopReason, Trace
from tests.virtual import run_virtual


class InstantJudge(Judge):
    """No worker processes: a virtual clock does not wait for them."""

    async def ask(
        self, request: dict[str, Any], timeout: float, deadline: Deadline
    ) -> dict[str, Any]:
        return {"note": "not a number"}

    async def warm(self) -> None:
        """There is nothing to start."""


@dataclass
class HangingJudge(InstantJudge):
    """Algebra takes its time; only a deadline that was given ends it earlier."""

    takes: float = 1e6
    num_asked: int = 0

    def __post_init__(self) -> None:
        Judge.__init__(self)

    async def ask(
        self, request: dict[str, Any], timeout: float, deadline: Deadline
    ) -> dict[str, Any]:
        self.num_asked += 1
        try:
            async with asyncio.timeout_at(deadline.when()):
                await asyncio.sleep(self.takes)
        except TimeoutError:
            return {"note": "late", "untried": True}
        return {"note": "not decided"}


PROBLEM = Problem(id="p", statement="What is 6 times 7?", gold="42")

Reply = str | Iterable[Step]


@dataclass
class Recorder:
    """An observer that keeps what it hears."""

    heard: list[tuple[int, TextKind, str]] = field(default_factory=list)
    states: list[tuple[int, str]] = field(default_factory=list)

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        self.heard.append((rollout, kind, text))

    def progress(self, rollout: Attempt) -> None:
        self.states.append((rollout.index, rollout.state))

    def all_text(self, rollout: int) -> str:
        return "".join(text for index, _, text in self.heard if index == rollout)


def model(*replies: Reply) -> ScriptedModel:
    """Gives the replies in turn, whoever asks; the last one again and again."""
    calls = iter(range(10_000))

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        reply = replies[min(next(calls), len(replies) - 1)]
        return [reply] if isinstance(reply, str) else reply

    return ScriptedModel(script)


def execute(code: str, namespace: dict[str, Any]) -> CellResult:
    """Really runs the cell, in this process."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
    except SyntaxError as error:
        return CellResult(printed.getvalue(), "syntax", f"SyntaxError: {error.msg}")
    except NameError as error:
        return CellResult(printed.getvalue(), "name", f"NameError: {error}")
    return CellResult(printed.getvalue(), seconds=0.5)


def config(
    *, openings: tuple[Opening, ...] = ("plain",), num_rollouts: int = 1, **rest: Any
) -> SolveConfig:
    rollout = {name: rest.pop(name) for name in list(rest) if name in RolloutConfig.model_fields}
    rest.setdefault("sampling", SamplingConfig())
    rest.setdefault("salvage", SalvageConfig(enabled=False))
    return SolveConfig(
        openings=openings,
        num_rollouts=num_rollouts,
        rollout=RolloutConfig(**rollout),
        kernel=KernelConfig(cell_timeout=10),
        **rest,
    )


@dataclass
class Ran:
    """A rollout that has ended, and what it used."""

    rollout: Rollout
    trace: Trace
    model: ScriptedModel
    sandbox: FakeSandbox
    recorder: Recorder
    seconds: float


def run_rollout(
    scripted: ScriptedModel,
    settings: SolveConfig,
    *,
    script: Callable[[str, dict[str, Any]], CellResult] = execute,
    seconds: float | None = None,
    cancel_after: float | None = None,
    index: int = 0,
    canonicalise: Callable[[str], Canonical] | None = None,
    family: Family = UNKNOWN,
    continues: bool = True,
) -> Ran:
    recorder = Recorder()
    sandbox = FakeSandbox(script)

    async def canonical(raw: str) -> Canonical:
        if canonicalise is not None:
            return canonicalise(raw)
        async with InstantJudge() as judge:
            return await judge.canonicalise(raw, settings.answer_type, settings.modulus)

    async def main() -> Ran:
        async with sandbox:
            question = Question(
                PROBLEM,
                settings,
                scripted,
                sandbox,
                canonical,
                recorder,
                family=family,
                continues=continues,
            )
            rollout = Rollout(question, index)
            deadline = NEVER if seconds is None else Deadline.after(seconds)
            task = asyncio.create_task(rollout.run(deadline))
            if cancel_after is not None:
                await asyncio.sleep(cancel_after)
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
            assert sandbox.open_kernels == []
            return Ran(rollout, rollout.trace(), scripted, sandbox, recorder, rollout.seconds)

    return run_virtual(main())


@dataclass
class SolverRun:
    solved: Solved
    model: ScriptedModel
    sandbox: FakeSandbox
    seconds: float
    """By the loop's clock, from start to return."""


def run_solver(
    scripted: ScriptedModel,
    settings: SolveConfig,
    *,
    problem: Problem = PROBLEM,
    seconds: float | None = None,
    interrupt_after: float | None = None,
    interrupt_reason: StopReason = "interrupted",
    extend: tuple[float, float] | None = None,
    script: Callable[[str, dict[str, Any]], CellResult] = execute,
    scorer: Scorer | None = None,
    judge: Judge | None = None,
) -> SolverRun:
    """`extend`: after so many seconds, a new deadline so many seconds from the start."""
    sandbox = FakeSandbox(script)

    async def main() -> SolverRun:
        loop = asyncio.get_running_loop()
        async with sandbox, judge or InstantJudge() as comparing:
            tools = Tools(scripted, sandbox, comparing, scorer=scorer or Confidence())
            solver = Solver(problem, settings, tools, Recorder())
            if interrupt_after is not None:
                loop.call_later(interrupt_after, solver.interrupt, interrupt_reason)
            if extend is not None:
                loop.call_later(extend[0], solver.extend, Deadline(extend[1]))
            solved = await solver.solve(NEVER if seconds is None else Deadline.after(seconds))
            took = loop.time()
            assert sandbox.open_kernels == []
            assert all(call.state != "open" for call in scripted.calls)
            assert len(asyncio.all_tasks()) == 1
            return SolverRun(solved, scripted, sandbox, took)

    return run_virtual(main())
