"""Comparisons show different answers, all equally often; choices become bounded votes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.policy.select import Candidate, chosen, comparisons, verdict_votes
from aimo2.types import Vote

CANDIDATES = st.lists(st.sampled_from("abcdef"), max_size=20).map(
    lambda answers: [Candidate(index, answer, "") for index, answer in enumerate(answers)]
)


@given(CANDIDATES, st.integers(0, 20), st.integers(2, 8), st.integers(0, 99))
def test_every_answer_is_shown_as_often_as_any_other(
    candidates: list[Candidate], rounds: int, size: int, seed: int
) -> None:
    shown = comparisons(candidates, rounds, size, seed)
    answers = {candidate.answer for candidate in candidates}
    if len(answers) < 2:
        assert shown == []
        return
    assert len(shown) == rounds
    for each in shown:
        assert len(each) == min(size, len(answers))
        assert len({candidate.answer for candidate in each}) == len(each)
        assert set(each) <= set(candidates)
    counts = Counter(candidate.answer for each in shown for candidate in each)
    assert (
        max(counts.values(), default=0) - min((counts[answer] for answer in answers), default=0)
        <= 1
    )
    assert shown == comparisons(candidates, rounds, size, seed)


def test_the_order_is_drawn() -> None:
    candidates = [Candidate(index, answer, "") for index, answer in enumerate("abcd")]
    firsts = {shown[0].answer for shown in comparisons(candidates, 40, 4, 1)}
    assert firsts == set("abcd")


SHOWN = (Candidate(3, "41", ""), Candidate(5, "42", ""))


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("2", "42"),
        (" #1 ", "41"),
        ("0", None),
        ("3", None),
        ("-1", None),
        ("", None),
        (None, None),
        ("42", None),
        ("²", None),
        ("1.0", None),
    ],
)
def test_only_a_number_that_was_shown_is_a_choice(written: str | None, answer: str | None) -> None:
    pick = chosen(written, SHOWN)
    assert (pick.answer if pick else None) == answer


@given(st.lists(st.sampled_from(SHOWN), max_size=9), st.floats(0.1, 10))
def test_the_verdict_weighs_what_it_is_given_however_many_choose(
    picks: list[Candidate], weight: float
) -> None:
    votes = [Vote(rollout=0, answer="41"), Vote(rollout=1, answer="7", weight=0.5)]
    found = verdict_votes(picks, votes, weight)
    assert [(vote.rollout, vote.answer) for vote in found] == [
        (pick.rollout, pick.answer) for pick in picks
    ]
    if picks:
        assert sum(vote.weight for vote in found) == pytest.approx(1.5 * weight)
