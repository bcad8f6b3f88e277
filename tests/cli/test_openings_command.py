"""`aimo2 openings` lists what there is and checks what a user wrote."""

import sys
from pathlib import Path

import pytest

from aimo2 import cli, prompts


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Run":
    return Run(monkeypatch, capsys)


class Run:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *args: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["aimo2", "openings", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = self._capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err


def test_every_opening_has_a_line(run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(prompts.openings())


def test_every_family_has_a_line(run: Run) -> None:
    _, out, _ = run("--families")
    assert [line.split()[0] for line in out.splitlines()] == list(prompts.families())
    assert "qwen3 " in out
    assert "thinks, or not" in out


def test_a_models_family_is_told(run: Run) -> None:
    assert run("--model", "Qwen/QwQ-32B") == (0, "deepseek-r1\n", "")


def test_a_users_file_is_checked_and_listed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('mix = "mine:1,code:2"\n[[opening]]\nname = "mine"\nabout = "my way"\n')
    _, out, _ = run("--openings-file", str(file))
    assert "mine       my way" in out
    assert out.endswith("mix: code,mine,code\n")
    file.write_text("opening = 3")
    code, out, err = run("--openings-file", str(file))
    assert (code, out) == (2, "")
    assert "mine.toml" in err
