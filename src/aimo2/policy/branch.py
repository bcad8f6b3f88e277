"""Where a question's tree grows: which points are forked, in which order, how many branches each.

Pure: figures in, decisions out. Knows no models, no kernels and no clocks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aimo2.config import STEP_POLICIES, BranchConfig
from aimo2.types import TokenStats

REBASE_WIDTH = 16
BEAM_WIDTH = 4
_PATIENCE = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point that still has branches to give. `order`: when it came up, from 0."""

    depth: int
    """Forks above the branches that start here."""
    num_opened: int
    order: int


def first_roots(config: BranchConfig, num_rollouts: int) -> int:
    """Rollouts that are opened from the problem itself before any branch is."""
    if config.policy in ("bfs", "entropy"):
        return min(config.roots, num_rollouts)
    return num_rollouts


def branches_at(config: BranchConfig, depth: int, num_points: int) -> int:
    """Further branches that a rollout may give at a boundary that it has just come to.

    `depth`: forks above the rollout. `num_points`: points that it has given already: one is all,
    the first, where most of its reply is still to come. It goes on as one of `children` itself.
    """
    if config.policy not in ("bfs", "entropy") or num_points or depth >= config.max_depth:
        return 0
    return config.children - 1


def may_branch(config: BranchConfig, depth: int, num_points: int, num_tokens: int) -> bool:
    """Whether it is worth waiting for a running rollout to come to a boundary with branches.

    `num_tokens`: that it has sampled itself. A point is due after `step_tokens`, or at its first
    code run; what has none after twice as many is not waited for, although it may still give one.
    """
    due = num_tokens < _PATIENCE * config.step_tokens
    return due and branches_at(config, depth, num_points) > 0


def next_point(candidates: Sequence[Candidate]) -> int:
    """Breadth first: the point that is least deep, then the one with fewest branches, then the
    oldest. Raises `ValueError` where there is none.
    """
    return min(
        range(len(candidates)),
        key=lambda at: (
            candidates[at].depth,
            candidates[at].num_opened,
            candidates[at].order,
        ),
    )


def allot(
    config: BranchConfig, scores: Sequence[float], trees: Sequence[int], live: int
) -> list[int]:
    """How many ways each waiting rollout goes on: 0 ends it, 1 lets it go on, n forks it.

    `scores`: of the waiting rollouts, larger is better. `trees`: the root that each comes from.
    `live`: rollouts that the question had from the start, less those that have ended by themselves.
    """
    width = min(config.width or BEAM_WIDTH, max(1, live))
    match config.policy:
        case "rebase":
            return rebase(scores, max(1, live), config.sharpness)
        case "beam":
            return beam(scores, max(1, live), width)
        case "dvts":
            return dvts(scores, trees, max(1, live), width)
        case _:
            raise ValueError(f"{config.policy} does not wait for the others")


def rebase(scores: Sequence[float], width: int, sharpness: float = 0.2) -> list[int]:
    """REBASE (arXiv 2408.00724, equation 1): ceil(W exp(s / 0.2) / sum) children, best first, until
    the width W is used up.
    """
    if not scores:
        return []
    best = max(scores)
    weights = [math.exp((score - best) / sharpness) for score in scores]
    total = math.fsum(weights)
    given, left = [0] * len(scores), width
    for at in _best_first(scores):
        given[at] = min(left, math.ceil(width * weights[at] / total))
        left -= given[at]
    return given


def beam(scores: Sequence[float], live: int, width: int) -> list[int]:
    """Beam search (search-and-learn): of n beams the best n / width go on, in `width` ways each."""
    given = [0] * len(scores)
    keep = max(1, live // width)
    chosen = _best_first(scores)[:keep]
    for rank, at in enumerate(chosen):
        given[at] = live // len(chosen) + (rank < live % len(chosen))
    return given


def dvts(scores: Sequence[float], trees: Sequence[int], live: int, width: int) -> list[int]:
    """Diverse verifier tree search (search-and-learn): beam search in n / width separate trees.

    Roots are taken together by `width`: roots 0 to width - 1 are the first tree.
    """
    groups: dict[int, list[int]] = {}
    for at, root in enumerate(trees):
        groups.setdefault(root // width, []).append(at)
    given = [0] * len(scores)
    for members in groups.values():
        best = max(members, key=lambda at: (scores[at], -at))
        given[best] = min(width, live)
    return given


def _best_first(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda at: (-scores[at], at))


def confidence_score(stats: TokenStats | None) -> float:
    """Self-confidence, 0 to 1: the geometric mean of the sampled tokens' probability, over the
    last 2,048; 0.5 where the server gives no log-probabilities.
    """
    return 0.5 if stats is None else math.exp(min(0.0, stats.tail_logprob))


def code_score(num_runs: int, num_errors: int) -> float:
    """Code success, 0 to 1: the share of good cells, by Laplace's rule of succession."""
    return (num_runs - num_errors + 1) / (num_runs + 2)


def agreement_scores(values: Sequence[str | None], others: Sequence[str]) -> list[float]:
    """For each value the share of all values, `others` included, that are equal to it, 0 to 1.

    `None`, a rollout that has no value yet, agrees with nobody.
    """
    known = [value for value in values if value is not None]
    pool = [*known, *others]
    return [0.0 if value is None else pool.count(value) / len(pool) for value in values]


def waits(config: BranchConfig, num_steps: int) -> bool:
    """Whether a rollout that has made so many steps waits at the next for the others."""
    return config.policy in STEP_POLICIES and num_steps < config.max_steps
