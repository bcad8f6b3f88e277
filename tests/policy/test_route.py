"""Where requests go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.policy.route import ABSOLUTE, RELATIVE, Candidate, PrefixIndex, blocks, choose


def test_the_longest_prefix_wins_where_loads_are_alike() -> None:
    seats = [Candidate(0, 3, 0), Candidate(1, 4, 7), Candidate(2, 3, 5)]
    assert choose(seats, 0) == 1


def test_a_replica_that_is_too_busy_is_passed_over() -> None:
    seats = [Candidate(0, 2, 0), Candidate(1, 40, 7)]
    assert choose(seats, 0) == 0


def test_nobody_to_choose_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no replica"):
        choose([], 0)


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 50)), min_size=1), st.integers(0))
def test_the_choice_is_never_busier_than_the_bound(
    seats: list[tuple[int, int]], start: int
) -> None:
    candidates = [Candidate(index, *seat) for index, seat in enumerate(seats)]
    chosen = candidates[choose(candidates, start)]
    assert chosen.load <= RELATIVE * min(seat.load for seat in candidates) + ABSOLUTE


def test_many_rollouts_of_one_new_problem_spread_over_all() -> None:
    numbers, loads = blocks("a new problem " * 100), [0, 0, 0, 0]
    indexes = [PrefixIndex() for _ in loads]
    for _ in range(512):
        seats = [
            Candidate(i, load, index.cached(numbers))
            for i, (load, index) in enumerate(zip(loads, indexes, strict=True))
        ]
        chosen = choose(seats, numbers[0])
        loads[chosen] += 1
        indexes[chosen].add(numbers)
    assert max(loads) <= RELATIVE * min(loads) + ABSOLUTE + 1


@given(st.text(min_size=300, max_size=2000), st.text(max_size=400))
def test_a_longer_text_begins_with_the_blocks_of_a_shorter(text: str, more: str) -> None:
    assert blocks(text + more)[: len(blocks(text))] == blocks(text)


def test_equal_blocks_behind_different_beginnings_are_different() -> None:
    same = "x" * 1000
    assert not set(blocks("a" * 128 + same)) & set(blocks("b" * 128 + same))


def test_the_index_forgets_ends_before_beginnings() -> None:
    index, numbers = PrefixIndex(most_blocks=4), blocks("y" * 128 * 6)
    index.add(numbers)
    assert index.cached(numbers) == 4
    index.clear()
    assert index.cached(numbers) == 0
