import itertools
import math
from collections import Counter

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aimo2.evals import estimators
from aimo2.evals.estimators import (
    DIFFERENCE,
    SHARE,
    Estimate,
    bca_interval,
    interval,
    majority_at_k,
    mcnemar,
    mean_interval,
    pass_at_k,
    ratio_interval,
)

Answers = list[tuple[int, bool]]
ANSWERS = st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=4)


def drawn(answers: Answers, blank: int, k: int) -> list[tuple[int | None, ...]]:
    """Every subset of k samples, as the answers' numbers."""
    samples: list[int | None] = [at for at, (count, _) in enumerate(answers) for _ in range(count)]
    return list(itertools.combinations(samples + [None] * blank, k))


@settings(max_examples=60, deadline=None)
@given(ANSWERS, st.integers(0, 2), st.data())
def test_majority_is_what_counting_every_subset_gives(
    answers: Answers, blank: int, data: st.DataObject
) -> None:
    total = sum(count for count, _ in answers) + blank
    if not total:
        return
    k = data.draw(st.integers(1, total))
    chances = []
    for subset in drawn(answers, blank, k):
        votes = Counter(answer for answer in subset if answer is not None)
        leaders = [a for a, count in votes.items() if count == max(votes.values())]
        chances.append(sum(answers[a][1] for a in leaders) / len(leaders) if leaders else 0.0)
    exact = majority_at_k([count for count, _ in answers], [good for _, good in answers], blank, k)
    assert exact == pytest.approx(sum(chances) / len(chances))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_what_counting_every_subset_gives(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    verdicts = [True] * right + [False] * (samples - right)
    subsets = list(itertools.combinations(verdicts, k))
    expected = sum(map(any, subsets)) / len(subsets)
    assert pass_at_k(samples, right, k) == pytest.approx(expected)


def test_one_sample_makes_all_measures_equal() -> None:
    assert majority_at_k([3, 5], [True, False], 2, 1) == pytest.approx(0.3)
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)


def test_ties_are_split_evenly() -> None:
    assert majority_at_k([2, 2], [True, False], 0, 4) == pytest.approx(0.5)
    assert majority_at_k([2, 2, 2], [True, False, True], 0, 6) == pytest.approx(2 / 3)


