"""Which wheels are asked for, what of them is kept, and what they say of their licences."""

import sys
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from aimo2.errors import ConfigError, DownloadError
from aimo2.kaggle.bundle import wheels
from aimo2.kaggle.bundle.wheels import (
    checked_requirements,
    fetch_wheels,
    licence,
    pins,
    requirements,
)

HERE = "{}.{}".format(*sys.version_info)
PIP = """
import json, pathlib, sys
arguments = sys.argv[1:]
folder = pathlib.Path(arguments[arguments.index("--dest") + 1])
pathlib.Path(folder.parent, "asked.json").write_text(json.dumps(arguments))
print("Collecting polars")
for name in {names}:
    print(f"  Downloading {{name}}.metadata (1 kB)")
    print(f"Saved {{folder / name}}")
    (folder / name).touch()
print("ERROR: {error}" if {code} else "Successfully downloaded", file=sys.stderr)
sys.exit({code})
"""


def scripted_pip(
    monkeypatch: pytest.MonkeyPatch, names: Sequence[str], error: str = "", code: int = 0
) -> None:
    script = PIP.format(names=list(names), error=error, code=code)
    monkeypatch.setattr(wheels, "_pip", lambda: [sys.executable, "-c", script])


def asked(tmp_path: Path) -> list[str]:
    import json

    arguments: list[str] = json.loads((tmp_path / "asked.json").read_text())
    return arguments


def fetch(tmp_path: Path, heard: list[str], *more: str, python: str = HERE) -> list[Path]:
    folder = tmp_path / "wheels"
    folder.mkdir(exist_ok=True)
    return fetch_wheels(folder, python, ("manylinux_2_28_x86_64",), more, heard.append)


def test_only_wheels_for_the_notebooks_python_and_platform_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted_pip(monkeypatch, ["polars-1-py3-none-any.whl"])
    heard: list[str] = []
    [path] = fetch(tmp_path, heard, "vllm>=0.8", python="3.99")
    assert path.name == "polars-1-py3-none-any.whl"
    arguments = " ".join(asked(tmp_path))
    for part in (
        "--only-binary :all:",
        "--python-version 3.99",
        "--abi cp399 --abi abi3 --abi none",
        "--platform manylinux_2_28_x86_64",
        "vllm>=0.8 pip",
    ):
        assert part in arguments
    assert "polars" in asked(tmp_path)
    assert heard[0] == "collecting polars"
    assert heard[-1] == "saved polars-1-py3-none-any.whl"
    assert (tmp_path / "constraints.txt").read_text() == ""


def test_wheels_of_an_earlier_run_that_are_not_wanted_any_more_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted_pip(monkeypatch, ["a-1-py3-none-any.whl", "b-1-py3-none-any.whl"])
    fetch(tmp_path, [])
    (tmp_path / "wheels" / "aimo2-9-py3-none-any.whl").touch()
    scripted_pip(monkeypatch, ["a-2-py3-none-any.whl"])
    fetch(tmp_path, [])
    left = sorted(path.name for path in (tmp_path / "wheels").iterdir())
    assert left == ["a-2-py3-none-any.whl", "aimo2-9-py3-none-any.whl"]


def test_a_failure_is_pips_own_words_and_what_was_fetched_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted_pip(monkeypatch, ["a-1-py3-none-any.whl"], "No matching distribution", 1)
    with pytest.raises(DownloadError, match="could not fetch the wheels: ERROR: No matching dist"):
        fetch(tmp_path, [])
    assert (tmp_path / "wheels" / "a-1-py3-none-any.whl").exists()


def test_pins_are_the_versions_that_are_installed_here() -> None:
    pinned = dict(pin.split("==") for pin in pins(HERE))
    assert pinned["polars"] == metadata.version("polars")
    assert "pyarrow" in pinned
    assert "antlr4-python3-runtime" in {name.lower() for name in pinned}  # by way of an extra
    assert "wandb" not in pinned
    assert pins("3.99") == []


def test_extras_are_no_requirements() -> None:
    names = {Requirement(line).name for line in requirements()}
    assert {"polars", "grpcio", "xllamacpp"} <= names
    assert not names & {"wandb", "ray", "vllm", "nbclient"}


def test_a_requirement_that_pip_would_not_take_is_named() -> None:
    assert checked_requirements(["vllm==0.8", "x[y]>1"]) == ["vllm==0.8", "x[y]>1"]
    with pytest.raises(ConfigError, match=r"--require --index-url"):
        checked_requirements(["--index-url http://somewhere"])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("License-Expression: MIT\nLicense: other", "MIT"),
        ("License: BSD", "BSD"),
        ("Classifier: License :: OSI Approved :: MIT License\nLicense: long", "MIT License"),
        ("Classifier: License :: OSI Approved\nLicense: BSD", "BSD"),
        ("License: " + "x" * 80, "unknown"),
        ("Name: a", "unknown"),
    ],
)
def test_a_licence_is_what_the_wheel_says(tmp_path: Path, lines: str, words: str) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", f"Metadata-Version: 2.1\n{lines}\n\ntext\n")
    assert licence(path) == words


def test_a_file_that_is_no_wheel_has_an_unknown_licence(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_text("nothing")
    assert licence(tmp_path / "a.whl") == "unknown"
