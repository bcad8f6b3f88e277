import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimo2.errors import InputError, ModelUnavailable
from aimo2.exam import Exam, ExamAnswer, ExamFolder, Unwatched, exam_history
from aimo2.policy.budget import BudgetConfig
from aimo2.types import Problem
from tests.exam.scripts import LoopClock, Script, ScriptedSolver, problems, rules
from tests.virtual import run_virtual

SLOW = Script([(5.0, "3")])
"""Votes once and then runs to its deadline."""


async def sit(exam: Exam, asked: list[Problem]) -> list[ExamAnswer]:
    answers = [await exam.answer(problem) for problem in asked]
    await exam.close()
    assert len(asyncio.all_tasks()) == 1
    return answers


def test_every_problem_has_its_answer_and_the_votes_decide() -> None:
    solver = ScriptedSolver({"p1": Script([(1, "5"), (2, "6"), (3, "6")], ends=4)})
    exam = Exam(rules(), solver)
    answers = run_virtual(sit(exam, problems(4)))
    assert [(answer.id, answer.answer) for answer in answers] == [
        ("p0", "7"), ("p1", "6"), ("p2", "7"), ("p3", "7"),
    ]  # fmt: skip
    assert [answer.number for answer in answers] == [1, 2, 3, 4]
    assert not any(answer.guessed for answer in answers)


def test_unused_time_goes_to_the_problems_that_are_left_and_the_last_may_use_it_all() -> None:
    solver = ScriptedSolver({"p3": SLOW})
    exam = Exam(rules(), solver, clock=LoopClock())
    answers = run_virtual(sit(exam, problems(4)))
    assert [round(answer.granted) for answer in answers] == [100, 133, 198, 394]
    assert answers[-1].seconds == pytest.approx(394, abs=1.5)
    assert sum(answer.seconds for answer in answers) <= 400


def test_the_limit_of_a_question_is_never_passed_even_by_the_last() -> None:
    exam = Exam(rules(per_question=30.0), ScriptedSolver(default=SLOW), clock=LoopClock())
    answers = run_virtual(sit(exam, problems(4)))
    assert all(28 <= answer.seconds <= 30 for answer in answers)


@pytest.mark.parametrize("deaf", [True, False])
def test_a_solver_that_never_comes_back_costs_its_time_and_no_more(deaf: bool) -> None:
    solver = ScriptedSolver({"p0": Script([(5.0, "3")], deaf=deaf)})
    exam = Exam(rules(), solver, clock=LoopClock())
    answers = run_virtual(sit(exam, problems(4)))
    assert answers[0].answer == "3"
    assert answers[0].seconds <= 100
    assert [answer.answer for answer in answers[1:]] == ["7", "7", "7"]


def test_a_bug_in_the_solver_is_a_note_and_a_guess() -> None:
    solver = ScriptedSolver({"p0": Script(error=ZeroDivisionError("by zero"))})
    exam = Exam(rules(guess="11"), solver)
    answers = run_virtual(sit(exam, problems(2)))
    assert (answers[0].answer, answers[0].guessed) == ("11", True)
    assert answers[0].note == "ZeroDivisionError: by zero"
    assert answers[1].answer == "7"


def test_a_question_that_found_no_server_is_asked_again_while_its_time_lasts() -> None:
    solver = ScriptedSolver(
        {"p0": Script([(1.0, "7")], ends=2.0, failures=3), "p1": Script(failures=99)}
    )
    exam = Exam(rules(), solver, clock=LoopClock())
    answers = run_virtual(sit(exam, problems(3)))
    assert [answer.answer for answer in answers] == ["7", "0", "7"]
    assert answers[0].seconds == 2 + 4 + 8 + 2
    assert answers[1].guessed
    assert 60 < answers[1].seconds < 130
    assert answers[1].outcome is not None
    assert answers[1].outcome.stop_reason == "failed"


