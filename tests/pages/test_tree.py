import math

from hypothesis import given
from hypothesis import strategies as some

from aimo2.pages.tree import DEEPEST, branch_of, casts, final_votes, forest
from tests.saved import code_run, trace, turn

SHARED = turn("a", num_tokens=100, run=code_run())
OWN = turn("b", num_tokens=7, mean_logprob=math.log(0.5))


def test_a_branch_is_what_it_adds_to_its_parent() -> None:
    branch = branch_of(trace(3, SHARED, OWN, parent=1, num_shared_turns=1, prefix="x", weight=0.5))
    assert branch.turns == (OWN,)
    assert (branch.num_tokens, branch.num_code_runs) == (7, 0)
    assert (branch.prefix, branch.weight, branch.parent) == ("", 0.5, 1)
    assert math.isclose(branch.sureness or 0, 0.5)


def test_sureness_is_the_geometric_mean_over_tokens() -> None:
    turns = (
        turn("a", num_tokens=3, mean_logprob=-1.0),
        turn("b", num_tokens=1, mean_logprob=-3.0),
        turn("c"),
    )
    assert math.isclose(branch_of(trace(0, *turns)).sureness or 0, math.exp(-6 / 4))
    assert branch_of(trace(0, turn("c"))).sureness is None


def test_forks_stand_under_what_they_came_from() -> None:
    stored = [trace(0), trace(1), trace(2, parent=0), trace(3, parent=2), trace(4, parent=0)]
    roots = forest(branch_of(each) for each in reversed(stored))
    assert [root.branch.index for root in roots] == [0, 1]
    walked = [(node.branch.index, node.depth) for root in roots for node in root.walk()]
    assert walked == [(0, 0), (2, 1), (3, 2), (4, 1), (1, 0)]


@given(some.lists(some.none() | some.integers(-2, 60), max_size=60))
def test_every_rollout_is_seen_once_whatever_parents_are_stored(parents: list[int | None]) -> None:
    branches = [branch_of(trace(n, parent=parent)) for n, parent in enumerate(parents)]
    walked = [node.branch.index for root in forest(branches) for node in root.walk()]
    assert sorted(walked) == list(range(len(parents)))


def test_a_long_chain_of_forks_is_drawn_at_a_bounded_depth() -> None:
    chain = [trace(n, parent=n - 1 if n else None) for n in range(3000)]
    (root,) = forest(map(branch_of, chain))
    assert max(node.depth for node in root.walk()) == DEEPEST


def test_votes_come_in_the_order_of_their_ends() -> None:
    stored = [
        trace(0, answer="1", started=0, seconds=9),
        trace(1, answer="2", started=3, seconds=2),
        trace(2, answer=None),
        trace(3, answer="1", seconds=1, answer_source="output"),
    ]
    found = casts(stored)
    assert [(cast.rollout, cast.seconds, cast.weight) for cast in found] == [
        (3, 1, 0.25), (1, 5, 1.0), (0, 9, 1.0),
    ]  # fmt: skip
    assert final_votes(found) == {"1": 1.25, "2": 1.0}


def test_stored_weights_are_taken_as_they_are() -> None:
    stored = [trace(0, weight=0.3), trace(1, answer="7", weight=None)]
    assert final_votes(casts(stored)) == {"42": 0.3}
