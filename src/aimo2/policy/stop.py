"""When a question is decided. Pure functions of its votes. Knows no models and no clocks.

Rules that count votes go by `Vote.count` (a forced vote is a quarter, a half-shared one half); the
leader is always that of the summed weights, so that the rule and the answer agree; one that weighs
nothing decides nothing. `min_votes` and `max_votes` count voters, `majority` only those whose votes
weigh something. All rules but `window` are invariant under the order of the votes.
"""

import math
from collections.abc import Iterable, Sequence

from aimo2.config import StopConfig, WeighConfig
from aimo2.policy.vote import tally
from aimo2.policy.weigh import swing
from aimo2.types import StopReason, Vote

MAJORITY_VOTES = 7
"""Votes that `majority` waits for where 16 or more rollouts are open."""
WINDOW_ANSWERS = {1: 6, 2: 7, 3: 8, 4: 9, 5: 10}
"""Answers with which `window` ends a question, whatever they are, by speed level."""
_PLAIN_VOTES = WeighConfig()
_HALF = 0.5 + 1e-6
"""More than a half, and by more than what `short_first` breaks a tie with."""
_EPSILON = 1e-9
"""Sums of weights that differ by less are equal."""


def min_votes(num_rollouts: int) -> int:
    """Votes that `majority` waits for with `num_rollouts` in all: 7 of 16, in proportion below.

    Two at the least, because one vote agrees with itself; one where only one rollout is open.
    """
    if num_rollouts < 1:
        raise ValueError(f"a question needs at least 1 rollout, not {num_rollouts}")
    scaled = math.ceil(MAJORITY_VOTES * num_rollouts / 16)
    return min(num_rollouts, MAJORITY_VOTES, max(2, scaled))


def stopped(
    config: StopConfig,
    votes: Sequence[Vote],
    running: int,
    planned: int,
    weigh: WeighConfig = _PLAIN_VOTES,
) -> StopReason | None:
    """Why the question ends now, or `None` where it goes on.

    `votes`: in order of arrival, weighed together, as `weigh` says. `running`: rollouts that may
    still vote, those that are not open yet included. `planned`: rollouts in all, at least 1. That
    every rollout has ended is not looked at here.
    """
    if planned < 1 or running < 0:
        raise ValueError(f"{planned} rollouts planned and {running} running cannot be")
    least = _rule_votes(config, planned)
    if len(votes) >= least and tally(votes).share > 0:
        to_come = running * swing(weigh, votes) if config.rule == "unassailable" else 0.0
        if _fires(config, votes, least, to_come):
            return None if config.rule == "never" else config.rule
    if config.max_votes is not None and len(votes) >= config.max_votes:
        return "max_votes"
    return None


def least_votes(config: StopConfig, planned: int) -> int:
    """Votes without which `stopped` never ends a question of `planned` rollouts.

    One more than are planned where it never does at all.
    """
    least = planned + 1 if config.rule == "never" else _rule_votes(config, planned)
    return least if config.max_votes is None else min(least, config.max_votes)


def _rule_votes(config: StopConfig, planned: int) -> int:
    own = min_votes(planned) if config.rule == "majority" else 1
    return own if config.min_votes is None else config.min_votes


def _fires(config: StopConfig, votes: Sequence[Vote], least: int, to_come: float) -> bool:
    match config.rule:
        case "majority":
            return majority(votes, least)
        case "k_equal":
            return k_equal(votes, config.k)
        case "window":
            return window(votes, config.speed)
        case "unassailable":
            return unassailable(votes, to_come)
        case "adaptive_consistency":
            return adaptive_consistency(votes, config.certainty)
        case "never":
            return False


def majority(votes: Sequence[Vote], least: int) -> bool:
    """At least so many votes, and one answer above 50 % of the weight (this project's own rule).

    A vote that a filter left without weight is no vote here: 7 voters of whom one is kept are one.
    """
    deciding = [vote for vote in votes if vote.weight > 0]
    return len(deciding) >= least and tally(deciding).share > _HALF


