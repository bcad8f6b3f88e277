"""Append-only files of what was decided: traces as JSON lines, answers as CSV.

Every record is on disk before the next question starts. Knows no models and no clocks.
"""

import csv
import errno
import io
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from aimo2.errors import DiskFullError, InputError
from aimo2.types import Outcome, Trace


class RecordFile:
    """A text file that is created with its first record, and flushed to disk after each."""

    def __init__(self, path: Path) -> None:
        """Raises `InputError` where the file could not be written later."""
        self._path = path
        self._file: io.TextIOWrapper | None = None
        parent = path.absolute().parent
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; give a file name")
        if not parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {parent} does not exist; create it")
        if not os.access(path if path.exists() else parent, os.W_OK):
            raise InputError(f"cannot write {path}: permission denied; choose another place")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as failure:
                # A full disk shows again at close; it was raised by `append` already.
                if kind is None:
                    raise self._translated(failure) from failure

    def append(self, record: str) -> None:
        """Write one record, line break included. An older file is replaced by the first one.

        Raises `DiskFullError`, or `InputError` where the file cannot be written.
        """
        try:
            if self._file is None:
                self._file = self._path.open("w", encoding="utf-8", newline="")
            self._file.write(record)
            self._file.flush()
            if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                os.fsync(self._file.fileno())
        except OSError as error:
            raise self._translated(error) from error

    def _translated(self, error: OSError) -> DiskFullError | InputError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFullError(f"no room left to write {self._path}; free some disk space")
        return InputError(f"cannot write {self._path}: {error.strerror}")


class TraceFile(RecordFile):
    """Whole traces, one JSON object a line."""

    def add(self, trace: Trace) -> None:
        """Append one trace."""
        self.append(trace.model_dump_json() + "\n")


class AnswerFile(RecordFile):
    """`id,answer` a question; an unanswered one has an empty answer."""

    _empty = True

    def add(self, outcome: Outcome) -> None:
        """Append one answer."""
        rows = [["id", "answer"]] if self._empty else []
        self._empty = False
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="\n").writerows(
            [*rows, [outcome.id, outcome.answer or ""]]
        )
        self.append(buffer.getvalue())
