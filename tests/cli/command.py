"""Run the command line in this process, as a user would from a shell."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aimo2 import cli


class Command:
    """What the runs of one test say and how they end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        self.out = self.err = ""

    def invoke(self, *args: str) -> int:
        """Run `aimo2 ARGS`; returns the exit code, and leaves `out` and `err`."""
        self._monkeypatch.setattr(sys, "argv", ["aimo2", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        self.out, self.err = self._capfd.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else int(code is not None)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back the signal handlers that a command sets for the rest of its process."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