def test_an_engine_that_cannot_be_had_is_asked_for_again_while_the_time_lasts() -> None:
    missing = ModelUnavailable("nobody listens")
    solver = ScriptedSolver({"p0": Script(error=missing)})
    exam = Exam(rules(), solver, clock=LoopClock())
    answers = run_virtual(sit(exam, problems(2)))
    assert answers[0].note == "ModelUnavailable: nobody listens"
    assert 60 < answers[0].seconds <= 100
    assert len(solver.opened) > 4
    assert answers[1].answer == "7"


def test_an_interruption_ends_the_wait_for_an_engine_and_leaves_the_question_open() -> None:
    solver = ScriptedSolver({"p0": Script(error=ModelUnavailable("nobody listens"))})
    exam = Exam(rules(), solver, clock=LoopClock())

    async def main() -> None:
        asyncio.get_running_loop().call_later(31, exam.interrupt)
        answer = await exam.answer(problems(1)[0])
        assert answer.guessed
        assert exam.elapsed == pytest.approx(31, abs=0.01)
        assert not exam.answers
        await exam.close()

    run_virtual(main())


def test_a_watcher_that_breaks_costs_no_answer() -> None:
    class Broken(Unwatched):
        def asked(self, problem: Problem, number: int) -> None:
            raise ZeroDivisionError("by zero")

    exam = Exam(rules(), ScriptedSolver(), watcher=Broken())
    answers = run_virtual(sit(exam, problems(2)))
    assert [answer.note for answer in answers] == ["ZeroDivisionError: by zero"] * 2


def test_a_caller_that_waits_less_than_the_rules_allow_has_its_answer_in_time() -> None:
    solver = ScriptedSolver(default=SLOW)
    exam = Exam(rules(per_question=90.0), solver, clock=LoopClock())

    async def main() -> list[ExamAnswer]:
        answers = [await exam.answer(problem, 30.0) for problem in problems(2)]
        await exam.close()
        return answers

    answers = run_virtual(main())
    assert all(28 <= answer.seconds <= 30 for answer in answers)
    assert [answer.answer for answer in answers] == ["3", "3"]


def test_waiting_for_its_turn_is_no_part_of_a_questions_own_time() -> None:
    solver = ScriptedSolver(default=SLOW)
    exam = Exam(rules(limit=800.0, per_question=320.0), solver, clock=LoopClock())

    async def main() -> list[ExamAnswer]:
        answers = await asyncio.gather(*(exam.answer(problem) for problem in problems(2)))
        await exam.close()
        assert exam.elapsed <= 320
        return answers

    first, second = run_virtual(main())
    assert first.started == 0
    assert second.started == pytest.approx(200, abs=1.5)
    assert second.answer == "3"
    assert second.first_vote == pytest.approx(5, abs=0.6)
    assert 118 <= second.seconds <= second.granted <= 121.5


def test_the_same_problem_gets_the_same_answer_and_is_solved_once() -> None:
    solver = ScriptedSolver()
    exam = Exam(rules(), solver)
    first, second = run_virtual(sit(exam, [problems(1)[0]] * 2))
    assert first == second
    assert len(solver.opened) == 1


def test_an_id_that_another_problem_has_is_another_question(tmp_path: Path) -> None:
    first, other = (Problem(id="1", statement=text) for text in ("What is 1?", "What is 2?"))
    with ExamFolder(tmp_path) as folder:
        exam = Exam(rules(), ScriptedSolver(), folder)
        answers = run_virtual(sit(exam, [first, other, other]))
    assert [answer.id for answer in answers] == ["1", answers[1].id, answers[1].id]
    assert answers[1].id.startswith("1-")
    assert len(exam.answers) == 2
    with ExamFolder(tmp_path) as folder:
        solver = ScriptedSolver()
        assert run_virtual(sit(Exam(rules(), solver, folder), [other, first])) == [
            answers[1], answers[0],
        ]  # fmt: skip
        assert solver.opened == []


