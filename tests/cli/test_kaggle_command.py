"""`aimo2 kaggle`: flags, messages and exit codes; no engine is started."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aimo2 import engine
from aimo2.cli import app
from aimo2.config import EngineConfig, SolveConfig
from aimo2.deadline import Deadline
from aimo2.errors import Aimo2Error, KeyRefused, SetupError
from aimo2.kaggle.bundle import build as building
from aimo2.kaggle.bundle.build import read_settings
from tests.cli.command import handlers_kept


def said(*args: str) -> str:
    """The one line that a wrong call ends with."""
    result = CliRunner().invoke(app, ["kaggle", *args])
    assert isinstance(result.exception, Aimo2Error), result.output
    return str(result.exception)


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "p.csv"
    path.write_text("id,problem\na,What?\n")
    return str(path)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--competition", "aimo9"), "no competition 'aimo9'; give one of aimo2, aimo3, timing"),
        (("--limit", "soon"), "--limit soon: give a duration"),
        (("--per-question", "-3"), "--per-question -3"),
        (("--elapsed", "-1"), "--elapsed -1: give 0 or more"),
        (("--api-key-env", "NO_SUCH"), "--api-key-env needs --base-url"),
        (("--model", "no-such-model"), "no model is called 'no-such-model'"),
        (("--preset", "no-such-preset"), "no-such-preset"),
        (("--rollouts", "0"), "--rollouts"),
    ],
)
def test_serve_names_wrong_input_before_it_listens(args: tuple[str, ...], words: str) -> None:
    assert words in said("serve", *args)


def test_serve_names_a_port_that_it_cannot_have(tmp_path: Path) -> None:
    args = ("serve", "--competition", "timing", "--host", "192.0.2.1", "--port", "1")
    result = CliRunner().invoke(app, ["kaggle", *args])
    assert isinstance(result.exception, SetupError)
    assert "cannot listen on 192.0.2.1:1" in str(result.exception)


def test_serve_ends_at_once_where_the_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_engine(
        config: EngineConfig,
        solve: SolveConfig,
        notify: Callable[[str], None],
        deadline: Deadline,
    ) -> contextlib.AbstractAsyncContextManager[engine.Engine]:
        raise KeyRefused("the server answered 401")

    monkeypatch.setattr(engine, "open_engine", open_engine)
    with handlers_kept():
        args = ("--base-url", "http://localhost:9/v1", "--port", "0")
        assert said("serve", *args) == "the server answered 401"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--modulus", "0"), "--modulus 0: give 1 or more"),
        (("--start-limit", "x"), "--start-limit x"),
        (("--reconnect", "x"), "--reconnect x"),
    ],
)
def test_gateway_names_wrong_input(problems: str, args: tuple[str, ...], words: str) -> None:
    assert words in said("gateway", problems, *args)
    assert "cannot read /no/such.csv" in said("gateway", "/no/such.csv")


def test_a_server_that_is_not_there_is_one_clear_line(problems: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    args = (problems, "--out", out, "--port", "9", "--start-limit", "0.3s")
    assert "no inference server came up at localhost:9 within 0.3 s" in said("gateway", *args)
    # A folder with the run of another file is left alone, unless it is to be forgotten.
    other = tmp_path / "other.csv"
    other.write_text("id,problem\nb,Who?\n")
    assert "a run of other problems" in said("gateway", str(other), *args[1:])
    assert "came up" in said("gateway", str(other), *args[1:], "--fresh")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--python", "3.9"), "--python 3.9: give 3.11 or newer"),
        (("--python", "three"), "--python three"),
        (("--competition", "aimo9"), "no competition 'aimo9'"),
        (("--serve", "--out 'x"), "--serve --out 'x: No closing quotation"),
        (("--preset", "no-such-preset"), "no-such-preset"),
        (("--problems", "/no/such.csv"), "cannot read /no/such.csv"),
        (("--competition", "timing", "--require", "a b"), "--require a b"),
        (("--limit-here", "never"), "--limit-here never: give a duration"),
    ],
)
def test_bundle_names_wrong_input(tmp_path: Path, args: tuple[str, ...], words: str) -> None:
    assert words in said("bundle", "--out", str(tmp_path / "b"), *args)


def test_a_bundle_carries_its_flags_and_tells_what_it_holds(tmp_path: Path) -> None:
    out = tmp_path / "b"
    args = ["kaggle", "bundle", "--out", str(out), "--competition", "timing", "--wheels", "own"]
    args += ["--preset", "fast", "--serve", "--sleep 3", "--model-at", "/ignored.gguf"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    assert "the largest:" in result.stderr
    settings = read_settings(out)
    assert settings["serve"] == ["--competition", "timing", "--preset", "fast", "--sleep", "3"]
    assert settings["serve_here"] == [*("--limit", "10m", "--reserve", "6s", "--problems", "3")]
    assert settings["model"] is None  # a server that sleeps needs none


def test_a_model_at_another_place_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "fetch_wheels", lambda *args: [])
    out = tmp_path / "b"
    place = "/kaggle/input/m/m.gguf"
    result = CliRunner().invoke(app, ["kaggle", "bundle", "-o", str(out), "--model-at", place])
    assert result.exit_code == 0, result.output
    assert read_settings(out)["model"] == place


@pytest.mark.parametrize("url", ["--base-url http://localhost:8000/v1", "--base-url=http://x/v1"])
def test_a_server_of_ones_own_has_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(building, "fetch_wheels", lambda *args: [])
    out = tmp_path / "b"
    args = ["kaggle", "bundle", "-o", str(out), "--serve", f"{url} --model qwen"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    settings = read_settings(out)
    assert settings["model"] is None
    assert not (out / "model").exists()
    assert settings["serve"] == ["--competition", "aimo3", *url.split(), "--model", "qwen"]
    words = said("bundle", "--out", str(out), "--serve", url, "--model-at", "/kaggle/input/qwen")
    assert "the server of --base-url has its model" in words


def test_dry_run_names_what_is_no_bundle(tmp_path: Path) -> None:
    assert "is no bundle" in said("dry-run", str(tmp_path))
    assert "cannot be made" in said("dry-run", str(tmp_path), "--work", f"{sys.executable}/x")
