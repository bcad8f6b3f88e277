"""Append-only files of what was decided: traces as JSON lines, answers as CSV, a checked log.

Every record is on disk before the next question starts. Knows no models and no clocks.
"""

import csv
import errno
import io
import os
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from aimo2.errors import DiskFullError, InputError
from aimo2.types import Outcome, Trace

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _translated(path: Path, error: OSError) -> DiskFullError | InputError:
    if error.errno in _NO_ROOM:
        return DiskFullError(f"no room left to write {path}; free some disk space")
    return InputError(f"cannot write {path}: {error.strerror}")


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
        return _translated(self._path, error)


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


class Journal:
    """A log of records that survives its writer: one writer, checksums, a torn tail is cut.

    A record is a line: eight hexadecimal digits of the CRC-32 of its text, a space, the text. What
    stands behind the last whole record of the file is what a crash left of the next one: it is cut
    off when the file is opened, and `repaired` says so. A damaged line with whole ones behind it
    is no crash's doing; it is left out, and said, too.

    `append` keeps what cannot be written in memory and tries again at the next record, so that a
    disk that was full for a while costs nothing.
    """

    def __init__(self, path: Path) -> None:
        """Opens or creates the file. Raises `InputError` where another process writes it."""
        self._path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._waiting: list[bytes] = []
        self.repaired: tuple[str, ...] = ()
        """What was wrong with the file when it was opened, a line each."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"another process is writing {path}; wait for it, or end it first"
            ) from error
        except OSError as error:
            raise _translated(path, error) from error
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self.records = self._recovered()
        except OSError as error:
            self._lock.release()
            raise _translated(path, error) from error

    @property
    def num_waiting(self) -> int:
        """Records that are in memory only, because the disk took none."""
        return len(self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file free for another writer. Closing twice is allowed."""
        if self._lock.is_locked:
            os.close(self._fd)
            self._lock.release()

    def append(self, text: str, *, sync: bool = False) -> None:
        """Add a record; with `sync` it is on disk, power loss included, when this returns.

        Raises `ValueError` for a text of several lines, `DiskFullError` or `InputError` where the
        file takes no more; the record is then kept and written with the next.
        """
        if "\n" in text:
            raise ValueError("a record is one line")
        payload = text.encode()
        self._waiting.append(b"%08x %s\n" % (zlib.crc32(payload), payload))
        try:
            self._write_waiting()
            if sync:
                os.fsync(self._fd)
        except OSError as error:
            raise _translated(self._path, error) from error

    def _write_waiting(self) -> None:
        """Write whole records only: what a full disk took of one is cut off again."""
        while self._waiting:
            try:
                _write_all(self._fd, self._waiting[0])
            except OSError:
                os.ftruncate(self._fd, self._end)
                os.lseek(self._fd, self._end, os.SEEK_SET)
                raise
            self._end += len(self._waiting.pop(0))

    def _recovered(self) -> tuple[str, ...]:
        """The whole records, in order; leaves the file ready for the next one."""
        records, self.repaired, self._end = scan_journal(_read_all(self._fd))
        if os.fstat(self._fd).st_size > self._end:
            os.ftruncate(self._fd, self._end)
        os.lseek(self._fd, self._end, os.SEEK_SET)
        return records


def read_journal(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Records and repairs of a journal, without touching it: for reading while it is written.

    Raises `InputError` where the file cannot be read.
    """
    try:
        records, repaired, _ = scan_journal(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return records, repaired


def scan_journal(data: bytes) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Whole records, what was wrong, and the length up to the last whole record's end. Pure."""
    records: list[str] = []
    damaged: list[int] = []
    end = number = start = 0
    damaged_before_end = 0
    while start < len(data):
        stop = data.find(b"\n", start)
        line = data[start:] if stop < 0 else data[start:stop]
        start = len(data) if stop < 0 else stop + 1
        number += 1
        text = _checked(line) if stop >= 0 else None
        if text is None:
            damaged.append(number)
            continue
        records.append(text)
        end, damaged_before_end = start, len(damaged)
    repaired = [f"line {line} was damaged and is left out" for line in damaged[:damaged_before_end]]
    if end < len(data):
        repaired.append(f"a torn record of {len(data) - end} bytes was cut off the end")
    return tuple(records), tuple(repaired), end


def _checked(line: bytes) -> str | None:
    """The text of a line whose checksum is right."""
    checksum, space, payload = line[:8], line[8:9], line[9:]
    if space != b" " or checksum != b"%08x" % zlib.crc32(payload):
        return None
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _read_all(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    parts = iter(lambda: os.read(fd, 1 << 20), b"")
    return b"".join(parts)


class LineFile:
    """A text file that grows by whole lines over several processes' lives, and is no journal.

    A line that a crash has torn is cut off before the next is written. Lines that the disk does
    not take are kept in memory and tried again with the next.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[str] = []
        self._mended = False

    def extend(self, lines: Iterable[str]) -> None:
        """Append lines. Raises `DiskFullError` or `InputError`; nothing is half-written then."""
        self._waiting.extend(lines)
        if not self._waiting:
            return
        try:
            # Unbuffered: what a full disk did not take must not be written when it is closed.
            with self._path.open("ab", buffering=0) as file:
                self._mend(file.fileno())
                end = os.fstat(file.fileno()).st_size
                try:
                    _write_all(
                        file.fileno(), "".join(line + "\n" for line in self._waiting).encode()
                    )
                except OSError:
                    os.ftruncate(file.fileno(), end)
                    raise
        except OSError as error:
            self._mended = False  # should it not even have been cut off
            raise _translated(self._path, error) from error
        self._waiting.clear()

    def _mend(self, fd: int) -> None:
        if not self._mended:
            data = self._path.read_bytes()
            os.ftruncate(fd, data.rfind(b"\n") + 1)
            self._mended = True
