"""A run's folder: what was asked for, and every record, append-only, so that a run can go on.

    run.json         RunRecord: configuration, versions, the data set's hash
    problems.jsonl   the problems, with golds and metadata
    traces.jsonl     a Trace a line, in the order in which they ended
    grades.jsonl     a Grade a line
    classes.jsonl    a Classes a line, for each problem whose samples are complete
    outcomes.jsonl   an Outcome a line, for each problem that is done
    samples.parquet  a row a sample, written anew at the end of each run

Each record is handed to the system before the next one is made, and reaches the disk within a
second. A killed run leaves at most one torn last line, which is cut off. Knows no models.
"""

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import filelock
from pydantic import ValidationError

from aimo2.config import SolveConfig
from aimo2.errors import ConfigError, DiskFullError, InputError
from aimo2.evals.datasets import Dataset, Item
from aimo2.evals.samples import (
    Classes,
    Grade,
    Key,
    Sample,
    sample_of,
    table,
    write_table,
)
from aimo2.runrecord import flat_settings, versions
from aimo2.types import TRACE_VERSION, Outcome, Problem, Trace, Value

RUN_VERSION = 1
Mode = Literal["samples", "solve"]
_SYNC_SECONDS = 1.0
V = TypeVar("V", bound=Value)


class EngineRecord(Value):
    """What of an engine's settings decides a run's content besides the model."""

    context: int | None
    """Tokens of context of an attempt at our own engine; `None` at somebody's server."""
    chat_template: str | None
    """SHA-256 of the template that was given; `None` where it is the server's or the model's."""
    sandbox: str
    """What the sandbox had to close off."""


class RunConfig(Value):
    """What decides a run's content; a run is resumed only with the same."""

    dataset: str
    dataset_sha256: str
    """Of the whole set's content."""
    limit: int | None
    """Problems taken of it; `None` takes all."""
    draw: bool = False
    """Whether they were drawn by the seed; otherwise they are the first ones."""
    mode: Mode
    """`samples`: independent rollouts; `solve`: the whole solver, once a problem."""
    samples: int
    """Rollouts a problem, in mode `solve` at most."""
    model: str | None
    """The served model's name, or the model file's."""
    others: tuple[str | None, str | None] = (None, None)
    """The second models: the reasoner, the verifier."""
    engine: EngineRecord | None = None
    """`None` in the record of an older aimo2, which goes on with any."""
    solve: SolveConfig


class RunRecord(Value):
    """The content of run.json."""

    version: int = RUN_VERSION
    config: RunConfig
    source: str
    """Where the problems were read."""
    published: str | None
    """Month in which they became public, where known."""
    preset: str | None
    created: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    engine: str
    """What sampled: the servers' addresses, or the embedded engine."""


def new_record(
    config: RunConfig, dataset: Dataset, engine: str, preset: str | None = None
) -> RunRecord:
    """The record of a run that begins now."""
    return RunRecord(
        config=config,
        source=dataset.source,
        published=dataset.published,
        preset=preset,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        versions=versions(),
        engine=engine,
    )


