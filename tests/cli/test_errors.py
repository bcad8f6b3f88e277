import sys

import pytest
from rich.live import Live

from aimo2.cli import errors


class Full:
    """A standard error that takes nothing."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_standard_error_that_takes_nothing_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    console = errors.stderr_console()
    console.print("lost")
    errors.say("lost")
    assert errors.fail("lost") == errors.EXIT_BAD_INPUT
    with Live("board", console=console):
        console.print("lost")
        errors.say("lost")


def test_lines_stand_above_a_live_display(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        encoding = "utf-8"

        def __init__(self) -> None:
            self.text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None:
            """Nothing is kept back."""

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    console = errors.stderr_console()
    with Live("board", console=console, auto_refresh=False):
        console.print("one")
        errors.say("two")
    assert sys.stderr is terminal
    assert terminal.text.index("one") < terminal.text.index("two") < terminal.text.rindex("board")
