"""What is done over and over while it is measured: decode, tir, solver, plain, tree, independent.

A workload is a function that works off one problem with a metered model. Knows no clock and no
concurrency: `load` runs as many at a time as is asked for.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aimo2 import prompts
from aimo2.answers import Canonical
from aimo2.attempt import Attempt, Question, TextKind
from aimo2.config import SolveConfig
from aimo2.deadline import Deadline
from aimo2.llm import Conversation, Model, Sampling
from aimo2.rollout import Rollout
from aimo2.solver import Solver, Tools
from aimo2.types import Problem, Trace

Work = Callable[[Problem, Deadline, float], Awaitable[None]]
"""Works off one problem, or the last part of so long a one: a share of its tokens, above 0 and at
most 1. Raises what the model raises.
"""

WIDTH = 3
"""Openings of a tree, and children of each."""


def seed_of(seed: int, problem: Problem, branch: int) -> int:
    """The same for the same three values, everywhere."""
    text = f"{seed}\0{problem.id}\0{branch}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) & 0x7FFFFFFF


@dataclass(slots=True)
class Dropped:
    """Sampled tokens that did not stay in a reply, such as those behind a code block.

    What of a turn stays is known when it ends; `turns` are (that instant, its dropped tokens).
    """

    turns: list[tuple[float, float]] = field(default_factory=list)

    def between(self, begin: float, end: float) -> float:
        """Tokens of the turns that ended in a window."""
        return sum(number for at, number in self.turns if begin <= at <= end)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all workloads share. `max_tokens`: of one branch."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    logprobs: bool = False

    def sampling(self, seed: int, max_tokens: int, *, ignore_eos: bool) -> Sampling:
        """One call's."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=max_tokens,
            seed=seed,
            logprobs=int(self.logprobs),
            ignore_eos=ignore_eos,
        )


def _tokens_of(limit: int, part: float) -> int:
    """So much of a limit, but one token at least."""
    return max(1, round(limit * part))


def decode(model: Model, setting: Setting) -> Work:
    """One completion of exactly `max_tokens`, whatever the model would like."""

    async def work(problem: Problem, deadline: Deadline, part: float) -> None:
        conversation = asked(problem)
        sampling = setting.sampling(
            seed_of(setting.seed, problem, 0), _tokens_of(setting.max_tokens, part), ignore_eos=True
        )
        await _text(model, conversation, sampling, deadline)

    return work


def tree(model: Model, setting: Setting, *, shared: bool) -> Work:
    """Nine branches: 3 openings, each continued by 3 children from its middle.

    `shared`: the children continue their opening's text, as forks do; else every branch samples
    its own first half, as independent rollouts do. Both end with nine branches of `max_tokens`;
    where only a part is worked off, the openings are cut first.
    """
    half = max(1, setting.max_tokens // 2)

    async def text(problem: Problem, number: int, begun: str, part: float, end: Deadline) -> str:
        seed = seed_of(setting.seed, problem, number)
        sampling = setting.sampling(seed, _tokens_of(half, part), ignore_eos=True)
        return await _text(model, asked(problem, begun), sampling, end)

    async def opening(problem: Problem, number: int, deadline: Deadline, part: float) -> None:
        first = await text(problem, 1000 + number, "", 2 * part - 1, deadline)
        async with asyncio.TaskGroup() as group:
            for child in range(WIDTH if shared else 1):
                own = number * WIDTH + child
                group.create_task(text(problem, own, first, min(1.0, 2 * part), deadline))

    async def work(problem: Problem, deadline: Deadline, part: float) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(WIDTH if shared else WIDTH * WIDTH):
                group.create_task(opening(problem, number, deadline, part))

    return work


@dataclass(slots=True)
class _Watch:
    """An `Observer` that tells, at each turn's end, how much of its text did not stay."""

    dropped: Dropped
    received: dict[int, int] = field(default_factory=dict)
    """Rollout -> characters that it was sent in its current turn."""
    num_turns: dict[int, int] = field(default_factory=dict)
    """Rollout -> turns that were looked at, or that its parent had."""

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        if kind == "sampled":
            self.received[rollout] = self.received.get(rollout, 0) + len(text)

    def progress(self, rollout: Attempt) -> None:
        seen = self.num_turns.setdefault(rollout.index, rollout.num_shared_turns)
        for turn in rollout.turns[seen:]:
            received = self.received.pop(rollout.index, 0)
            lost = max(0, received - len(turn.text))
            if lost:
                now = asyncio.get_running_loop().time()
                self.dropped.turns.append((now, turn.num_tokens * lost / received))
        self.num_turns[rollout.index] = len(rollout.turns)


def _raise_failure(trace: Trace) -> None:
    """A rollout that the model or the sandbox failed is a failure of the load."""
    if trace.stop_reason in ("model_error", "sandbox_error"):
        raise RuntimeError(f"{trace.stop_reason}: {trace.error}")


def _shortened(config: SolveConfig, part: float) -> SolveConfig:
    """With so much of its rollouts' tokens."""
    limit = _tokens_of(config.rollout.max_tokens, part)
    rollout = config.rollout.model_copy(update={"max_tokens": limit})
    return config.model_copy(update={"rollout": rollout})


@dataclass(slots=True)
class Tir:
    """Whole rollouts as the solver runs them: stop at code, run it, continue, to an answer."""

    tools: Tools
    config: SolveConfig
    dropped: Dropped = field(default_factory=Dropped)
    started: int = 0

    async def work(self, problem: Problem, deadline: Deadline, part: float) -> None:
        """One rollout. Raises `RuntimeError` where the model or the sandbox failed it."""
        index, self.started = self.started, self.started + 1
        question = Question(
            problem,
            _shortened(self.config, part),
            self.tools.model,
            self.tools.sandbox,
            self._canonicalise,
            _Watch(self.dropped),
            model_name=self.tools.model_name,
            family=self.tools.family(self.config.family),
            continues=self.tools.continues,
        )
        rollout = Rollout(question, index)
        await rollout.run(deadline)
        _raise_failure(rollout.trace())

    async def _canonicalise(self, raw: str) -> Canonical:
        return await self.tools.judge.canonicalise(raw, self.config.answer_type, None)


@dataclass(slots=True)
class Solving:
    """Whole questions, solved as `aimo2 solve` does: openings, forks, code, votes.

    `config` should not stop early, so that each question costs about the same.
    """

    tools: Tools
    config: SolveConfig
    dropped: Dropped = field(default_factory=Dropped)

    async def work(self, problem: Problem, deadline: Deadline, part: float) -> None:
        """One question. Raises `RuntimeError` where the model or the sandbox failed a rollout."""
        watch = _Watch(self.dropped)
        config = _shortened(self.config, part)
        solved = await Solver(problem, config, self.tools, watch).solve(deadline)
        for trace in solved.traces:
            _raise_failure(trace)


def asked(problem: Problem, begun: str = "") -> Conversation:
    """What a workload of plain completions asks a model. `begun`: of the reply."""
    start = prompts.start(problem.statement, "plain", "int", code=False)
    return Conversation(start.messages, begun)


async def _text(
    model: Model, conversation: Conversation, sampling: Sampling, deadline: Deadline
) -> str:
    chunks = [chunk.text async for chunk in model.stream(conversation, sampling, deadline)]
    return conversation.reply + "".join(chunks)
