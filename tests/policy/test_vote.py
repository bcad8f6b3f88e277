import random as random_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.policy.stop import min_votes
from aimo2.policy.vote import tally
from aimo2.types import Vote

VOTES = st.lists(
    st.builds(
        Vote,
        rollout=st.integers(0, 99),
        answer=st.sampled_from("abc"),
        weight=st.sampled_from([0.5, 1.0]),
    ),
    unique_by=lambda vote: vote.rollout,
    max_size=20,
)


def votes(answers: str) -> list[Vote]:
    return [Vote(rollout=index, answer=answer) for index, answer in enumerate(answers)]


@given(VOTES, st.randoms())
def test_tally_is_invariant_under_order(ballots: list[Vote], random: random_module.Random) -> None:
    shuffled = list(ballots)
    random.shuffle(shuffled)
    counted, again = tally(ballots), tally(shuffled)
    assert list(counted.weights.items()) == list(again.weights.items())
    assert sum(counted.weights.values()) == pytest.approx(sum(vote.weight for vote in ballots))


@given(VOTES)
def test_leader_has_the_largest_weight_and_ties_go_to_the_earliest_rollout(
    ballots: list[Vote],
) -> None:
    counted = tally(ballots)
    if counted.leader is None:
        assert not ballots
        return
    largest = max(counted.weights.values())
    tied = {answer for answer, weight in counted.weights.items() if weight == largest}
    first = min((vote for vote in ballots if vote.answer in tied), key=lambda vote: vote.rollout)
    assert counted.leader == first.answer


def test_weights_decide_over_counts() -> None:
    ballots = [
        Vote(rollout=0, answer="a", weight=0.5),
        Vote(rollout=1, answer="a", weight=0.5),
        Vote(rollout=2, answer="b", weight=2.0),
    ]
    assert tally(ballots).leader == "b"


@pytest.mark.parametrize(
    ("num_rollouts", "needed"),
    [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (8, 4), (12, 6), (16, 7), (17, 7), (64, 7)],
)
def test_majority_waits_for_seven_of_sixteen_and_its_part_below(
    num_rollouts: int, needed: int
) -> None:
    assert min_votes(num_rollouts) == needed


def test_no_rollouts_is_a_caller_s_mistake() -> None:
    with pytest.raises(ValueError, match="0"):
        min_votes(0)
