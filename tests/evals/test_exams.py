import random

import pytest

from aimo2.evals.exams import Course, Mark, course, courses, hall, learn, simulate, sit
from aimo2.evals.recorded import ReplayedProblem, Sample
from aimo2.evals.replay import Policy, Throughput
from aimo2.policy.budget import BudgetConfig, Lessons
from aimo2.policy.signals import Signals

SERVER = Throughput(base=0.01, per_stream=0.0)
"""100 tokens a second a stream."""
PLAN = Policy(num_rollouts=8, concurrency=8)


def sample(rollout: int, answer: str | None, tokens: int) -> Sample:
    signals = Signals(rollout=rollout, answer=answer, source="boxed", num_tokens=tokens)
    return Sample(signals, answer == "right", tokens)


def problem(name: str, *samples: tuple[str | None, int]) -> ReplayedProblem:
    made = tuple(sample(number, *each) for number, each in enumerate(samples))
    right = "right" if any(each.correct for each in made) else None
    return ReplayedProblem(name, "run", made, right)


def easy(name: str) -> ReplayedProblem:
    return problem(name, *[("right", 400 + 50 * number) for number in range(8)])


def hopeless(name: str) -> ReplayedProblem:
    return problem(name, *[(None, 20_000)] * 8)


def hard(name: str) -> ReplayedProblem:
    wrong = [("wrong", 800), ("other", 900)]
    return problem(name, *wrong, *[("right", 3000 + 100 * number) for number in range(6)])


def mixed(count: int) -> list[list[Course]]:
    kinds = (easy, hopeless, hard)
    return courses([kinds[n % 3](f"p{n}") for n in range(count)], PLAN, SERVER, repeats=2)


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return learn(mixed(30), "a test")


def test_a_course_has_every_vote_at_its_time() -> None:
    path = course(hard("p"), PLAN, SERVER)
    assert [mark.seconds for mark in path.marks[:3]] == pytest.approx([0, 8, 9])
    assert path.first_vote == pytest.approx(8)
    assert not path.at(10).right
    assert path.at(35).right
    assert path.standing(8.5).weights == (1.0,)
    assert path.standing(1.0).first.came is False


def test_without_a_limit_an_exam_takes_what_its_courses_take() -> None:
    paths = [course(make("p"), PLAN, SERVER) for make in (easy, hard, hopeless)]
    sat = sit(paths, 1e6, BudgetConfig(policy="even"))
    assert sat.used == pytest.approx(sum(path.end for path in paths))
    assert (sat.score, sat.num_lost, sat.overshoot) == (2, 0, 0.0)


@pytest.mark.parametrize("policy", ["even", "bank", "clamp", "value"])
@pytest.mark.parametrize("part", [0.1, 0.3, 1.0])
def test_no_policy_passes_the_exam_or_a_questions_limit(
    policy: str, part: float, lessons: Lessons
) -> None:
    config = BudgetConfig.model_validate({"policy": policy})
    chance = random.Random(1)
    for _ in range(10):
        paths = [chance.choice(chance.choice(mixed(6))) for _ in range(12)]
        total = part * sum(path.end for path in paths)
        sat = sit(paths, total, config, lessons, per_question=40.0)
        assert sat.overshoot <= 1e-9
        assert sat.used <= total + 1e-9


def test_value_gives_the_time_of_hopeless_problems_to_the_others(lessons: Lessons) -> None:
    drawn = hall(mixed(30), lessons, num_exams=20, num_problems=12)
    value, even = simulate(
        drawn, [BudgetConfig(policy="value"), BudgetConfig(policy="even")], [0.25]
    )
    _, low, _ = value.difference(even)
    assert low > 1
    assert value.mean(lambda exam: exam.num_given_back)[0] > 1


def test_lessons_know_where_going_on_pays(lessons: Lessons) -> None:
    assert lessons.worth["8+ 0.76"][5] < lessons.worth["0"][0]
    assert lessons.usage[0] > lessons.usage[-1]
    assert all(high >= low for high, low in zip(lessons.usage, lessons.usage[1:], strict=False))
    assert lessons.survival[0] == 1.0
    assert Lessons.model_validate_json(lessons.model_dump_json()) == lessons


def test_crossed_lessons_never_see_the_problems_of_their_exam() -> None:
    groups = mixed(12)
    drawn = hall(groups, None, num_exams=4, num_problems=5)
    taught = {id(each) for each in drawn.lessons}
    assert len(taught) == 2
    sides = [{path.problem_id for path in paths} for paths in drawn.exams]
    assert not (sides[0] | sides[2]) & (sides[1] | sides[3])


def test_nothing_to_learn_or_draw_from_is_said() -> None:
    silent = [[Course("p", "run", (Mark(0.0, (), 0, False),), 5.0)]]
    with pytest.raises(ValueError, match="no course has a vote"):
        learn(silent, "nothing")
    with pytest.raises(ValueError, match="too few problems"):
        hall(mixed(1), None, num_exams=1)
    with pytest.raises(ValueError, match="no problems"):
        hall([], None)
