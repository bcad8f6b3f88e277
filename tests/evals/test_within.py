import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as some

from aimo2.evals.within import PERMUTATIONS, cliffs_delta, within_problems

VALUES = some.lists(some.integers(-5, 5).map(float), min_size=1, max_size=8)


@given(VALUES, VALUES)
def test_cliffs_delta_counts_pairs(first: list[float], second: list[float]) -> None:
    pairs = list(product(first, second))
    wanted = sum((b > a) - (b < a) for a, b in pairs) / len(pairs)
    assert math.isclose(cliffs_delta(first, second), wanted, abs_tol=1e-12)
    assert math.isclose(cliffs_delta(second, first), -wanted, abs_tol=1e-12)


def test_two_samples_are_needed() -> None:
    with pytest.raises(ValueError, match="at least one value each"):
        cliffs_delta([], [1.0])


def test_problems_with_one_kind_only_do_not_count() -> None:
    assert within_problems([([1.0], []), ([], [9.0])]) is None
    test = within_problems([([1.0, 2.0], [3.0]), ([1.0], []), ([], [9.0])])
    assert test is not None
    assert (test.problems, test.delta.value, test.larger) == (1, 1.0, 1.0)


def drawn(effect: float, seed: int, problems: int = 40) -> list[tuple[list[float], list[float]]]:
    """Harder problems have longer texts and more wrong samples, whatever the effect inside."""
    draw = random.Random(seed)
    pairs = []
    for n in range(problems):
        right: list[float] = []
        wrong: list[float] = []
        for _ in range(8):
            is_wrong = draw.random() < (n + 1) / (problems + 1)
            value = 100 * n + draw.gauss(0, 10) + effect * is_wrong
            (wrong if is_wrong else right).append(value)
        pairs.append((right, wrong))
    return pairs


def test_difficulty_alone_is_no_effect() -> None:
    test = within_problems(drawn(0.0, seed=1))
    assert test is not None
    assert test.pooled is not None
    assert test.pooled > 0.4
    assert abs(test.delta.value) < 0.2
    assert test.p > 0.05


def test_an_effect_inside_problems_is_found() -> None:
    test = within_problems(drawn(15.0, seed=2))
    assert test is not None
    assert test.delta.low > 0.3
    assert test.p == pytest.approx(1 / (1 + PERMUTATIONS))


def test_p_values_are_even_where_nothing_differs() -> None:
    ps = []
    for seed in range(60):
        test = within_problems(drawn(0.0, seed, problems=10))
        assert test is not None
        ps.append(test.p)
    assert 0.35 < sum(ps) / len(ps) < 0.65
    assert sum(p < 0.05 for p in ps) <= 8


def test_the_same_data_give_the_same_figures() -> None:
    pairs = drawn(3.0, seed=5)
    assert within_problems(pairs) == within_problems(pairs)
