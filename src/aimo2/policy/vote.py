"""Tally votes and name the leader. Knows no models, no clocks and no mathematics."""

from collections.abc import Iterable
from dataclasses import dataclass

from aimo2.types import AnswerSource, Vote

SOURCE_WEIGHTS: dict[AnswerSource, float] = {
    "boxed": 1.0,
    "stated": 1.0,
    "output": 0.25,
    "forced": 0.25,
    "guessed": 0.1,
}
"""A bare code output was never called the answer by its rollout, and a forced answer was not
reached by reasoning: measured, they are right about a quarter as often as a boxed one, or less
(docs/measurements.md). A guess is the last number that a text holds, whatever it stands for."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes summed by answer.

    `weights`: answer -> summed weight, largest first; ties go to the answer whose first voter has
    the smallest rollout index, so that the order of arrival does not matter. `num_votes`: voters.
    """

    weights: dict[str, float]
    num_votes: int

    @property
    def leader(self) -> str | None:
        """The answer with the largest weight; `None` where nobody voted."""
        return next(iter(self.weights), None)

    @property
    def share(self) -> float:
        """The leader's part of the whole weight, 0 to 1; 0 where nobody voted."""
        total = sum(self.weights.values())
        return next(iter(self.weights.values())) / total if total else 0.0


def tally(votes: Iterable[Vote]) -> Tally:
    """Sum the votes. Invariant under their order."""
    ordered = sorted(votes, key=lambda vote: vote.rollout)
    weights: dict[str, float] = {}
    for vote in ordered:
        weights[vote.answer] = weights.get(vote.answer, 0.0) + vote.weight
    # sorted() is stable and dicts keep insertion order: ties stay in the order of first voters.
    largest_first = sorted(weights.items(), key=lambda item: -item[1])
    return Tally(dict(largest_first), len(ordered))
