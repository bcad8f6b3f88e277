"""The notebook is valid, and runs from top to bottom in a clean folder without an index."""

import ast
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from aimo2.errors import InputError, SetupError
from aimo2.kaggle.bundle import dry_run as dry
from aimo2.kaggle.bundle.build import BundlePlan, build
from aimo2.kaggle.bundle.notebook import notebook, notebook_text
from aimo2.kaggle.server import RERUN_VARIABLE

HERE = "{}.{}".format(*sys.version_info)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle that sleeps for a moment and answers 0, for an environment like this one."""
    flags = ("--competition", "timing", "--sleep", "0.05")
    plan = BundlePlan(out=tmp_path / "bundle", python=HERE, wheels="own", serve=flags)
    build(plan, lambda line: None)
    return plan.out


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def code_cells() -> list[str]:
    return ["".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_valid() -> None:
    formats: Any = importlib.import_module("nbformat")
    formats.validate(formats.reads(notebook_text(), as_version=4))
    for source in code_cells():
        ast.parse(source)


def test_the_notebook_needs_no_network() -> None:
    text = "".join(code_cells())
    assert "--no-index" in text
    assert "http" not in text


def test_the_notebook_serves_in_the_competition_and_asks_itself_elsewhere(
    folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RERUN_VARIABLE, "1")  # a dry run is none, whatever is set here
    heard: list[str] = []
    frame = dry.dry_run(folder, work, heard.append, timeout=300)
    assert frame.sort("id").to_dict(as_series=False) == {
        "id": ["dry-1", "dry-2", "dry-3"],
        "answer": [0, 0, 0],
    }
    assert pl.read_csv(work / "submission.csv").height == 3
    assert "0 of 3 with a gold answer are correct" in "\n".join(heard)
    assert (work / "executed-submission.ipynb").is_file()
    assert (work / "exam" / "journal").is_file()


def run_cells(folder: Path, work: Path, environment: dict[str, str]) -> list[list[str]]:
    """Run the notebook's cells here; returns the commands that it would have run."""
    commands: list[list[str]] = []
    namespace: dict[str, Any] = {}
    before = dict(os.environ)
    os.environ.update({"AIMO2_BUNDLE": str(folder), "AIMO2_WORK": str(work), **environment})
    try:
        for source in code_cells():
            exec(source, namespace)
            namespace["run"] = lambda command: commands.append([str(part) for part in command])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return commands


def test_in_the_competition_the_last_cell_serves(
    folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    ran = run_cells(folder, work, {RERUN_VARIABLE: "1"})
    last = ran[-1]
    assert last[1:5] == ["-m", "aimo2", "kaggle", "serve"]
    assert last[5:9] == ["--competition", "timing", "--sleep", "0.05"]
    assert last[last.index("--out") + 1] == str(work / "exam")
    assert 0 <= float(last[last.index("--elapsed") + 1]) < 600
    assert not any("gateway" in command for command in ran)


def test_a_bundle_that_is_not_attached_or_not_whole_is_named(
    folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    with pytest.raises(SystemExit, match="is not attached"):
        run_cells(work, work, {})
    (folder / "problems.csv").write_text("changed")
    with pytest.raises(SystemExit, match=r"not whole.*problems.csv is damaged"):
        run_cells(folder, work, {})


def test_a_bundle_for_another_python_is_refused(tmp_path: Path, work: Path) -> None:
    plan = BundlePlan(out=tmp_path / "other", python="3.99", wheels="own")
    build(plan, lambda line: None)
    with pytest.raises(InputError, match=r"for Python 3\.99, this is"):
        dry.dry_run(plan.out, work, print, timeout=1)


def test_a_damaged_bundle_is_not_run(folder: Path, work: Path) -> None:
    (folder / "submission.ipynb").write_text("{}")
    with pytest.raises(InputError, match=r"damaged.*submission.ipynb"):
        dry.dry_run(folder, work, print, timeout=1)


def test_a_notebook_that_fails_says_where_and_keeps_what_it_printed(
    folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = dict(dry.environment(folder, work), AIMO2_BUNDLE=str(work))
    monkeypatch.setattr(dry, "environment", lambda *args: bad)
    with pytest.raises(SetupError, match="the notebook failed: SystemExit: the bundle is not att"):
        dry.dry_run(folder, work, print, timeout=60)
    assert (work / "executed-submission.ipynb").is_file()


def test_without_jupyter_the_extra_is_named(
    folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    with pytest.raises(SetupError, match=r"pip install 'aimo2\[notebook\]'"):
        dry.dry_run(folder, work, print, timeout=1)
