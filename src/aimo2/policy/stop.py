"""When a question is decided. Pure functions of the tally. Knows no models and no clocks."""

import math

from aimo2.policy.vote import Tally
from aimo2.types import StopRule

MAJORITY_VOTES = 7
"""Votes that `majority` waits for where 16 or more rollouts are open."""


def min_votes(num_rollouts: int) -> int:
    """Votes that `majority` waits for with `num_rollouts` in all: 7 of 16, in proportion below.

    Two at the least, because one vote agrees with itself; one where only one rollout is open.
    """
    if num_rollouts < 1:
        raise ValueError(f"a question needs at least 1 rollout, not {num_rollouts}")
    scaled = math.ceil(MAJORITY_VOTES * num_rollouts / 16)
    return min(num_rollouts, MAJORITY_VOTES, max(2, scaled))


def majority(votes: Tally, num_rollouts: int) -> bool:
    """At least 7 votes and one answer above 50 % of their weight (this project's own rule)."""
    return votes.num_votes >= min_votes(num_rollouts) and votes.share > 0.5


def decided(rule: StopRule, votes: Tally, num_rollouts: int) -> bool:
    """Whether `rule` ends the question now."""
    match rule:
        case "majority":
            return majority(votes, num_rollouts)
        case "never":
            return False
        case _:
            raise ValueError(f"no such stopping rule yet: {rule}")
