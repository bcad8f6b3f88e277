"""Estimates from repeated samples, and how sure they are. Knows no traces and no files.

Pure functions of numbers; every random draw has a fixed seed, so that the same run gives the same
interval. Intervals are over problems: a problem is the unit that is drawn, its samples are not.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy
from numpy.typing import NDArray

Floats = NDArray[numpy.float64]

LEVEL = 0.95
RESAMPLES = 10_000
Bounds = tuple[float, float]
"""The least and the largest that a value can be."""
SHARE: Bounds = (0.0, 1.0)
DIFFERENCE: Bounds = (-1.0, 1.0)
"""Of two shares."""
EXACT_SAMPLES = 64
"""Up to so many samples a problem `majority_at_k` is exact."""
DRAWS = 4_000
"""Beyond them, random subsets a problem."""
_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its interval; both ends are `nan` where only one problem has a say."""

    value: float
    low: float
    high: float


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that one of `k` samples drawn without replacement is right.

    Unbiased: 1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374, equation 1). Raises
    `ValueError` where k is not within 1 ... n.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k must be within 1 and {samples}, not {k}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def majority_at_k(classes: Sequence[int], right: Sequence[bool], blank: int, k: int) -> float:
    """The chance that the most frequent of `k` answers drawn without replacement is right.

    `classes`: samples with each answer; `right`: whether that answer is right; `blank`: samples
    without an answer, which do not vote. Answers tied for the most votes are each as likely to be
    taken; where nobody voted the answer is wrong. Exact for up to `EXACT_SAMPLES` samples,
    otherwise the mean of `DRAWS` random subsets. Raises `ValueError` as `pass_at_k`.
    """
    samples = sum(classes) + blank
    if not 1 <= k <= samples:
        raise ValueError(f"k must be within 1 and {samples}, not {k}")
    if len(classes) != len(right):
        raise ValueError(f"{len(classes)} answers, but {len(right)} verdicts")
    wins = tuple(count for count, good in zip(classes, right, strict=True) if good)
    loses = tuple(count for count, good in zip(classes, right, strict=True) if not good)
    if samples > EXACT_SAMPLES:
        return _drawn_majority(wins, loses, blank, k)
    return _exact_majority(tuple(sorted(wins)), tuple(sorted(loses)), blank)[k - 1]


@cache
def _exact_majority(wins: tuple[int, ...], loses: tuple[int, ...], blank: int) -> list[float]:
    """For each k from 1, by counting the subsets.

    Among subsets of k samples, those in which the leading answers have v votes each are counted by
    a product over the answers: C(c, x) ways to draw x < v samples of an answer that does not lead,
    C(c, v) of one that does. A polynomial keeps samples drawn and leaders apart; the first right
    leader is counted by symmetry as wins / leaders.
    """
    total = sum(wins) + sum(loses) + blank
    ways = [Fraction(0)] * (total + 1)
    blanks = [math.comb(blank, x) for x in range(blank + 1)]
    for votes in range(1, max((*wins, *loses, 0)) + 1):
        # leading[(drawn, right leaders, leaders)] -> number of subsets
        leading: dict[tuple[int, int, int], int] = {(0, 0, 0): 1}
        for count, good in [*((c, True) for c in wins), *((c, False) for c in loses)]:
            leading = _with_answer(leading, count, votes, good)
        for (drawn, good_leaders, leaders), number in leading.items():
            if good_leaders:
                for x, times in enumerate(blanks):
                    ways[drawn + x] += Fraction(number * times * good_leaders, leaders)
    return [float(ways[k] / math.comb(total, k)) for k in range(1, total + 1)]


def _with_answer(
    leading: dict[tuple[int, int, int], int], count: int, votes: int, good: bool
) -> dict[tuple[int, int, int], int]:
    grown: Counter[tuple[int, int, int]] = Counter()
    for (drawn, good_leaders, leaders), number in leading.items():
        for x in range(min(count, votes) + 1):
            leads = x == votes
            key = (drawn + x, good_leaders + (leads and good), leaders + leads)
            grown[key] += number * math.comb(count, x)
    return grown


def _drawn_majority(wins: Sequence[int], loses: Sequence[int], blank: int, k: int) -> float:
    random = numpy.random.default_rng(0)
    counts = random.multivariate_hypergeometric([*wins, *loses, blank], k, size=DRAWS)
    votes = counts[:, :-1]
    if not votes.shape[1]:
        return 0.0
    best = votes.max(axis=1)
    leads = (votes == best[:, None]) & (best[:, None] > 0)
    good = leads[:, : len(wins)].sum(axis=1)
    return float(numpy.mean(good / numpy.maximum(1, leads.sum(axis=1))))


def mean_interval(
    values: Sequence[float], level: float = LEVEL, *, within: Bounds | None = None
) -> Estimate:
    """The mean over problems, with a bootstrap interval (see `interval`).

    `within`: what a value can be, where that is known; the interval then holds what so few problems
    cannot exclude (see `_with_unseen`). Without it equal values leave no doubt.
    """
    array = numpy.asarray(values, dtype=float)
    found = interval(array[:, None], lambda sums: sums[:, 0], level)
    return found if within is None else _with_unseen(found, len(array), level, within)


