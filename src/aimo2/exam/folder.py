"""An exam's folder: the journal, and the traces and outcomes beside it. Knows no clocks.

    journal         every record, checksummed; what `resume` reads
    traces.jsonl    whole traces, a line each
    outcomes.jsonl  how each question ended, a line each

A disk that takes no more is said once, and the exam goes on from memory: what could not be
written is tried again with each record.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from aimo2.errors import DiskFullError, InputError
from aimo2.exam.records import History, Record, read_history
from aimo2.journal import Journal, LineFile, read_journal
from aimo2.types import Outcome, Trace

JOURNAL_NAME = "journal"


class ExamFolder:
    """The one writer of an exam's folder."""

    def __init__(self, path: Path, notify: Callable[[str], None] = lambda line: None) -> None:
        """Opens or creates it. Raises `InputError` where it cannot be used, and says how."""
        self.path = path
        self._notify = notify
        self._complained = False
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {path}: {error.strerror}") from error
        self._journal = Journal(path / JOURNAL_NAME)
        try:
            self.history = read_history(self._journal.records, str(path / JOURNAL_NAME))
            self._traces = LineFile(path / "traces.jsonl")
            self._outcomes = LineFile(path / "outcomes.jsonl")
        except InputError:
            self._journal.close()
            raise
        self.repaired = self._journal.repaired
        """What a crash had left broken, a line each."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        self._journal.close()

    def write(self, record: Record, *, sync: bool = False) -> None:
        """Keep a record; with `sync` it outlives a power loss, where the disk takes it."""
        self.history.add(record)
        self._guarded(lambda: self._journal.append(record.model_dump_json(), sync=sync))

    def keep(self, outcome: Outcome | None, traces: Iterable[Trace]) -> None:
        """Keep what a question came to."""
        lines = [trace.model_dump_json() for trace in traces]
        self._guarded(lambda: self._traces.extend(lines))
        if outcome is not None:
            self._guarded(lambda: self._outcomes.extend([outcome.model_dump_json()]))

    def _guarded(self, write: Callable[[], None]) -> None:
        """A failure to write must cost no answer: it is said, once until it is over."""
        try:
            write()
        except (DiskFullError, InputError) as error:
            if not self._complained:
                self._notify(f"{error}; the exam goes on from memory")
            self._complained = True
            return
        if self._complained and not self._journal.num_waiting:
            self._complained = False
            self._notify(f"{self.path} can be written again; nothing of the journal is missing")


def exam_history(path: Path) -> History:
    """What has happened in an exam, read beside its writer. Raises `InputError`."""
    journal = path / JOURNAL_NAME
    if not journal.is_file():
        raise InputError(f"{path} holds no exam: there is no file {JOURNAL_NAME!r} in it")
    records, _ = read_journal(journal)
    if not records:
        raise InputError(f"{journal} is empty: the exam there never began")
    return read_history(records, str(journal))
