"""A bundle's files: complete, summed up, made again without harm, and never half a bundle."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from aimo2.errors import DownloadError, InputError
from aimo2.kaggle.bundle import build as building
from aimo2.kaggle.bundle.build import BundlePlan, build, read_settings, verify
from aimo2.kaggle.bundle.own_wheel import own_version
from aimo2.problems import read_problems


@pytest.fixture
def plan(tmp_path: Path) -> BundlePlan:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"GGUF" + bytes(1000))
    return BundlePlan(
        out=tmp_path / "bundle",
        wheels="own",
        model=model,
        model_licence="Apache-2.0",
        serve=("--competition", "aimo2"),
        serve_here=("--limit", "1m"),
    )


def made(plan: BundlePlan) -> list[str]:
    heard: list[str] = []
    build(plan, heard.append)
    return heard


def names(plan: BundlePlan) -> set[str]:
    return {path.relative_to(plan.out).as_posix() for path in plan.out.rglob("*") if path.is_file()}


def test_a_bundle_has_all_that_its_notebook_needs(plan: BundlePlan) -> None:
    made(plan)
    assert names(plan) == {
        "CONTENTS.txt",
        "SHA256SUMS",
        "aimo2-bundle.json",
        "model/tiny.gguf",
        "problems.csv",
        "submission.ipynb",
        f"wheels/aimo2-{own_version()}-py3-none-any.whl",
    }
    assert read_settings(plan.out) == {
        "format": 1,
        "version": own_version(),
        "python": "3.11",
        "image_packages": True,
        "more": [],
        "model": "model/tiny.gguf",
        "serve": ["--competition", "aimo2"],
        "serve_here": ["--limit", "1m"],
        "problems": "problems.csv",
    }
    problems = read_problems(str(plan.out / "problems.csv"))
    assert [problem.gold for problem in problems] == ["1470", "10", "87"]


def test_the_golds_of_the_dry_run_are_right() -> None:
    assert sum(7 * k for k in range(1, 21)) == 1470
    assert sum(sum(map(int, str(n))) == 4 for n in range(100, 1000)) == 10
    assert pow(3, 40, 101) == 87


def test_the_sums_are_of_every_file_and_notice_every_change(plan: BundlePlan) -> None:
    made(plan)
    lines = (plan.out / "SHA256SUMS").read_text().splitlines()
    summed = {line.split("  ", 1)[1]: line.split("  ", 1)[0] for line in lines}
    assert set(summed) == names(plan) - {"SHA256SUMS"}
    for name, digest in summed.items():
        assert hashlib.sha256((plan.out / name).read_bytes()).hexdigest() == digest
    assert verify(plan.out) == []
    (plan.out / "problems.csv").write_text("id\n")
    (plan.out / "model" / "tiny.gguf").unlink()
    assert verify(plan.out) == ["model/tiny.gguf is missing", "problems.csv is damaged"]


def test_the_contents_name_size_and_licence(plan: BundlePlan) -> None:
    made(plan)
    rows = (plan.out / "CONTENTS.txt").read_text().splitlines()
    [row] = [row for row in rows if row.endswith("model/tiny.gguf")]
    assert row.split() == ["1,004", "Apache-2.0", "model/tiny.gguf"]


def test_making_it_again_changes_nothing_but_what_has_changed(plan: BundlePlan) -> None:
    assert any("tiny.gguf" in line for line in made(plan))
    before = (plan.out / "SHA256SUMS").read_text()
    assert not any("tiny.gguf" in line for line in made(plan))
    assert (plan.out / "SHA256SUMS").read_text() == before
    assert plan.model is not None
    other = plan.model.with_name("other.gguf")
    other.write_bytes(b"GGUF2")
    made(dataclasses.replace(plan, model=other))
    assert [path.name for path in (plan.out / "model").iterdir()] == ["other.gguf"]


def test_a_model_that_is_elsewhere_is_only_named(plan: BundlePlan) -> None:
    made(dataclasses.replace(plan, model=None, model_at="/kaggle/input/m/m.gguf"))
    assert read_settings(plan.out)["model"] == "/kaggle/input/m/m.gguf"
    assert "model/tiny.gguf" not in names(plan)


def test_the_users_own_problems_are_taken(plan: BundlePlan, tmp_path: Path) -> None:
    own = tmp_path / "mine.jsonl"
    own.write_text('{"id": "x", "problem": "?"}\n')
    made(dataclasses.replace(plan, problems=own))
    assert read_settings(plan.out)["problems"] == "problems.jsonl"
    assert read_problems(str(plan.out / "problems.jsonl"))[0].id == "x"


def test_a_folder_with_other_things_is_left_alone(plan: BundlePlan) -> None:
    plan.out.mkdir()
    (plan.out / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds other things"):
        made(plan)
    assert names(plan) == {"thesis.tex"}
    with pytest.raises(InputError, match="is a file"):
        made(dataclasses.replace(plan, out=plan.out / "thesis.tex"))


def test_a_bundle_that_broke_off_is_none_and_is_gone_on_with(
    plan: BundlePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(plan)
    full = dataclasses.replace(plan, wheels="all")

    def offline(*args: object) -> list[Path]:
        raise DownloadError("no index")

    monkeypatch.setattr(building, "fetch_wheels", offline)
    with pytest.raises(DownloadError):
        made(full)
    with pytest.raises(InputError, match="is no bundle"):
        verify(plan.out)
    monkeypatch.setattr(building, "fetch_wheels", lambda *args: [])
    made(full)
    assert verify(plan.out) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is damaged"), (json.dumps({"format": 99}), "another version"), ("[]", "another")],
)
def test_settings_that_cannot_be_used_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "aimo2-bundle.json").write_text(text)
    with pytest.raises(InputError, match=words):
        read_settings(tmp_path)


def test_half_a_bundle_says_so(plan: BundlePlan) -> None:
    made(plan)
    (plan.out / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="half a bundle"):
        verify(plan.out)
