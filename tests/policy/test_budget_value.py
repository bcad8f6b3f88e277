import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aimo2.exam.lessons import default_lessons
from aimo2.policy.budget import (
    BudgetConfig,
    First,
    Ledger,
    Lessons,
    Pace,
    Standing,
    grant,
    situation,
    situations,
)

VALUE = BudgetConfig(policy="value")


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return default_lessons()


def test_every_standing_has_a_situation_in_the_table() -> None:
    assert len(set(situations())) == len(situations()) == 14
    assert situation(Standing()) == "0"
    assert situation(Standing(5, (1.0,), 1)) == "1"
    assert situation(Standing(5, (2.0, 1.0), 3)) == "2+ 0.51"
    assert situation(Standing(5, (9.0,), 9)) == "8+ 0.76"


@given(weights=st.lists(st.floats(0.1, 9), min_size=1, max_size=12))
def test_any_votes_have_a_situation(weights: list[float]) -> None:
    ordered = tuple(sorted(weights, reverse=True))
    assert situation(Standing(1.0, ordered, len(weights))) in situations()


def test_the_price_rises_as_time_runs_short_and_is_nothing_with_plenty(lessons: Lessons) -> None:
    prices = [lessons.price_for(units) for units in (100.0, 3.0, 1.5, 0.5, 0.1)]
    assert prices[0] == 0
    assert prices == sorted(prices)
    assert lessons.top_price < lessons.price_for(0.0)


def test_a_decided_question_gives_its_time_back_and_an_open_one_goes_on(lessons: Lessons) -> None:
    ledger = Ledger(1000.0, 500.0, 50, (10.0,) * 25, tuple([First(8.0, True)] * 25))
    clear = Standing(20.0, (8.0,), 8, 8.0)
    fresh = Standing(5.0)
    assert grant(VALUE, ledger, clear, lessons).stop == "no_progress"
    assert grant(VALUE, ledger, fresh, lessons).stop is None


def test_silence_ends_a_question_in_the_end(lessons: Lessons) -> None:
    ledger = Ledger(1000.0, 900.0, 50, (10.0,) * 10, tuple([First(5.0, True)] * 10))
    stops = [
        seconds
        for seconds in range(1, 900)
        if grant(VALUE, ledger, Standing(float(seconds)), lessons).stop is not None
    ]
    assert stops
    assert stops == list(range(stops[0], 900))


def test_patience_waits_longer(lessons: Lessons) -> None:
    ledger = Ledger(1000.0, 500.0, 50, (10.0,) * 25, tuple([First(8.0, True)] * 25))
    standing = Standing(12.0, (1.0,), 1, 8.0)
    patient = BudgetConfig(policy="value", patience=1e6)
    hasty = BudgetConfig(policy="value", patience=1e-6)
    assert grant(patient, ledger, standing, lessons).stop is None
    assert grant(hasty, ledger, standing, lessons).stop == "no_progress"


def test_the_last_problem_is_never_given_up(lessons: Lessons) -> None:
    last = Ledger(1000.0, 300.0, 2, (700.0,))
    given_ = grant(VALUE, last, Standing(250.0, (9.0,), 9, 5.0), lessons, most=280.0)
    assert (given_.seconds, given_.stop) == (280.0, None)


def test_the_pace_is_learned_from_first_votes_that_came_and_from_those_that_did_not(
    lessons: Lessons,
) -> None:
    nothing = First(0.0, False)
    assumed = Pace(lessons, 100.0, ()).unit(nothing)
    slow = Pace(lessons, 100.0, [First(400.0, True)] * 20).unit(nothing)
    silent = Pace(lessons, 100.0, [First(400.0, False)] * 3).unit(nothing)
    fast = Pace(lessons, 100.0, [First(4.0, True)] * 20).unit(nothing)
    assert fast < assumed < slow
    assert silent > 2 * assumed
    assert 200 < slow < 800
    assert 2 < fast < 8


def test_one_question_never_takes_what_the_others_need(lessons: Lessons) -> None:
    ledger = Ledger(1000.0, 1000.0, 50)
    assert grant(VALUE, ledger, Standing(), lessons).seconds <= 2.5 * 20


@given(
    left=st.floats(0, 2000),
    spent=st.lists(st.floats(0, 100), max_size=49),
    seconds=st.floats(0, 500),
    votes=st.integers(0, 9),
    most=st.none() | st.floats(0, 500),
)
def test_no_grant_of_value_passes_what_is_left_or_the_limit(
    left: float, spent: list[float], seconds: float, votes: int, most: float | None
) -> None:
    firsts = tuple(First(each, True) for each in spent)
    standing = Standing(seconds, (float(votes),) if votes else (), votes, 1.0 if votes else None)
    ledger = Ledger(2000.0, left, 50, tuple(spent), firsts)
    given_ = grant(VALUE, ledger, standing, default_lessons(), most=most)
    assert 0 <= given_.seconds <= left
    assert most is None or given_.seconds <= most


def test_value_needs_lessons_that_fit() -> None:
    with pytest.raises(ValueError, match="needs lessons"):
        grant(VALUE, Ledger(10.0, 10.0, 5), Standing())
    stored = default_lessons().model_dump()
    for broken in ({"hazard": (1.0,)}, {"prices": (1.0,)}, {"worth": {"0": (1.0,)}}):
        with pytest.raises(ValidationError):
            Lessons.model_validate({**stored, **broken})
