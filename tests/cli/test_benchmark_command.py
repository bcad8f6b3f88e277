"""`aimo2 benchmark` and `aimo2 serve`: flags, messages and exit codes; no model is started."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aimo2.cli import app
from aimo2.errors import Aimo2Error


def said(*args: str) -> str:
    """The one line that a wrong call ends with."""
    result = CliRunner().invoke(app, list(args))
    assert isinstance(result.exception, Aimo2Error), result.output
    return str(result.exception)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--concurrent", "1,x"), "--concurrent 1,x: give whole numbers"),
        (("--concurrent", "0"), "--concurrent 0: give whole numbers"),
        (
            ("--workload", "dance"),
            "--workload dance: take of decode, tir, solver, tree, independent",
        ),
        (("--requests", "3", "--duration", "9"), "both given"),
        (("--max-tokens", "-4"), "--max-tokens -4: give a number above 0"),
        (("--json", "/nonexistent/a.json"), "/nonexistent/a.json cannot be written"),
        (("--api-key-env", "NO_SUCH"), "--api-key-env needs --base-url"),
        (("--layout", "auto"), "--layout auto needs two or more GPUs"),
        (("--engine", "llama.cpp", "--model", "x/y"), "llama.cpp serves the models of"),
        (("--model", "smollm2-135m", "--preset", "fp8"), "need vLLM"),
    ],
)
def test_wrong_input_is_named_before_anything_starts(args: tuple[str, ...], words: str) -> None:
    assert words in said("benchmark", *args)


def test_a_server_that_others_can_reach_needs_a_key() -> None:
    assert "give a key with --api-key-env" in said("serve", "smollm2-135m", "--host", "0.0.0.0")
    assert "not set" in said("serve", "smollm2-135m", "--api-key-env", "NO_SUCH_VARIABLE")


def test_small_benchmarks_need_no_model(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    result = CliRunner().invoke(
        app, ["benchmark", "--what", "startup", "--trials", "1", "--json", str(out)]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())
    assert rows["import sympy"][0] > 0
    assert "warm" in result.output


def test_compare_needs_two_reports(tmp_path: Path) -> None:
    bad = tmp_path / "a.json"
    bad.write_text("[]")
    assert "a.json is no report" in said("benchmark", "compare", str(bad), str(bad))