def test_random_subsets_come_near_the_exact_value(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = majority_at_k([6, 5, 3, 2], [False, True, False, True], 4, 9)
    monkeypatch.setattr(estimators, "EXACT_SAMPLES", 0)
    near = majority_at_k([6, 5, 3, 2], [False, True, False, True], 4, 9)
    assert near != exact
    assert near == pytest.approx(exact, abs=0.03)
    assert majority_at_k([], [], 5, 3) == 0.0


@pytest.mark.parametrize("k", [0, 5])
def test_k_must_be_within_the_samples(k: int) -> None:
    with pytest.raises(ValueError, match=f"not {k}"):
        pass_at_k(4, 2, k)
    with pytest.raises(ValueError, match=f"not {k}"):
        majority_at_k([4], [True], 0, k)


def test_an_interval_holds_its_value_and_repeats() -> None:
    values = [0.0, 1.0, 0.5, 0.25, 1.0, 0.0, 0.75]
    one = mean_interval(values)
    assert one == mean_interval(values)
    assert one.low < one.value < one.high
    assert one.value == pytest.approx(0.5)
    wider = mean_interval(values, level=0.99)
    assert wider.low < one.low < one.high < wider.high


def test_one_problem_says_nothing_and_equal_costs_leave_no_doubt() -> None:
    assert mean_interval([120.0] * 9) == Estimate(120, 120, 120)
    assert math.isnan(mean_interval([1.0]).low)
    assert math.isnan(mean_interval([1.0], within=SHARE).low)
    with pytest.raises(ValueError, match="at least one"):
        interval(numpy.zeros((0, 1)), lambda sums: sums[:, 0])


@pytest.mark.parametrize("problems", [2, 30, 500])
def test_all_right_and_all_wrong_have_the_exact_binomial_limits(problems: int) -> None:
    for value in (0.0, 1.0):
        exact = stats.binomtest(round(value) * problems, problems).proportion_ci(method="exact")
        found = mean_interval([value] * problems, within=SHARE)
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_unchanged_pairs_leave_the_doubt_of_the_rule_of_three() -> None:
    found = mean_interval([0.0] * 100, within=DIFFERENCE)
    assert found.value == 0
    assert found.high == -found.low
    assert 3 / 100 < found.high < 4 / 100  # 3 / n is for one side.


def test_a_single_change_leaves_no_less_doubt_than_none() -> None:
    """By hand the adjusted interval of Bonett and Price (2012) is -0.074 to 0.137."""
    none = mean_interval([0.0] * 30, within=DIFFERENCE)
    one = mean_interval([1.0] + [0.0] * 29, within=DIFFERENCE)
    assert one.high - one.low >= none.high - none.low
    assert (one.low, one.high) == pytest.approx((-0.074, 0.137), abs=0.015)


def test_equal_shares_between_the_bounds_may_move_either_way() -> None:
    found = mean_interval([0.25] * 30, within=SHARE)
    part = mean_interval([0.0] * 30, within=SHARE).high
    assert (found.low, found.high) == pytest.approx((0.25 - part * 0.25, 0.25 + part * 0.75))


def test_a_ratio_that_never_varies_leaves_doubt_by_the_problems_that_have_cases() -> None:
    none_failed = ratio_interval([0, 0, 0, 0], [3, 1, 0, 7], within=SHARE)
    assert none_failed is not None
    assert none_failed == mean_interval([0.0] * 3, within=SHARE)
    single = ratio_interval([2, 0, 0], [5, 0, 0], within=SHARE)
    assert single is not None
    assert single.value == 0.4
    assert math.isnan(single.low)


def test_a_ratio_weighs_problems_by_their_cells() -> None:
    one = ratio_interval([1, 0, 3], [1, 4, 5])
    assert one is not None
    assert one.value == pytest.approx(0.4)
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert ratio_interval([0, 0], [0, 0]) is None


def test_intervals_of_thirty_problems_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nominal 95 %: within 94 to 96 % over 1,500 exams, the simulation's own error added."""
    monkeypatch.setattr(estimators, "RESAMPLES", 1_000)
    random = numpy.random.default_rng(5)
    held, exams = 0, 1_500
    for _ in range(exams):
        chances = random.beta(0.8, 0.8, size=30)
        found = mean_interval(list(random.binomial(8, chances) / 8))
        held += found.low <= 0.5 <= found.high
    assert 0.94 - 0.011 <= held / exams <= 0.96 + 0.011


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.98, 0.998])
@pytest.mark.parametrize("problems", [30, 100])
def test_intervals_cover_rates_near_none_and_all(
    monkeypatch: pytest.MonkeyPatch, rate: float, problems: int
) -> None:
    """At least: single right or wrong problems are a coarse measure of such rates."""
    monkeypatch.setattr(estimators, "RESAMPLES", 500)
    random = numpy.random.default_rng(6)
    rights = random.binomial(problems, rate, size=400)
    covers = {}
    for right in set(rights.tolist()):
        found = mean_interval([1.0] * right + [0.0] * (problems - right), within=SHARE)
        covers[right] = found.low <= rate <= found.high
    assert numpy.mean([covers[right] for right in rights.tolist()]) >= 0.94


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.1])
def test_intervals_cover_the_difference_of_pairs_that_hardly_change(
    monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    monkeypatch.setattr(estimators, "RESAMPLES", 500)
    random = numpy.random.default_rng(7)
    held = 0
    for _ in range(400):
        chances = [rate / 3, 1 - rate, rate * 2 / 3]
        changes = random.choice([-1.0, 0.0, 1.0], 30, p=chances)
        found = mean_interval(changes.tolist(), within=DIFFERENCE)
        held += found.low <= rate / 3 <= found.high
    assert held / 400 >= 0.94


def test_bca_agrees_with_percentiles_where_nothing_is_skewed() -> None:
    values = list(numpy.linspace(0, 1, 60))
    one, other = bca_interval(values), mean_interval(values)
    assert one.low == pytest.approx(other.low, abs=0.02)
    assert one.high == pytest.approx(other.high, abs=0.02)


def test_mcnemar_is_a_binomial_test_of_the_pairs_that_differ() -> None:
    first = [True] * 10 + [False] * 5 + [True] * 3
    second = [False] * 10 + [False] * 5 + [True] * 3
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (10, 0)
    assert found.p == pytest.approx(2 / 2**10)
    assert mcnemar([True, False], [True, False]).p == 1.0
    both = mcnemar([True, False, True], [False, True, True])
    assert (both.only_first, both.only_second, both.p) == (1, 1, 1.0)
    with pytest.raises(ValueError, match="1 verdicts against 2"):
        mcnemar([True], [True, False])
