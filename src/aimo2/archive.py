"""Read saved traces back: a file of `--traces`, or a run folder of `aimo2 eval`.

Whole files of many gigabytes are read line by line; only the traces of one problem at a time are
held. What cannot be read is skipped and said so, except what a newer aimo2 wrote. Knows no models.
"""

import difflib
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import orjson
from pydantic import ValidationError

from aimo2.errors import InputError
from aimo2.types import TRACE_VERSION, Outcome, Trace

TRACES = "traces.jsonl"
OUTCOMES = "outcomes.jsonl"
_COPY_BYTES = 1 << 20
_GZIP = zlib.MAX_WBITS | 16


class Archive:
    """The saved traces at a path, found by problem. A context manager.

    `notes`: a line for each thing that was skipped. `outcomes`: by problem, from a run folder.
    """

    def __init__(self, path: Path) -> None:
        """Raises `InputError` where nothing can be read, or a newer aimo2 wrote it."""
        self.path = path
        self.notes: list[str] = []
        self.outcomes: dict[str, Outcome] = {}
        self._index: dict[str, dict[int, int]] = {}
        file = traces_file(path)
        self._file = _opened(file)
        try:
            self._read_index(file)
        except BaseException:
            self._file.close()
            raise
        if path.is_dir():
            self._read_outcomes(file.with_name(OUTCOMES))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def ids(self) -> list[str]:
        """The problems, in the order of their first trace."""
        return list(self._index)

    def traces(self, problem_id: str) -> tuple[Trace, ...]:
        """A problem's traces by rollout. Raises `InputError` for an unknown id, with near ones."""
        if problem_id not in self._index:
            raise InputError(self._unknown(problem_id))
        found = []
        for _, offset in sorted(self._index[problem_id].items()):
            self._file.seek(offset)
            found.append(Trace.model_validate_json(self._file.readline()))
        return tuple(found)

    def _unknown(self, problem_id: str) -> str:
        near = difflib.get_close_matches(problem_id, self._index, 3, 0.5) or self.ids[:3]
        near += [key for key in self._index if problem_id and problem_id in key][:3]
        named = ", ".join(dict.fromkeys(near))
        return f"{self.path} has no traces of problem {problem_id!r}; it has, for one, {named}"

    def _read_index(self, file: Path) -> None:
        others: Counter[str] = Counter()
        twice = 0
        for number, offset, line, is_last in _lines(self._file):
            row = self._row(file, number, line, is_last=is_last)
            if row is None:
                continue
            if not _is_trace(row):
                others[_kind(row)] += 1
                continue
            _refuse_newer(row, file, number)
            if (trace := self._trace(line, file, number)) is None:
                continue
            rollouts = self._index.setdefault(trace.problem_id, {})
            twice += trace.rollout in rollouts
            rollouts[trace.rollout] = offset
        if twice:
            self.notes.append(f"{file}: {twice} rollouts stand there twice; the later is shown")
        for kind, count in others.items():
            self.notes.append(f"{file}: skipped {count} records of another kind ({kind})")
        if not self._index:
            raise InputError(
                f"{file} holds no traces; give a file that `aimo2 solve --traces` wrote, or a run"
                " folder of `aimo2 eval`" + "".join(f" ({note})" for note in self.notes[:2])
            )

    def _row(self, file: Path, number: int, line: bytes, *, is_last: bool) -> Any:
        """A line's JSON value; `None`, with a note, where it is none."""
        if not line.strip():
            return None
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            torn = is_last and not line.endswith(b"\n")
            what = "is torn (the writer was stopped)" if torn else "is not JSON"
            self.notes.append(f"{file} line {number} {what}; skipped")
            return None

    def _trace(self, line: bytes, file: Path, number: int) -> Trace | None:
        try:
            return Trace.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            self.notes.append(
                f"{file} line {number} is no whole trace ({place}: {first['msg'].lower()}); skipped"
            )
            return None

    def _read_outcomes(self, file: Path) -> None:
        if not file.exists():
            return
        with _opened(file) as stream:
            for number, _, line, is_last in _lines(stream):
                row = self._row(file, number, line, is_last=is_last)
                try:
                    outcome = None if row is None else Outcome.model_validate(row)
                except ValidationError:
                    self.notes.append(f"{file} line {number} is no outcome; skipped")
                    continue
                if outcome is not None:
                    self.outcomes[outcome.id] = outcome


def traces_file(path: Path) -> Path:
    """The file itself, or the traces in a run folder. Raises `InputError` where it has none."""
    if not path.is_dir():
        return path
    for name in (TRACES, TRACES + ".gz"):
        if (path / name).exists():
            return path / name
    raise InputError(f"{path} has no {TRACES}; give a run folder of `aimo2 eval`, or a file")


def _opened(path: Path) -> IO[bytes]:
    """The file for reading at any place; a compressed one is unpacked to a nameless copy."""
    try:
        file = path.open("rb")
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            return file
        file.close()
        return _unpacked(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _unpacked(path: Path) -> IO[bytes]:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    unpacker = zlib.decompressobj(_GZIP)
    try:
        with path.open("rb") as packed:
            while block := packed.read(_COPY_BYTES):
                while block:
                    copy.write(unpacker.decompress(block))
                    block = unpacker.unused_data
                    if unpacker.eof:  # Another member may follow: files are appended to.
                        unpacker = zlib.decompressobj(_GZIP)
    except zlib.error:
        pass  # Damaged like any other file: what could be unpacked is read.
    copy.seek(0)
    return copy


def _lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes, bool]]:
    """(number from 1, offset, line, whether it is the last) of each line."""
    offset = 0
    number = 0
    line = file.readline()
    while line:
        number += 1
        after = file.readline()
        yield number, offset, line, not after
        offset += len(line)
        line = after


def _is_trace(row: Any) -> bool:
    return isinstance(row, dict) and {"problem_id", "rollout", "turns"} <= row.keys()


def _kind(row: Any) -> str:
    if not isinstance(row, dict):
        return type(row).__name__
    return "with " + ", ".join(list(map(str, row))[:3]) if row else "empty"


def _refuse_newer(row: dict[str, Any], file: Path, number: int) -> None:
    version = row.get("version", 1)
    if isinstance(version, int) and version > TRACE_VERSION:
        raise InputError(
            f"{file} line {number}: trace version {version}, but this aimo2 reads up to"
            f" {TRACE_VERSION}; upgrade aimo2"
        )