def test_two_callers_at_once_wait_for_each_other_and_one_problem_is_one_question() -> None:
    solver = ScriptedSolver()
    exam = Exam(rules(), solver, clock=LoopClock())

    async def main() -> list[ExamAnswer]:
        p0, p1, *_ = problems(4)
        answers = await asyncio.gather(exam.answer(p0), exam.answer(p1), exam.answer(p0))
        await exam.close()
        return list(answers)

    first, second, third = run_virtual(main())
    assert first == third
    assert len(solver.opened) == 2
    assert (first.seconds, second.seconds) == (2.0, 2.0)


def test_a_caller_that_hangs_up_loses_nothing() -> None:
    solver = ScriptedSolver()
    exam = Exam(rules(), solver, clock=LoopClock())

    async def main() -> ExamAnswer:
        call = asyncio.create_task(exam.answer(problems(1)[0]))
        await asyncio.sleep(0.5)
        call.cancel()
        await asyncio.wait([call])
        answer = await exam.answer(problems(1)[0])
        await exam.close()
        return answer

    assert run_virtual(main()).answer == "7"
    assert len(solver.opened) == 1


def test_answers_that_cannot_be_right_are_passed_over() -> None:
    solver = ScriptedSolver(
        {"p0": Script([(1, "-4"), (1, "-4"), (2, "41")], ends=3), "p1": Script([(1, "1000")])}
    )
    exam = Exam(rules(lowest=0, highest=999), solver, clock=LoopClock())
    answers = run_virtual(sit(exam, problems(2)))
    assert [(answer.answer, answer.guessed) for answer in answers] == [("41", False), ("0", True)]


async def moved(exam: Exam, clock: LoopClock, seconds: float) -> float:
    """Answers one problem, `seconds` of the wall clock being skipped after 10."""
    exam.start()
    asyncio.get_running_loop().call_later(10, clock.jump, seconds)
    await exam.answer(problems(1)[0])
    elapsed = exam.elapsed
    await exam.close()
    return elapsed


def test_a_laptop_that_slept_through_its_time_answers_as_soon_as_it_wakes() -> None:
    clock = LoopClock()
    solver = ScriptedSolver(default=SLOW)
    exam = Exam(rules(), solver, clock=clock)
    elapsed = run_virtual(moved(exam, clock, 95.0))
    assert elapsed == pytest.approx(105.0, abs=1.5)  # awake for 10 of its 100 seconds
    assert solver.opened[0].reason == "deadline"
    assert exam.answers["p0"].answer == "3"


def test_a_clock_that_is_set_back_gives_no_time() -> None:
    clock = LoopClock()
    exam = Exam(rules(), ScriptedSolver(default=SLOW), clock=clock)
    elapsed = run_virtual(moved(exam, clock, -3600.0))
    assert elapsed == pytest.approx(100, abs=2)


def test_an_exam_that_starts_late_shares_what_is_left() -> None:
    exam = Exam(rules(), ScriptedSolver(default=SLOW), clock=LoopClock())

    async def main() -> list[ExamAnswer]:
        exam.start(elapsed=200.0)
        return await sit(exam, problems(4))

    answers = run_virtual(main())
    assert [round(answer.granted) for answer in answers] == [50, 50, 51, 52]


def test_with_no_time_left_the_guess_is_given_at_once() -> None:
    exam = Exam(rules(), ScriptedSolver(default=SLOW), clock=LoopClock())

    async def main() -> list[ExamAnswer]:
        exam.start(elapsed=399.5)
        return await sit(exam, problems(4))

    answers = run_virtual(main())
    assert all(answer.guessed and answer.seconds == 0 for answer in answers)


def test_a_timing_exam_sleeps_and_answers_its_guess() -> None:
    solver = ScriptedSolver()
    exam = Exam(rules(sleep=3.0), solver, clock=LoopClock())
    answers = run_virtual(sit(exam, problems(2)))
    assert [(answer.answer, answer.seconds) for answer in answers] == [("0", 3.0), ("0", 3.0)]
    assert solver.opened == []


