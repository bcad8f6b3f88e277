"""Right against wrong samples inside each problem: an effect size, and a test of it.

Hard problems have longer reasoning and more wrong answers, so that pooled samples would show a
difference even where none exists inside any problem. Only problems with both kinds count here.
Pure functions of numbers with fixed seeds. Knows no traces and no models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy import stats

from aimo2.evals.estimators import DIFFERENCE, Estimate, mean_interval

PERMUTATIONS = 2_000

Pair = tuple[Sequence[float], Sequence[float]]
"""A problem's values: of its right samples, of its wrong ones."""


@dataclass(frozen=True, slots=True)
class WithinTest:
    """Wrong against right, over the problems that have both.

    `delta`: mean over problems of Cliff's delta, with its interval: the chance that a wrong sample
    has the larger value, minus the chance that a right one has, -1 to 1; 0 means no difference.
    `p`: of a permutation test that swaps right and wrong inside problems only. `pooled`: Cliff's
    delta over all samples of all problems together, which mixes in how hard they are; `None`
    where there is only one kind. `larger`: share of problems whose wrong samples have the larger
    median.
    """

    problems: int
    delta: Estimate
    p: float
    pooled: float | None
    larger: float


def cliffs_delta(first: Sequence[float], second: Sequence[float]) -> float:
    """P(second > first) - P(second < first) for one draw of each; the rank-biserial correlation.

    Cliff 1993 (Psychological Bulletin 114). Raises `ValueError` where either is empty.
    """
    if not first or not second:
        raise ValueError("two samples with at least one value each are needed")
    ranks = stats.rankdata([*first, *second])
    return float(_delta(ranks[None, len(first) :], len(first))[0])


def _delta(ranks: NDArray[numpy.float64], others: int) -> NDArray[numpy.float64]:
    """Of rows of ranks of the second sample, with `others` values in the first."""
    size = ranks.shape[1]
    above = ranks.sum(axis=1) - size * (size + 1) / 2
    return numpy.asarray(2 * above / (size * others) - 1)


def within_problems(pairs: Iterable[Pair]) -> WithinTest | None:
    """The comparison over problems; `None` where no problem has both right and wrong samples."""
    every = [(list(right), list(wrong)) for right, wrong in pairs]
    both = [(right, wrong) for right, wrong in every if right and wrong]
    if not both:
        return None
    deltas = [cliffs_delta(right, wrong) for right, wrong in both]
    all_right = [value for right, _ in every for value in right]
    all_wrong = [value for _, wrong in every for value in wrong]
    larger = [float(numpy.median(wrong) > numpy.median(right)) for right, wrong in both]
    return WithinTest(
        problems=len(both),
        delta=mean_interval(deltas, within=DIFFERENCE),
        p=_p_value(both, sum(deltas) / len(deltas)),
        pooled=cliffs_delta(all_right, all_wrong),
        larger=sum(larger) / len(larger),
    )


def _p_value(both: Sequence[tuple[list[float], list[float]]], seen: float) -> float:
    """Two-sided: how often labels swapped inside problems differ as much as the true ones.

    The true labelling counts as one of the permutations, so that p is never 0 (Phipson and Smyth,
    arXiv 1603.05766).
    """
    random = numpy.random.default_rng(0)
    total = numpy.zeros(PERMUTATIONS)
    for right, wrong in both:
        ranks = stats.rankdata([*right, *wrong])
        shuffled = random.permuted(numpy.tile(ranks, (PERMUTATIONS, 1)), axis=1)
        total += _delta(shuffled[:, : len(wrong)], len(right))
    as_far = numpy.abs(total / len(both)) >= abs(seen) - 1e-12
    return float((1 + as_far.sum()) / (1 + PERMUTATIONS))
