import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.config import BranchConfig
from aimo2.policy.branch import (
    Candidate,
    agreement_scores,
    allot,
    beam,
    branches_at,
    code_score,
    confidence_score,
    dvts,
    first_roots,
    may_branch,
    next_point,
    rebase,
    waits,
)
from aimo2.types import TokenStats

SCORES = st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=20)


@given(SCORES, st.integers(min_value=1, max_value=32))
def test_rebase_never_gives_more_than_its_width_and_serves_the_best_first(
    scores: list[float], width: int
) -> None:
    given_ways = rebase(scores, width)
    assert 1 <= sum(given_ways) <= width
    assert given_ways[scores.index(max(scores))] == max(given_ways)


def test_rebase_is_the_paper_s_formula() -> None:
    scores, width = [0.9, 0.5, 0.1], 16
    total = sum(math.exp(score / 0.2) for score in scores)
    assert rebase(scores, width)[0] == math.ceil(width * math.exp(0.9 / 0.2) / total)
    assert rebase([0.5] * 4, 16) == [4, 4, 4, 4]
    assert rebase([], 16) == []
    assert rebase([1.0, 0.0], 16, sharpness=0.01) == [16, 0]


@given(SCORES, st.integers(min_value=1, max_value=16), st.integers(min_value=1, max_value=4))
def test_beam_keeps_as_many_alive_as_there_were(scores: list[float], live: int, width: int) -> None:
    ways = beam(scores, live, width)
    assert sum(ways) == live
    kept = [score for score, count in zip(scores, ways, strict=True) if count]
    assert len(kept) <= max(1, live // width)
    assert max(scores) in kept


def test_dvts_keeps_the_best_of_every_tree() -> None:
    scores, trees = [0.1, 0.9, 0.5, 0.2], [0, 1, 2, 3]
    assert dvts(scores, trees, 4, 2) == [0, 2, 2, 0]
    assert dvts(scores, trees, 4, 4) == [0, 4, 0, 0]


def test_allot_asks_the_policy_that_is_configured() -> None:
    scores, trees = [0.9, 0.1], [0, 1]
    assert allot(BranchConfig(policy="beam", width=2), scores, trees, 2) == [2, 0]
    assert allot(BranchConfig(policy="dvts", width=1), scores, trees, 2) == [1, 1]
    assert sum(allot(BranchConfig(policy="rebase"), scores, trees, 16)) <= 16
    with pytest.raises(ValueError, match="bfs"):
        allot(BranchConfig(policy="bfs"), scores, trees, 2)


def test_the_next_point_is_the_least_deep_then_the_one_with_fewest_branches() -> None:
    points = [Candidate(2, 0, 0), Candidate(1, 1, 1), Candidate(1, 0, 3), Candidate(1, 0, 2)]
    assert next_point(points) == 3
    with pytest.raises(ValueError):
        next_point([])


def test_only_trees_have_roots_and_a_rollout_gives_one_point() -> None:
    bfs = BranchConfig(policy="bfs", roots=3, children=3, max_depth=2)
    assert (first_roots(bfs, 16), first_roots(bfs, 2)) == (3, 2)
    assert first_roots(BranchConfig(), 16) == 16
    assert (branches_at(bfs, 0, 0), branches_at(bfs, 0, 1), branches_at(bfs, 2, 0)) == (2, 0, 0)
    assert branches_at(BranchConfig(policy="beam"), 0, 0) == 0


def test_a_point_is_waited_for_while_it_may_come_soon() -> None:
    bfs = BranchConfig(policy="bfs", max_depth=2, step_tokens=100)
    assert may_branch(bfs, 0, 0, 199)
    assert not may_branch(bfs, 0, 0, 200)
    assert not may_branch(bfs, 0, 1, 0)
    assert not may_branch(bfs, 2, 0, 0)
    assert not may_branch(BranchConfig(), 0, 0, 0)


def test_steps_are_waited_for_up_to_the_last() -> None:
    config = BranchConfig(policy="beam", max_steps=2)
    assert [waits(config, step) for step in range(4)] == [True, True, False, False]
    assert not waits(BranchConfig(policy="bfs"), 0)


def test_scores_are_between_0_and_1_and_grow_with_what_they_measure() -> None:
    def stats(tail: float) -> TokenStats:
        return TokenStats(num_tokens=9, mean_logprob=-9, tail_logprob=tail, min_window_logprob=-9)

    assert 0 < confidence_score(stats(-2)) < confidence_score(stats(-0.1)) < 1
    assert confidence_score(None) == code_score(0, 0) == 0.5
    assert code_score(3, 3) < 0.5 < code_score(3, 0) < 1
    assert agreement_scores(["7", None, "7", "8"], ["7"]) == [0.75, 0.0, 0.75, 0.25]
    assert agreement_scores([None], []) == [0.0]