class _Lines:
    """An append-only file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._synced = 0.0
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise _translated(error, path) from error

    def add(self, value: Value) -> None:
        try:
            self._file.write(value.model_dump_json().encode() + b"\n")
            self._file.flush()
            now = time.monotonic()
            if now - self._synced > _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = now
        except OSError as error:
            raise _translated(error, self._path) from error

    def close(self) -> None:
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _translated(error: OSError, path: Path) -> InputError | DiskFullError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"no room left to write {path}; free some disk space and repeat the command to go on"
        )
    return InputError(f"cannot write {path}: {error.strerror}")


class RunStore:
    """An open run: what is there, and where the rest is added. A context manager."""

    def __init__(self, folder: Path, record: RunRecord, items: Sequence[Item]) -> None:
        self.folder = folder
        self.record = record
        self.items = items
        self.notes: list[str] = []
        """What was found and mended, for a person."""
        self.samples: dict[Key, Sample] = {}
        self.ungraded: dict[Key, Trace] = {}
        """Traces without a grade: a run was killed between the two."""
        self.classes: dict[str, Classes] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._files: dict[str, _Lines] = {}
        self._lock = filelock.FileLock(folder / ".lock")

    @classmethod
    def open(cls, folder: Path, record: RunRecord, items: Sequence[Item]) -> Self:
        """Begin a run in an empty folder, or go on with the one there.

        Raises `ConfigError` where the folder holds another run, naming the difference, or where
        another process writes to it; `InputError` where it cannot be read or written.
        """
        check_folder(folder, record.config)
        store = cls(folder, record, items)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            store._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ConfigError(
                f"{folder} is being written by another aimo2; wait for it, or choose another --out"
            ) from error
        except OSError as error:
            raise _translated(error, folder) from error
        try:
            store._begin()
        except BaseException:
            store._lock.release()
            raise
        return store

    def _begin(self) -> None:
        path = self.folder / "run.json"
        if path.exists():
            there = read_record(self.folder)
            if (old := there.versions.get("aimo2")) != (new := self.record.versions["aimo2"]):
                self.notes.append(f"this run was begun with aimo2 {old} and goes on with {new}")
            self.record = there
            self._read()
        else:
            self._write_problems()
            _write_whole(path, self.record.model_dump_json(indent=2))
        for name in ("traces", "grades", "classes", "outcomes"):
            self._files[name] = _Lines(self.folder / f"{name}.jsonl")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        self._lock.release()

    def finished(self) -> frozenset[str]:
        """Problems of which nothing is missing; a crash of the machine can lose any file's end."""
        config = self.record.config
        counts = Counter(problem_id for problem_id, _ in self.samples)
        least = config.samples if config.mode == "samples" else 1
        ended = self.outcomes.keys() & self.classes.keys()
        return frozenset(name for name in ended if counts[name] >= least)

    def add_trace(self, trace: Trace) -> None:
        """Store a rollout that has ended."""
        self._files["traces"].add(trace)

    def add_grade(self, trace: Trace, grade: Grade) -> Sample:
        """Store its verdict; the sample that the two make."""
        self._files["grades"].add(grade)
        sample = sample_of(trace, grade)
        key = (trace.problem_id, trace.rollout)
        self.samples[key] = sample
        self.ungraded.pop(key, None)
        return sample

    def add_end(self, classes: Classes, outcome: Outcome) -> None:
        """Store that a problem is done."""
        self._files["classes"].add(classes)
        self._files["outcomes"].add(outcome)
        self.classes[outcome.id] = classes
        self.outcomes[outcome.id] = outcome

    def write_samples(self) -> Path:
        """Write samples.parquet; returns its path."""
        path = self.folder / "samples.parquet"
        if self.samples:
            try:
                write_table(table(self.items, self.samples, self.classes), path)
            except OSError as error:
                raise _translated(error, path) from error
        return path

    def _write_problems(self) -> None:
        lines = [
            json.dumps(
                {
                    **item.meta,
                    "id": item.problem.id,
                    "problem": item.problem.statement,
                    "answer": item.problem.gold,
                },
                ensure_ascii=False,
            )
            + "\n"
            for item in self.items
        ]
        _write_whole(self.folder / "problems.jsonl", "".join(lines))

    def _read(self) -> None:
        for name in ("traces", "grades", "classes", "outcomes"):
            if cut_torn_line(self.folder / f"{name}.jsonl"):
                self.notes.append(f"{name}.jsonl: cut off a last line that was not whole")
        loaded = read_run(self.folder)
        self.outcomes, self.classes = dict(loaded.outcomes), dict(loaded.classes)
        self.samples, self.ungraded = dict(loaded.samples), dict(loaded.ungraded)
        if self.record.config.mode == "solve":
            self._drop_unfinished()

    def _drop_unfinished(self) -> None:
        """A question that was solved in part is solved again from its start: its clock is gone."""
        whole = self.finished()
        for name in ("traces", "grades"):
            path = self.folder / f"{name}.jsonl"
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            kept = [line for line in lines if json.loads(line)["problem_id"] in whole]
            if len(kept) < len(lines):
                _write_whole(path, b"".join(kept).decode())
        self.samples = {key: one for key, one in self.samples.items() if key[0] in whole}
        self.ungraded = {}


class LoadedRun:
    """A run as it was read: the record, the problems, and all that is done of it."""

    def __init__(self, folder: Path, record: RunRecord, items: Sequence[Item]) -> None:
        self.folder = folder
        self.record = record
        self.items = items
        self.samples: dict[Key, Sample] = {}
        self.ungraded: dict[Key, Trace] = {}
        self.classes: dict[str, Classes] = {}
        self.outcomes: dict[str, Outcome] = {}


