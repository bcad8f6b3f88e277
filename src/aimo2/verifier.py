"""Have a model compare candidate solutions and name the best, several times over (GenSelect).

Knows no votes but its own and no gold answers; what is compared and what a choice weighs is
`policy.select`'s.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from aimo2 import prompts, salvage
from aimo2.answers import extract_boxed
from aimo2.config import VerifyConfig
from aimo2.deadline import Deadline
from aimo2.errors import ModelError
from aimo2.llm import Conversation, Message, Model, Sampling
from aimo2.parse import cut_middle
from aimo2.policy.select import Candidate, chosen, comparisons
from aimo2.prompts.families import Family
from aimo2.types import Trace

_TASK = (
    "Below are a mathematical problem and several candidate solutions that come to different"
    " answers. Find out which one is right: look for the step in which they part, check that step"
    " and the ones it rests on, and trust no solution because it is long or sounds sure. Then put"
    " the number of the best solution in \\boxed{}, and nothing else."
)
_FORCED_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparisons came to. `num_tokens`: sampled for all of them."""

    picks: tuple[Candidate, ...]
    num_comparisons: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Verifier:
    """A model that judges. `concurrency`: comparisons that stream at the same time."""

    model: Model
    family: Family
    config: VerifyConfig
    concurrency: int = 1
    continues: bool = True
    """Whether the model goes on exactly where a reply ends."""

    async def judge(
        self, statement: str, candidates: Sequence[Candidate], seed: int, deadline: Deadline
    ) -> Verdict:
        """Compare the candidates, by `deadline` at the latest; a comparison that fails is left out.

        Being cancelled hangs up on every comparison.
        """
        shown = comparisons(candidates, self.config.comparisons, self.config.size, seed)
        free = asyncio.Semaphore(self.concurrency)
        spent: list[int] = []

        async def one(number: int, each: Sequence[Candidate]) -> Candidate | None:
            async with free:
                if deadline.passed():
                    return None
                return await self._compare(statement, each, seed + number, deadline, spent)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*each)) for each in enumerate(shown)]
        picks = tuple(pick for task in tasks if (pick := task.result()) is not None)
        return Verdict(picks, len(shown), sum(spent))

    async def _compare(
        self,
        statement: str,
        shown: Sequence[Candidate],
        seed: int,
        deadline: Deadline,
        spent: list[int],
    ) -> Candidate | None:
        thinking = self.family.thinking
        reply = thinking.open if thinking is not None and self.continues else ""
        messages = _messages(statement, shown, self.family)
        try:
            async with asyncio.timeout_at(deadline.when()):
                asked = Conversation(messages, reply)
                said = await self._sample(asked, seed, self.config.max_tokens, deadline, spent)
                reply += said
                said = prompts.outside_thinking(reply, self.family)
                pick = chosen(extract_boxed(said), shown)
                if pick is not None:
                    return pick
                reply += prompts.answer_prefix(reply, self.family, "int")
                asked = Conversation(messages, reply)
                said = await self._sample(asked, seed, _FORCED_TOKENS, deadline, spent)
        except (TimeoutError, ModelError):
            return None
        found = salvage.forced(said).answer
        return chosen(found.raw if found else None, shown)

    async def _sample(
        self, asked: Conversation, seed: int, max_tokens: int, deadline: Deadline, spent: list[int]
    ) -> str:
        sampling = Sampling(
            temperature=self.config.temperature,
            max_tokens=max_tokens,
            seed=seed & 0x7FFFFFFF,
            special_tokens=self.family.keeps_special_tokens,
        )
        parts: list[str] = []
        async with aclosing(self.model.stream(asked, sampling, deadline)) as chunks:
            async for chunk in chunks:
                parts.append(chunk.text)
                spent.append(chunk.num_tokens)
        return "".join(parts)


def candidate(trace: Trace, family: Family, chars: int) -> Candidate | None:
    """A rollout's solution as a verifier is shown it; `None` where it has no answer.

    What follows the thinking, where there is such a part, else the whole text; its middle is left
    out where it is longer than about `chars` characters.
    """
    if trace.answer is None:
        return None
    text = trace.text
    end = prompts.thinking_end(text, family)
    style = family.thinking
    if end is not None and style is not None:
        text = text[text.find(style.ends, end) + len(style.ends) :]
    shown, _ = cut_middle(text.strip(), chars)
    return Candidate(trace.rollout, trace.answer, shown)


def _messages(statement: str, shown: Sequence[Candidate], family: Family) -> tuple[Message, ...]:
    solutions = "\n\n".join(
        f"### Solution {number} (answer: {each.answer})\n\n{each.summary}"
        for number, each in enumerate(shown, 1)
    )
    asked = f"## Problem\n\n{statement.strip()}\n\n## Solutions\n\n{solutions}"
    if family.system:
        return Message("system", _TASK), Message("user", asked)
    return (Message("user", f"{_TASK}\n\n{asked}"),)
