import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aimo2 import cli
from aimo2.pages.question import question_page
from tests.evals.drawn import drawn_run
from tests.pages.reading import read

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aimo2", "report", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def links(page: str) -> list[str]:
    return re.findall(r'<a href="([^"]+)"', page)


def test_a_run_becomes_a_page_with_a_page_a_problem(run: Run, tmp_path: Path) -> None:
    folder = drawn_run(tmp_path / "r", problems=4, ids="a/{}<x>")
    code, out, err = run(folder)
    assert (code, out) == (0, "")
    assert err.splitlines()[-1] == f"aimo2: wrote {folder / 'report.html'} and 4 pages"
    page = (folder / "report.html").read_text()
    assert len(links(page)) == 4
    for link in links(page):
        one = (folder / link).read_text()
        assert 'href="../report.html"' in one
        assert "What is " in one
        read(one)
    assert (folder / links(page)[0]).name == "1-0001-a-0-x.html"


def test_several_runs_and_markdown_go_where_they_are_told(run: Run, tmp_path: Path) -> None:
    first = drawn_run(tmp_path / "a", problems=3)
    second = drawn_run(tmp_path / "b", problems=3, seed=2)
    page, text = tmp_path / "out.html", tmp_path / "out.md"
    code, _, _ = run(first, second, "-o", page, "--md", text, "--title", "Both of them")
    assert code == 0
    assert "<title>Both of them</title>" in page.read_text()
    assert len(links(page.read_text())) == 6
    assert text.read_text().startswith("# Both of them\n")
    assert len(list((tmp_path / "out-problems").iterdir())) == 6


def test_where_pages_are_few_the_wrong_answers_get_them(run: Run, tmp_path: Path) -> None:
    folder = drawn_run(tmp_path / "r", problems=8)
    code, _, err = run(folder, "--pages", 2)
    assert code == 0
    assert "6 problems have no page (--pages 2)" in err
    page = (folder / "report.html").read_text()
    rows = re.findall(r"<tr class=[^>]*>.*?</tr>", page)
    linked = [row for row in rows if "<a href" in row]
    assert len(linked) == 2
    assert all('class="chip bad"' in row or 'class="chip warn"' in row for row in linked)


def test_without_pages_nothing_is_written_beside_the_report(run: Run, tmp_path: Path) -> None:
    folder = drawn_run(tmp_path / "r", problems=2)
    code, _, err = run(folder, "--pages", 0)
    assert (code, "and" in err.splitlines()[-1]) == (0, False)
    assert not (folder / "report-problems").exists()
    assert "Pages of the problems were not written" in (folder / "report.html").read_text()


def test_an_interrupted_report_keeps_what_is_done(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drawn_run(tmp_path / "r", problems=5)
    calls = iter(range(100))

    def stopped(*args: object) -> str:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return question_page(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("aimo2.cli.report.question_page", stopped)
    code, _, err = run(folder)
    assert code == 130
    assert "and 2 pages" in err
    assert len(links((folder / "report.html").read_text())) == 2


def test_bad_input_is_one_clear_line_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    folder = drawn_run(tmp_path / "r", problems=2)
    (tmp_path / "empty").mkdir()
    for args, said in (
        ((tmp_path / "none",), "none is no run"),
        ((tmp_path / "empty",), "it has no run.json"),
        ((folder, folder), "given twice"),
        ((folder, "-o", "/no/such/folder/x.html"), "/no/such/folder does not exist"),
        ((folder, "--md", tmp_path), "it is a folder"),
        ((), "DIR"),
    ):
        code, out, err = run(*args)
        assert (code, out) == (2, ""), args
        assert said in err
        assert "Traceback" not in err
    assert not (folder / "report.html").exists()
