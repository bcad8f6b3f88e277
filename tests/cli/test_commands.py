"""The command line as a whole: every command loads, and `solve` loads no more than it needs."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from aimo2.cli import COMMANDS, app, load


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_says_what_it_does(name: str) -> None:
    command = load(name)
    assert command.name == name
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f"aimo2 {name}" in shown.output
    assert "--install-completion" not in shown.output


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert all(f"  {name} " in shown.output for name in COMMANDS)


def test_an_unknown_command_is_named() -> None:
    shown = CliRunner().invoke(app, ["frobnicate"])
    assert shown.exit_code == 2
    assert "No such command 'frobnicate'" in shown.output


def test_solving_starts_without_the_libraries_of_other_commands() -> None:
    heavy = ("grpc", "matplotlib", "polars", "pyarrow", "scipy", "sympy")
    seen = f"[name for name in {heavy} if name in sys.modules]"
    code = f"import sys, aimo2.cli; aimo2.cli.load('solve'); print({seen})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_of_exam_and_kaggle_loads_nothing_that_solves() -> None:
    heavy = ("polars", "numpy", "grpc", "aiohttp", "huggingface_hub", "aimo2.engine")
    seen = f"[name for name in {heavy} if name in sys.modules]"
    code = f"import sys, aimo2.cli; aimo2.cli.load('exam'); aimo2.cli.load('kaggle'); print({seen})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