def ratio_interval(
    above: Sequence[float],
    below: Sequence[float],
    level: float = LEVEL,
    *,
    within: Bounds | None = None,
) -> Estimate | None:
    """A ratio of sums over problems, such as repaired cells to failed ones; `None` for 0 / 0.

    Problems without either say nothing about it. `within`: what a problem's ratio can be, as in
    `mean_interval`, as if all problems weighed alike.
    """
    if not sum(below):
        return None
    parts = numpy.column_stack([numpy.asarray(above, float), numpy.asarray(below, float)])
    parts = parts[parts.any(axis=1)]

    def ratio(sums: Floats) -> Floats:
        # A resample of nothing below says nothing: the whole set's ratio stands in.
        whole = parts[:, 0].sum() / parts[:, 1].sum()
        safe = numpy.where(sums[:, 1] > 0, sums[:, 1], 1.0)
        return numpy.where(sums[:, 1] > 0, sums[:, 0] / safe, whole)

    found = interval(parts, ratio, level)
    return found if within is None else _with_unseen(found, len(parts), level, within)


def _with_unseen(found: Estimate, problems: int, level: float, within: Bounds) -> Estimate:
    """An interval of a mean of bounded values, as wide as what no drawn problem has shown may be.

    Resampling never goes beyond the values that were drawn: where all problems are right it shows
    no spread. But a part p of all problems is missed by each of n drawn ones with the probability
    (1 - p)^n, and the p for which that is (1 - level) / 2 could move the mean as far as the bounds
    let it. For n equal shares of 0 or 1 this is Clopper's and Pearson's exact limit (Biometrika 26,
    1934), for n differences of 0 the "rule of three" on either side.
    """
    unseen = 1 - ((1 - level) / 2) ** (1 / problems)
    low, high = within
    return Estimate(
        found.value,
        min(found.low, found.value - unseen * (found.value - low)),
        max(found.high, found.value + unseen * (high - found.value)),
    )


def interval(
    parts: Floats, statistic: Callable[[Floats], Floats], level: float = LEVEL
) -> Estimate:
    """A bootstrap over problems of a function of means.

    `parts`: shape (problems, columns). `statistic`: from means, shape (resamples, columns), to
    values, shape (resamples,). Percentile interval whose tail is widened for few problems as in
    Hesterberg, arXiv 1411.5279, section 5.2: alpha / 2 becomes Phi(-sqrt(n / (n - 1)) t), because
    plain percentiles are too narrow by that much. It was chosen over BCa by its coverage
    (docs/measurements.md).
    """
    problems = len(parts)
    if not problems:
        raise ValueError("an interval needs at least one problem")
    value = float(statistic(parts.mean(axis=0)[None, :])[0])
    if problems == 1:
        return Estimate(value, math.nan, math.nan)
    drawn = statistic(_resampled_means(parts))
    tail = _expanded_tail(problems, level)
    low, high = numpy.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _expanded_tail(problems: int, level: float) -> float:
    from scipy import stats  # Half a second: not for those who only solve.

    quantile = stats.t.ppf((1 + level) / 2, problems - 1)
    return float(stats.norm.cdf(-math.sqrt(problems / (problems - 1)) * quantile))


def _resampled_means(parts: Floats, seed: int = 0) -> Floats:
    """Shape (resamples, columns). In pieces, so that thousands of problems fit into memory."""
    random = numpy.random.default_rng(seed)
    problems = len(parts)
    pieces = []
    for at in range(0, RESAMPLES, _CHUNK):
        shape = (min(_CHUNK, RESAMPLES - at), problems)
        chosen = random.integers(0, problems, size=shape, dtype=numpy.int32)
        pieces.append(numpy.column_stack([column[chosen].mean(axis=1) for column in parts.T]))
    return numpy.concatenate(pieces)


def bca_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean with a BCa interval (Efron 1987), for comparison with `mean_interval`."""
    from scipy import stats

    array = numpy.asarray(values, dtype=float)
    value = float(array.mean())
    drawn = _resampled_means(array[:, None])[:, 0]
    if array.std() == 0:
        return Estimate(value, value, value)
    below = (drawn < value).mean() + (drawn == value).mean() / 2
    bias = stats.norm.ppf(below)
    left_out = value - (array - value) / (len(array) - 1)
    apart = left_out.mean() - left_out
    skew = (apart**3).sum() / (6 * ((apart**2).sum()) ** 1.5)
    ends = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    tails = stats.norm.cdf(bias + ends / (1 - skew * ends))
    low, high = numpy.quantile(drawn, tails)
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True, slots=True)
class McNemar:
    """Problems that only one of two runs has right, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's exact test: a binomial test of the pairs that differ; p = 1 where none does."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} verdicts against {len(second)}")
    pairs = Counter(zip(first, second, strict=True))
    ahead, behind = pairs[True, False], pairs[False, True]
    if not ahead + behind:
        return McNemar(0, 0, 1.0)
    from scipy import stats

    return McNemar(ahead, behind, float(stats.binomtest(ahead, ahead + behind).pvalue))
