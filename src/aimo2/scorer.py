"""Say which of several unfinished rollouts are worth going on with. Knows no trees and no votes."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from aimo2.attempt import Attempt
from aimo2.config import BranchConfig
from aimo2.deadline import Deadline
from aimo2.llm.reward import RewardModel
from aimo2.policy.branch import agreement_scores, code_score, confidence_score
from aimo2.policy.signals import last_line


class Scorer(Protocol):
    """Scores of rollouts that wait; larger is better, 0 to 1."""

    async def score(
        self, waiting: Sequence[Attempt], ended: Sequence[Attempt], deadline: Deadline
    ) -> list[float]:
        """One score for each that waits. `ended`: those of the question that have ended.

        Raises `ModelError` where a scorer asks a model that fails.
        """
        ...


class Confidence:
    """By the model's own confidence in what it sampled."""

    async def score(
        self, waiting: Sequence[Attempt], ended: Sequence[Attempt], deadline: Deadline
    ) -> list[float]:
        """See `policy.branch.confidence_score`."""
        return [confidence_score(rollout.confidence.stats()) for rollout in waiting]


class CodeSuccess:
    """By the share of cells that ran without an error."""

    async def score(
        self, waiting: Sequence[Attempt], ended: Sequence[Attempt], deadline: Deadline
    ) -> list[float]:
        """See `policy.branch.code_score`."""
        return [code_score(rollout.num_code_runs, rollout.num_code_errors) for rollout in waiting]


class Agreement:
    """By how many siblings found the same value: the last line of the last good output."""

    async def score(
        self, waiting: Sequence[Attempt], ended: Sequence[Attempt], deadline: Deadline
    ) -> list[float]:
        """See `policy.branch.agreement_scores`."""
        values = [last_line(rollout.last_good_output or "") or None for rollout in waiting]
        answers = [rollout.answer.canonical.value for rollout in ended if rollout.answer]
        return agreement_scores(values, [answer for answer in answers if answer is not None])


class Reward:
    """By a process reward model on a server of its own."""

    def __init__(self, model: RewardModel) -> None:
        self._model = model

    async def score(
        self, waiting: Sequence[Attempt], ended: Sequence[Attempt], deadline: Deadline
    ) -> list[float]:
        """The reward of each rollout's last step."""
        asked = (self._model.score(rollout.conversation, deadline) for rollout in waiting)
        scores = await asyncio.gather(*asked, return_exceptions=True)
        found: list[float] = []
        for score in scores:
            if isinstance(score, BaseException):
                raise score
            found.append(score)
        return found


def make_scorer(config: BranchConfig, reward: RewardModel | None) -> Scorer:
    """The scorer that is configured. Raises `ValueError` where it needs a model that is missing."""
    match config.scorer:
        case "confidence":
            return Confidence()
        case "code":
            return CodeSuccess()
        case "agreement":
            return Agreement()
        case "reward":
            if reward is None:
                raise ValueError("the scorer `reward` needs a reward model")
            return Reward(reward)
