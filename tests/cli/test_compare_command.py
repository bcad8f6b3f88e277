"""`aimo2 compare` and `aimo2 export`, as a user calls them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aimo2 import cli
from aimo2.evals.peers import read_results
from tests.evals.drawn import drawn_run
from tests.evals.test_runner import Exam

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aimo2", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_two_runs_stand_side_by_side_with_what_changed(run: Run, tmp_path: Path) -> None:
    first = drawn_run(tmp_path / "first", skill=0.9)
    second = drawn_run(tmp_path / "second", skill=0.3, seed=1)
    code, out, err = run("compare", first, second)
    assert (code, err) == (0, "")
    assert "12 problems in common" in out
    for row in ("pass@1", "answers that are right", "maj@4", "tokens a sample", "seconds a sample"):
        assert row in out, row
    assert "McNemar's exact p = " in out
    shown = json.loads(run("compare", first, second, "--json")[1])
    assert shown["answered"]["value"] < 0
    assert shown["answered"]["low"] < shown["answered"]["value"] < shown["answered"]["high"]
    for change in shown["changed"]:
        who = "first" if change["first_right"] else "second"
        assert f"- {change['problem_id']}: only {who} (" in out


def test_runs_of_one_name_and_of_other_lengths_are_told_apart(run: Run, tmp_path: Path) -> None:
    first = drawn_run(tmp_path / "a" / "run", samples=4)
    second = drawn_run(tmp_path / "b" / "run", samples=2, problems=10, seed=2)
    _, out, _ = run("compare", first, second)
    assert "run (first)" in out
    assert "samples a problem: up to 4 in the first run, 2 in the second" in " ".join(out.split())
    assert "maj@2" in out
    assert "left out: 2 problems that only the first run has" in out


def test_solvers_are_compared_by_cost_and_not_by_single_attempts(run: Run, tmp_path: Path) -> None:
    folders: list[Path] = []
    for name in ("one", "two"):
        exam = Exam(tmp_path, 4)
        exam.folder = tmp_path / name
        exam.run(mode="solve", concurrency=2, seed=len(folders))
        folders.append(exam.folder)
    _, out, _ = run("compare", *folders)
    assert "tokens a problem" in out
    assert "seconds a problem" in out
    assert "pass@1" not in out
    assert "maj@" not in out
    assert "of the samples right" not in out


def test_one_problem_in_common_gives_json_without_nan(run: Run, tmp_path: Path) -> None:
    first = drawn_run(tmp_path / "a", problems=1)
    code, out, _ = run("compare", first, first, "--json")
    assert code == 0
    assert "NaN" not in out
    assert json.loads(out)["answered"] == {"value": 0.0, "low": None, "high": None}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["gone", "gone"], "gone: there is no such run or file"),
        (["notes.txt", "notes.txt"], "notes.txt: give a run's folder"),
        (["empty", "empty"], "empty is no run of aimo2 and holds 0 files of samples"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("notes.txt").touch()
    code, out, err = run("compare", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("to", "name"),
    [("lm-eval", "samples_x.jsonl"), ("inspect", "x.eval"), ("inspect", "x.json")],
)
def test_an_exported_run_compares_with_itself(run: Run, tmp_path: Path, to: str, name: str) -> None:
    folder, out_file = drawn_run(tmp_path / "run", problems=5), tmp_path / name
    code, out, _ = run("export", folder, "--to", to, "-o", out_file)
    assert (code, out.split()) == (0, f"20 samples are in {out_file}".split())
    assert len(read_results(out_file).problems) == 5
    code, out, _ = run("compare", folder, out_file, "--json")
    shown = json.loads(out)
    assert (code, shown["problems"], shown["changed"]) == (0, 5, [])


def test_what_cannot_be_exported_is_named(run: Run, tmp_path: Path) -> None:
    code, _, err = run("export", tmp_path, "--to", "inspect", "-o", tmp_path / "x.json")
    assert code == 2
    assert "is no run: it has no run.json" in err
    folder = drawn_run(tmp_path / "run", problems=2)
    code, _, err = run("export", folder, "--to", "lm-eval", "-o", tmp_path / "no" / "x.jsonl")
    assert code == 2
    assert "cannot write" in err
