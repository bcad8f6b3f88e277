import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aimo2 import cli
from tests.saved import code_run, outcome, trace, turn, write_lines

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aimo2", "trace", "show", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first = turn("I compute.\n```python\nprint(42)\n```\n", run=code_run(), injected="[fed back]\n")
    stored = [
        trace(0, first, turn("\\boxed{42}")),
        trace(1, first, turn("\\boxed{7}"), answer="7", parent=0, num_shared_turns=1),
        trace(0, problem_id="q", answer=None),
    ]
    write_lines(tmp_path / "traces.jsonl", stored)
    write_lines(
        tmp_path / "outcomes.jsonl",
        [outcome(gold="42", correct=True, votes={"42": 1, "7": 1}), outcome("q", None, gold="5")],
    )
    return tmp_path


def test_without_an_id_the_problems_are_listed(run: Run, folder: Path) -> None:
    code, out, err = run(folder)
    assert (code, err) == (0, "")
    assert [line.split("\t") for line in out.splitlines()] == [
        ["problem", "gold", "answer", "rollouts", "tokens", "code runs", "verdict"],
        ["p", "42", "42", "2", "30", "1", "right"],
        ["q", "5", "-", "1", "10", "0", "wrong"],
    ]


def test_the_list_can_be_json(run: Run, folder: Path) -> None:
    _, out, _ = run(folder, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[0] == {
        "id": "p", "gold": "42", "answer": "42", "rollouts": 2, "tokens": 30, "code_runs": 1,
        "correct": True,
    }  # fmt: skip


def test_golds_and_statements_may_come_from_the_problems(run: Run, folder: Path) -> None:
    problems = folder / "problems.jsonl"
    problems.write_text('{"id": "p", "problem": "Six by seven?", "answer": 43}\n')
    code, out, _ = run(folder / "traces.jsonl", "--problems", problems)
    assert code == 0
    assert out.splitlines()[1].split("\t")[1:] == ["43", "42", "2", "30", "1", "wrong"]
    assert out.splitlines()[2].split("\t")[1] == "-"
    _, out, _ = run(folder / "traces.jsonl", "p", "--problems", problems)
    assert "Six by seven?" in out


def test_a_run_folder_has_its_own_statements(run: Run, folder: Path) -> None:
    problems = folder / "problems.jsonl"
    problems.write_text('{"id": "p", "problem": "Six by seven?", "answer": 42}\n')
    _, out, _ = run(folder, "p")
    assert "Six by seven?" in out


def test_with_an_id_tree_and_texts_are_shown(run: Run, folder: Path) -> None:
    code, out, _ = run(folder, "p")
    assert code == 0
    for words in (
        "├── ✓ 0.50 s  42", "1 plain ⑂ 0 after turn 1", "votes  42: 1   7: 1",
        "answer 42, right (gold 42)", "I compute.", "[fed back]", "forked from 0 after turn 1",
    ):  # fmt: skip
        assert words in out
    assert out.count("I compute.") == 1


def test_a_page_of_one_problem_or_of_all(run: Run, folder: Path) -> None:
    page = folder / "p.html"
    code, out, err = run(folder, "p", "--html", page)
    assert (code, out) == (0, "")
    assert f"wrote {page}" in err
    assert "fed back to the model" in page.read_text()
    run(folder, "--html", page)
    assert 'href="#q1"' in page.read_text()


def test_what_was_skipped_is_said_on_standard_error(run: Run, folder: Path) -> None:
    with (folder / "traces.jsonl").open("a") as file:
        file.write('{"other": 1}\n{"torn')
    code, out, err = run(folder)
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "skipped 1 records of another kind (with other)" in err
    assert "is torn" in err


def test_bad_input_is_one_clear_line_and_exit_code_2(run: Run, folder: Path) -> None:
    newer = write_lines(folder / "n.jsonl", [trace().model_dump() | {"version": 99}])
    for args, said in (
        ((folder, "pp"), "no traces of problem 'pp'"),
        ((folder / "none.jsonl",), "No such file"),
        ((folder, "p", "--json"), "--json lists every problem"),
        ((newer,), "upgrade aimo2"),
        ((folder, "--html", "/no/such/folder/x.html"), "/no/such/folder does not exist"),
    ):
        code, out, err = run(*args)
        assert (code, out) == (2, ""), args
        assert said in err
        assert "Traceback" not in err