def read_run(folder: Path) -> LoadedRun:
    """Read a run's folder, finished or not; a torn last line is left out.

    Raises `InputError` naming the file and line that cannot be read.
    """
    run = LoadedRun(folder, read_record(folder), _read_items(folder))
    grades = {
        (grade.problem_id, grade.rollout): grade
        for grade in read_lines(folder / "grades.jsonl", Grade)
    }
    for trace in read_traces(folder / "traces.jsonl"):
        key = (trace.problem_id, trace.rollout)
        if key in grades:
            run.samples[key] = sample_of(trace, grades[key])
        else:
            run.ungraded[key] = trace
    run.classes = {one.problem_id: one for one in read_lines(folder / "classes.jsonl", Classes)}
    run.outcomes = {one.id: one for one in read_lines(folder / "outcomes.jsonl", Outcome)}
    return run


def read_record(folder: Path) -> RunRecord:
    """What run.json says. Raises `InputError`."""
    path = folder / "run.json"
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{folder} is no run: it has no run.json") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    try:
        return RunRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(
            f"{path}: {where}: {first['msg']}; it was written by another version of aimo2"
        ) from error


def _read_items(folder: Path) -> list[Item]:
    items = []
    path = folder / "problems.jsonl"
    for _, row in _json_lines(path):
        meta = {key: value for key, value in row.items() if key not in ("id", "problem", "answer")}
        problem = Problem(id=row["id"], statement=row["problem"], gold=row["answer"])
        items.append(Item(problem, meta))
    return items


def read_traces(path: Path) -> Iterator[Trace]:
    """The traces of a file. Raises `InputError`, for one of a newer version, too."""
    for number, row in _json_lines(path):
        if isinstance(version := row.get("version"), int) and version > TRACE_VERSION:
            raise InputError(
                f"{path} line {number}: a trace of version {version}; this aimo2 reads up to"
                f" {TRACE_VERSION}: update it"
            )
        yield _validated(Trace, row, path, number)


def read_lines(path: Path, kind: type[V]) -> Iterator[V]:
    """The values of a file of JSON lines; none where there is no file. Raises `InputError`."""
    for number, row in _json_lines(path):
        yield _validated(kind, row, path, number)


def _validated(kind: type[V], row: Mapping[str, Any], path: Path, number: int) -> V:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} line {number}: {where}: {first['msg']}; not a {kind.__name__.lower()}"
        ) from error


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    with file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return  # Torn: the writer was killed, or is writing now.
                raise InputError(
                    f"{path} line {number}: not valid JSON; delete the line"
                ) from error
            if not isinstance(row, dict):
                raise InputError(f"{path} line {number}: not a JSON object; delete the line")
            yield number, row


def cut_torn_line(path: Path) -> bool:
    """Cut off what stands behind the last line break; whether there was something."""
    try:
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            at = size
            while at:
                step = min(65536, at)
                file.seek(at - step)
                found = file.read(step).rfind(b"\n")
                if found >= 0:
                    at = at - step + found + 1
                    break
                at -= step
            file.truncate(at)
            return at < size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _translated(error, path) from error


def check_folder(folder: Path, config: RunConfig) -> None:
    """See that `config` may run in `folder`: it is new, empty, or holds the same run.

    A config without a model's name is compared but for that. Raises `ConfigError`.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; give a folder")
    if not (folder / "run.json").exists():
        if folder.exists() and any(path.name != ".lock" for path in folder.iterdir()):
            left = {"problems.jsonl", "problems.part", "run.part", ".lock"}
            if not {path.name for path in folder.iterdir()} <= left:
                raise ConfigError(
                    f"--out {folder} holds other files and no run; give a new or empty folder"
                )
        return
    different = differences(read_record(folder).config, config)
    if different:
        name, there, here = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise ConfigError(
            f"{folder} holds a run with another configuration: {name} is {there} there and {here}"
            f" here{more}; use the same settings to go on, or another --out"
        )


def differences(there: RunConfig, here: RunConfig) -> list[tuple[str, str, str]]:
    """Name, old and new value of each setting that changes a run's content."""
    old, new = (flat_settings(each.model_dump(mode="json")) for each in (there, here))
    ignored = {"solve.num_rollouts"}
    if here.mode == "samples":
        # Independent samples: how many run at once and when a vote would end changes nothing.
        ignored |= {"solve.concurrency", "solve.max_tokens"}
        ignored |= {name for name in new if name.startswith(("solve.stop.", "solve.verify."))}
    if here.model is None:
        ignored.add("model")
    if there.engine is None or here.engine is None:
        ignored |= {name for name in {**old, **new} if name.split(".")[0] == "engine"}
    names = [name for name in {**old, **new} if name not in ignored]
    return [
        (name, str(old.get(name)), str(new.get(name)))
        for name in names
        if old.get(name) != new.get(name)
    ]


def _write_whole(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise _translated(error, path) from error