def test_an_interrupted_exam_keeps_votes_and_leaves_the_rest_open(tmp_path: Path) -> None:
    solver = ScriptedSolver({"p0": SLOW, "p1": SLOW})
    with ExamFolder(tmp_path / "e") as folder:
        exam = Exam(rules(), solver, folder, LoopClock())

        async def main() -> None:
            asyncio.get_running_loop().call_later(20, exam.interrupt)
            await sit(exam, problems(2))

        run_virtual(main())
    history = exam_history(tmp_path / "e")
    assert {key: answer.answer for key, answer in history.answers.items()} == {"p0": "3"}
    assert not history.ended


class LaterClock(LoopClock):
    """The clock of a second process, started `seconds` after the first one's end."""

    def __init__(self, first: LoopClock, seconds: float) -> None:
        super().__init__()
        self.jumped = first.jumped + seconds


def test_a_resumed_exam_asks_nothing_twice_and_has_the_time_that_is_really_left(
    tmp_path: Path,
) -> None:
    first_clock = LoopClock()
    solver = ScriptedSolver({"p1": Script([(5.0, "3"), (6.0, "3")])})
    with ExamFolder(tmp_path) as folder:
        first = Exam(rules(), solver, folder, first_clock)

        async def crash() -> None:
            await first.answer(problems(2)[0])
            call = asyncio.create_task(first.answer(problems(2)[1]))
            await asyncio.sleep(18)
            await first.close()
            await asyncio.wait([call])

        run_virtual(crash())
    again = ScriptedSolver({"p1": Script([(5.0, "4")])})
    with ExamFolder(tmp_path) as folder:
        exam = Exam(rules(), again, folder, LaterClock(first_clock, 120.0))

        async def go_on() -> list[ExamAnswer]:
            exam.start()
            assert exam.elapsed == pytest.approx(120, abs=1)
            return await sit(exam, problems(4))

        answers = run_virtual(go_on())
    assert [answer.id for answer in answers] == ["p0", "p1", "p2", "p3"]
    assert [question.problem.id for question in again.opened] == ["p1", "p2", "p3"]
    assert answers[0] == first.answers["p0"]
    assert answers[1].answer == "3"  # the two votes of the first process outweigh the new one
    assert answers[1].number == 2
    history = exam_history(tmp_path)
    assert history.ended
    assert history.num_resumed == 1


def test_a_folder_of_another_exam_is_refused(tmp_path: Path) -> None:
    with ExamFolder(tmp_path) as folder:
        run_virtual(sit(Exam(rules(), ScriptedSolver(), folder), problems(1)))
    with ExamFolder(tmp_path) as folder, pytest.raises(InputError, match="other rules"):
        Exam(rules(limit=5.0), ScriptedSolver(), folder)


TIMES = st.floats(0.1, 300)
SCRIPTS = st.builds(
    Script,
    votes=st.lists(st.tuples(TIMES, st.sampled_from("123")), max_size=4),
    ends=st.none() | TIMES,
    deaf=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(
    scripts=st.lists(SCRIPTS, min_size=5, max_size=5),
    policy=st.sampled_from(["even", "bank", "clamp"]),
    late=st.floats(0, 500),
    per_question=st.none() | st.floats(1, 300),
)
def test_no_exam_passes_its_limit(
    scripts: list[Script], policy: str, late: float, per_question: float | None
) -> None:
    budget = BudgetConfig.model_validate({"policy": policy})
    solver = ScriptedSolver({f"p{index}": script for index, script in enumerate(scripts)})
    exam = Exam(rules(5, 500, per_question=per_question, budget=budget), solver, clock=LoopClock())

    async def main() -> None:
        exam.start(elapsed=late)
        answers = [await exam.answer(problem) for problem in problems(5)]
        assert exam.elapsed <= max(500, late)
        assert len(answers) == 5
        assert all(answer.seconds <= (per_question or 500) + 1e-9 for answer in answers)
        await exam.close()

    run_virtual(main())