def k_equal(votes: Sequence[Vote], k: int) -> bool:
    """The leader has k votes (NVIDIA's AIMO-2 paper: the first 4 to 5 agreeing of 16 cancel the
    rest; AIMO-3 notebooks: 4 of 8).
    """
    return _count(votes, tally(votes).leader) >= k - _EPSILON


def window(votes: Sequence[Vote], speed: int) -> bool:
    """4 equal of the first 4; 4 of the last 5; 5 of at most 7; 6 of at most 9; or as many answers
    as the speed level asks for, 6 (level 1) to 10 (level 5), whatever they are
    (imagination-research, AIMO-2). By order of arrival: it is not invariant under it.

    That the last condition ends a question whatever the answers is our reading of "a minimum of 6
    to 10 answers": a minimum before the others would leave "4 of the first 4" without effect.
    """
    leader = tally(votes).leader
    total = _count(votes, leader)
    return (
        (len(votes) == 4 and total >= 4 - _EPSILON)
        or _count(votes[-5:], leader) >= 4 - _EPSILON
        or (len(votes) <= 7 and total >= 5 - _EPSILON)
        or (len(votes) <= 9 and total >= 6 - _EPSILON)
        or len(votes) >= WINDOW_ANSWERS[speed]
    )


def unassailable(votes: Sequence[Vote], to_come: float) -> bool:
    """second + still running <= first (AIMO-3, second-hand): the others can at most draw level.

    `to_come`: what the votes that are still to come can change, see `weigh.swing`.
    """
    first, second = _top_two(tally(votes).weights.values())
    return second + to_come <= first + _EPSILON


def adaptive_consistency(votes: Sequence[Vote], certainty: float) -> bool:
    """The leader stays ahead of the runner-up with at least probability `certainty`.

    Adaptive-Consistency (arXiv 2305.11860, section 3, the Beta criterion): the posterior of the
    leader's part against the runner-up is Beta(a + 1, b + 1), a and b their counts.
    """
    leader = tally(votes).leader
    counts: dict[str, float] = {}
    for vote in votes:
        counts[vote.answer] = counts.get(vote.answer, 0.0) + vote.count
    ahead = counts.pop(leader) if leader is not None else 0.0
    return probability_ahead(ahead, max(counts.values(), default=0.0)) >= certainty


def probability_ahead(ahead: float, behind: float) -> float:
    """The integral of x^a (1 - x)^b over [1/2, 1], over that over [0, 1]; a, b >= 0 may be broken.

    By the continued fraction of the incomplete beta function (Numerical Recipes, 6.4) with the
    scale in logarithms: no overflow for thousands of votes, absolute error below 1e-12.
    """
    if ahead < 0 or behind < 0:
        raise ValueError(f"counts must be 0 or more: {ahead}, {behind}")
    if ahead < behind:
        return 1.0 - probability_ahead(behind, ahead)
    p, q = ahead + 1.0, behind + 1.0
    scale = math.lgamma(p + q) - math.lgamma(p) - math.lgamma(q) - (p + q) * math.log(2.0)
    return 1.0 - math.exp(scale) * _beta_fraction(p, q, 0.5) / p


def _beta_fraction(p: float, q: float, x: float) -> float:
    """Lentz's method; converges fast for x < (p + 1) / (p + q + 2)."""
    c, d = 1.0, 1.0 / (1.0 - (p + q) * x / (p + 1.0))
    value = d
    for m in range(1, 100_000):
        for step in (
            m * (q - m) * x / ((p + 2 * m - 1) * (p + 2 * m)),
            -(p + m) * (p + q + m) * x / ((p + 2 * m) * (p + 2 * m + 1)),
        ):
            d = 1.0 / (1.0 + step * d)
            c = 1.0 + step / c
            value *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return value


def _count(votes: Iterable[Vote], answer: str | None) -> float:
    return math.fsum(vote.count for vote in votes if vote.answer == answer)


def _top_two(weights: Iterable[float]) -> tuple[float, float]:
    ordered = sorted(weights, reverse=True)
    return (ordered[0] if ordered else 0.0), (ordered[1] if len(ordered) > 1 else 0.0)
