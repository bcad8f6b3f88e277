"""The file that a server process writes to, and what a person wants to read of it.

Knows the engine's marks of severity; knows no processes.
"""

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

_PREFIX = "aimo2-llama-"
_KEPT = 10
"""Logs in a folder, the newest included."""
_WINDOW = 64 * 1024
"""Bytes that are looked at for the end or for a reason."""


class ServerLog:
    """The file that the child writes to, which may not exist: a full disk stops no server."""

    def __init__(self, path: Path | None = None, file: BinaryIO | None = None) -> None:
        self.path = path
        self.file = file
        self._mark = 0

    @classmethod
    def open(cls, folder: Path, model: Path) -> "ServerLog":
        """A new file in the first place that takes one; old ones are thinned out."""
        for place in (folder, Path(tempfile.gettempdir())):
            with contextlib.suppress(OSError):
                return cls._create(place, model)
        return cls()

    @classmethod
    def _create(cls, folder: Path, model: Path) -> "ServerLog":
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _thin_out(folder)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        descriptor, name = tempfile.mkstemp(".log", f"{_PREFIX}{stamp}-", folder)
        file = os.fdopen(descriptor, "ab", buffering=0)
        try:
            file.write(f"model {model}\n".encode(errors="replace"))  # fails on a full disk
        except OSError:
            file.close()
            Path(name).unlink()
            raise
        return cls(Path(name), file)

    def tail(self, lines: int) -> str:
        """The last lines, without control characters."""
        return "\n".join(self._read(-_WINDOW).splitlines()[-lines:])

    def mark(self) -> None:
        """A process is about to start: what `reason` looks at begins here."""
        self._mark = self._size()

    def reason(self) -> str:
        """The first error that was logged since the mark, without its time stamp."""
        lines = self._read(self._mark).splitlines()
        errors = [line.partition(" E ")[2] for line in lines if " E " in line]
        return " ".join(errors[0].split()) if errors else ""

    def close(self) -> None:
        """Close our side of the file. Idempotent."""
        if self.file is not None:
            self.file.close()

    def _size(self) -> int:
        return self.path.stat().st_size if self.path is not None and self.path.exists() else 0

    def _read(self, start: int) -> str:
        """At most `_WINDOW` bytes from `start` on; a negative one counts from the end."""
        if self.path is None:
            return ""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, start if start >= 0 else self._size() + start))
                text = file.read(_WINDOW).decode(errors="replace")
        except OSError:
            return ""
        return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def _thin_out(folder: Path) -> None:
    logs = sorted(folder.glob(f"{_PREFIX}*.log"))  # by name: the time stamp leads
    for old in logs[: max(0, len(logs) - _KEPT + 1)]:
        with contextlib.suppress(OSError):
            old.unlink()
