import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

from aimo2.cli import models
from aimo2.cli.models import BarWatcher, LineWatcher, app, ensure_model, watching
from aimo2.errors import InputError, IntegrityError, SetupError
from aimo2.serving import catalogue
from tests.serving.model_site import CONTENT, HUB_ONLY, HUB_PATH, PIECE, Site, spoilt
from tests.serving.model_store_fixtures import site

__all__ = ["site"]

SIZE = len(CONTENT)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("AIMO2_HOME", str(tmp_path / "home"))
    for module in (catalogue, models):
        monkeypatch.setattr(module, "CATALOGUE", (HUB_ONLY,))
        monkeypatch.setattr(module, "DEFAULT_MODEL", HUB_ONLY)
    return tmp_path / "home"


@pytest.fixture
def file(home: Path) -> Path:
    path = home / "models" / "toy.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


def run(*arguments: str) -> tuple[str, str]:
    """What the command wrote to standard output and to standard error."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


def plain_console() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=200), written


@pytest.mark.usefixtures("home")
def test_list_shows_what_is_known_of_a_model() -> None:
    out, _ = run("list")
    assert out.splitlines()[1].split() == (
        ["toy", "612.3", "kB", "Apache-2.0", "1K", "F16", "128", "no", "default"]
    )


@pytest.mark.parametrize(
    ("content", "suffix", "state"),
    [
        (CONTENT, "", "yes, unchecked"),
        (CONTENT[: SIZE // 2], ".part", "50% fetched"),
    ],
)
def test_list_says_what_is_here(file: Path, content: bytes, suffix: str, state: str) -> None:
    file.unlink()
    file.with_name(file.name + suffix).write_bytes(content)
    assert state in run("list")[0]


def test_list_says_yes_after_a_check(file: Path) -> None:
    run("verify")
    assert file.exists()
    assert " yes " in run("list")[0]


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("arguments", [["toy"], ["plaything"], []])
def test_pull_writes_to_standard_error_only(home: Path, arguments: list[str]) -> None:
    out, err = run("pull", *arguments)
    assert out == ""
    assert "toy: 612.3 kB here and checked after" in err
    assert (home / "models" / "toy.gguf").read_bytes() == CONTENT


def test_path_prints_the_path_alone(file: Path) -> None:
    assert run("path", "toy") == (f"{file}\n", "")


@pytest.mark.usefixtures("home")
def test_path_of_a_missing_model_names_the_mend() -> None:
    with pytest.raises(SetupError, match="run: aimo2 models pull toy"):
        run("path", "toy")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["path", "pull", "verify", "remove"])
def test_an_unknown_name_is_an_input_error(command: str) -> None:
    with pytest.raises(InputError, match="no model is called 'gpt'"):
        run(command, "gpt")


@pytest.mark.usefixtures("file")
def test_verify_says_what_is_right() -> None:
    assert "toy: right" in run("verify", "toy")[1]


def test_verify_deletes_what_is_wrong(file: Path) -> None:
    file.write_bytes(spoilt(CONTENT, 1))
    with pytest.raises(IntegrityError, match="it was deleted"):
        run("verify")
    assert not file.exists()


def test_remove_deletes_and_says_how_much(file: Path) -> None:
    assert "toy: 612.3 kB freed" in run("remove", "toy")[1]
    assert not file.exists()


def test_ensure_fetches_and_tells_a_log(site: Site, home: Path) -> None:
    console, written = plain_console()
    path = ensure_model("toy", console)
    assert path == home / "models" / "toy.gguf"
    lines = written.getvalue().splitlines()
    assert lines[0] == "toy from the hub: 0 bytes of 612.3 kB"
    assert lines[-1].startswith("toy: 612.3 kB here and checked")
    assert site.offsets(HUB_PATH) == [0]


@pytest.mark.usefixtures("site", "home")
def test_ensure_is_quiet_where_the_model_is_here() -> None:
    ensure_model("toy", plain_console()[0])
    console, written = plain_console()
    ensure_model("toy", console)
    assert written.getvalue() == ""


@pytest.mark.usefixtures("site", "home")
def test_a_terminal_gets_a_bar() -> None:
    written = io.StringIO()
    ensure_model("toy", Console(file=written, force_terminal=True, width=120))
    assert "━" in written.getvalue()
    assert "612.3/612.3 kB" in written.getvalue()


@pytest.mark.usefixtures("home")
def test_ensure_takes_a_gguf_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.GGUF"
    path.write_bytes(b"GGUF and the rest")
    assert ensure_model(str(path), plain_console()[0]) == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.gguf", "absent.gguf cannot be read: No such file"),
        ("text.gguf", "text.gguf is not a GGUF file"),
        (".", "cannot be read: Is a directory"),
    ],
)
def test_ensure_refuses_what_is_no_model(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(InputError, match=message):
        ensure_model(f"{tmp_path}/{name}", plain_console()[0])


def test_a_log_gets_a_line_a_tenth_or_after_five_seconds() -> None:
    console, written = plain_console()
    times = iter([0.0, 0.5, 1.0, 1.5, 4.0, 6.5])
    watcher = LineWatcher(console, "toy", lambda: next(times))
    for done in (0, 500, 600, 650, 660, 670):
        watcher.progress(done, 1000, "hub", "download")
    assert written.getvalue().splitlines() == [
        "toy from the hub: 0 bytes of 1.0 kB",
        "toy from the hub: 600 bytes of 1.0 kB, 600 bytes/s, 1 s left",
        "toy from the hub: 670 bytes of 1.0 kB, 103 bytes/s, 3 s left",
    ]


def test_a_new_source_begins_a_new_line_and_a_new_speed() -> None:
    console, written = plain_console()
    times = iter([0.0, 10.0, 11.0])
    watcher = LineWatcher(console, "toy", lambda: next(times))
    watcher.progress(0, 1000, "hub", "download")
    watcher.progress(800, 1000, "package index", "download")
    watcher.progress(900, 1000, "package index", "download")
    assert written.getvalue().splitlines()[1:] == [
        "toy from the package index: 800 bytes of 1.0 kB",
        "toy from the package index: 900 bytes of 1.0 kB, 100 bytes/s, 1 s left",
    ]


def test_a_bar_shows_one_source_at_a_time() -> None:
    console, written = plain_console()
    bar = Progress(console=console)
    watcher = BarWatcher(bar, "toy")
    watcher.progress(PIECE, SIZE, "disk", "verify")
    watcher.progress(PIECE, SIZE, "hub", "download")
    watcher.progress(SIZE, SIZE, "hub", "download")
    assert [(task.description, task.completed) for task in bar.tasks] == [("toy", float(SIZE))]
    assert written.getvalue().splitlines() == ["toy: checking", "toy from the hub"]


def test_a_bar_fits_a_small_terminal() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, color_system=None)
    with watching(console, catalogue.CATALOGUE[0]) as watcher:
        watcher.progress(123_456_789, catalogue.CATALOGUE[0].size, "package index", "download")
    assert "qwen2.5-coder-1.5b ━" in written.getvalue()
    assert "0.1/1.1 GB ? -:--:--" in written.getvalue()
