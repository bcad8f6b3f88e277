import re
from pathlib import Path

import pytest

from aimo2.errors import DiskFullError, InputError
from aimo2.exam import Exam, ExamFolder, History
from aimo2.exam.report import report_page, write_report
from aimo2.exam.submission import is_correct, score, submission, write_submission
from aimo2.policy.budget import BudgetConfig
from aimo2.types import Problem
from tests.exam.scripts import LoopClock, Script, ScriptedSolver, rules
from tests.virtual import run_virtual

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def history(tmp_path: Path) -> History:
    problems = [
        Problem(id="easy", statement=f"What is $1+1$? {HOSTILE}", gold="2"),
        Problem(id=f"odd {HOSTILE}", statement="x", gold="5"),
        Problem(id="silent", statement="y"),
    ]
    scripts = {
        "easy": Script([(1, "3"), (2, "2"), (3, "2")], ends=4),
        f"odd {HOSTILE}": Script([(1, HOSTILE)], ends=2),
        "silent": Script(ends=3),
    }
    with ExamFolder(tmp_path / "e") as folder:
        config = rules(3, answer_type="expr", budget=BudgetConfig(policy="bank"))
        exam = Exam(config, ScriptedSolver(scripts), folder, LoopClock())

        async def main() -> None:
            for problem in problems:
                await exam.answer(problem)
            exam.note(f"a note {HOSTILE}")
            await exam.close()

        run_virtual(main())
        return folder.history


def test_the_page_has_score_times_bank_and_votes(history: History) -> None:
    page = report_page(history)
    assert "1 of 2" in page
    assert "easy" in page
    for title in ("bank over time", "score over time", "votes over time"):
        assert f'aria-label="{title}"' in page
    assert page.count("<details") == 3
    assert "Nobody voted" in page


def test_nothing_of_a_model_or_a_file_gets_out_of_its_text(history: History) -> None:
    page = report_page(history)
    assert HOSTILE not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_fetches_nothing(history: History) -> None:
    page = report_page(history)
    assert not re.search(r"(src|href)\s*=", page)
    assert "url(" not in page
    assert "prefers-color-scheme" in page


def test_a_page_that_cannot_be_written_is_one_clear_line(history: History, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write_report(history, tmp_path / "none" / "report.html")
    write_report(history, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert not (tmp_path / ".report.html.part").exists()


def test_an_exam_without_a_beginning_has_no_report() -> None:
    with pytest.raises(ValueError, match="never began"):
        report_page(History())


def test_the_submission_keeps_text_where_an_answer_is_no_whole_number(history: History) -> None:
    problems = [Problem(id=key, statement="x") for key in (*history.answers, "unanswered")]
    frame = submission(problems, history.answers)
    assert frame["id"].to_list() == list(history.answers)
    assert frame["answer"].to_list() == ["2", HOSTILE, "0"]
    assert submission([], {}).is_empty()


def test_a_full_disk_leaves_the_older_submission(history: History, tmp_path: Path) -> None:
    frame = submission([Problem(id="easy", statement="x")], history.answers)
    write_submission(tmp_path, frame)
    before = (tmp_path / "submission.csv").read_text()
    (tmp_path / ".submission.csv.part").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="no room left"):
        write_submission(tmp_path, frame)
    assert (tmp_path / "submission.csv").read_text() == before == "id,answer\neasy,2\n"


def test_answers_are_compared_after_the_modulus() -> None:
    config = rules(modulus=1000)
    assert is_correct(config, "42", "1042")
    assert is_correct(config, "42", "$42$")
    assert not is_correct(config, "43", "1042")


def test_an_unanswered_problem_is_wrong(history: History) -> None:
    problems = [
        Problem(id="easy", statement="x", gold="2"),
        Problem(id="z", statement="x", gold="1"),
    ]
    assert score(rules(answer_type="expr"), problems, history.answers) == (1, 2)
