import csv
import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.errors import DiskFullError, InputError
from aimo2.journal import (
    AnswerFile,
    Journal,
    LineFile,
    RecordFile,
    TraceFile,
    read_journal,
)
from aimo2.types import Outcome, Trace


def outcome(identity: str, answer: str | None) -> Outcome:
    return Outcome(
        id=identity, answer=answer, votes={}, stop_reason="exhausted", num_rollouts=1,
        num_sampled_tokens=1, num_code_runs=0, seconds=1.0,
    )  # fmt: skip


TRACE = Trace(
    problem_id="a", rollout=0, opening="plain", seed=1, prefix="", turns=(), answer="1",
    raw_answer="1", answer_source="boxed", stop_reason="answered", error=None, seconds=0.5,
)  # fmt: skip


def test_answers_are_readable_after_each_question(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with AnswerFile(path) as answers:
        answers.add(outcome("a,b", "42"))
        with path.open(newline="") as file:
            assert list(csv.reader(file)) == [["id", "answer"], ["a,b", "42"]]
        answers.add(outcome("c", None))
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "answer"], ["a,b", "42"], ["c", ""]]


def test_traces_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with TraceFile(path) as traces:
        traces.add(TRACE)
        traces.add(TRACE)
    lines = path.read_text().splitlines()
    assert [Trace.model_validate(json.loads(line)) for line in lines] == [TRACE, TRACE]


def test_an_older_file_is_kept_until_there_is_something_to_write(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("precious")
    with AnswerFile(path):
        pass
    assert path.read_text() == "precious"
    with AnswerFile(path) as answers:
        answers.add(outcome("a", "1"))
    assert path.read_text() == "id,answer\na,1\n"


def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        RecordFile(tmp_path / "none" / "answers.csv")
    with pytest.raises(InputError, match="is a folder"):
        RecordFile(tmp_path)


def test_a_pipe_can_be_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with RecordFile(pipe) as file:
            file.append("hello\n")
        assert os.read(reader, 99) == b"hello\n"
    finally:
        os.close(reader)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named() -> None:
    with pytest.raises(DiskFullError, match="/dev/full"), RecordFile(Path("/dev/full")) as file:
        file.append("x" * 10)


def test_another_failure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(InputError, match="Input/output"), RecordFile(tmp_path / "x") as file:
        file.append("x")


def open_journal(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    with Journal(path) as journal:
        return journal.records, journal.repaired


def written(path: Path, *records: str) -> bytes:
    with Journal(path) as journal:
        for record in records:
            journal.append(record, sync=True)
    return path.read_bytes()


def test_a_journal_gives_back_its_records_in_order(tmp_path: Path) -> None:
    path = tmp_path / "j"
    written(path, '{"a":1}', "∑ is text, too")
    written(path, "third")
    assert open_journal(path) == (('{"a":1}', "∑ is text, too", "third"), ())


def test_whatever_a_crash_left_of_the_last_record_is_cut_off_and_said(tmp_path: Path) -> None:
    path = tmp_path / "j"
    first = len(written(path, "first"))
    whole = written(path, "second")
    for length in range(first + 1, len(whole)):
        path.write_bytes(whole[:length])
        assert open_journal(path) == (
            ("first",), (f"a torn record of {length - first} bytes was cut off the end",)
        )  # fmt: skip
        assert len(path.read_bytes()) == first
    written(path, "again")
    assert open_journal(path) == (("first", "again"), ())


def test_a_damaged_record_in_the_middle_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "j"
    data = bytearray(written(path, "first", "second", "third"))
    data[data.index(b"second")] ^= 1
    path.write_bytes(data)
    expected = (("first", "third"), ("line 2 was damaged and is left out",))
    assert open_journal(path) == read_journal(path) == expected


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path), pytest.raises(InputError, match="another process is writing"):
        Journal(path)
    open_journal(path)


def test_a_record_is_one_line(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal, pytest.raises(ValueError, match="one line"):
        journal.append("a\nb")


def limited(room: int) -> Callable[[int, bytes], int]:
    """An `os.write` on a disk with room for so many bytes of a file."""
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        taken = min(room - os.fstat(fd).st_size, len(data))
        if taken <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, bytes(data[:taken]))

    return write


def test_what_a_full_disk_did_not_take_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write, write = os.write, limited(60)
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append("x" * 40)
        monkeypatch.setattr(os, "write", write)
        for number in range(2):
            with pytest.raises(DiskFullError, match="no room left"):
                journal.append(f"{number}" * 40, sync=True)
        assert journal.num_waiting == 2
        assert read_journal(path)[1] == ()
        monkeypatch.setattr(os, "write", real_write)
        journal.append("last", sync=True)
        assert journal.num_waiting == 0
    assert open_journal(path)[0] == ("x" * 40, "0" * 40, "1" * 40, "last")


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))))
def test_any_line_of_text_survives(records: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j"
        with Journal(path) as journal:
            for record in records:
                journal.append(record)
        assert open_journal(path) == (tuple(records), ())


def test_lines_go_on_behind_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("whole\nto")
    file = LineFile(path)
    file.extend(["a", "b"])
    file.extend([])
    file.extend(["c"])
    assert path.read_text() == "whole\na\nb\nc\n"


@pytest.mark.parametrize("cut_off", [True, False])
def test_a_full_disk_leaves_no_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    def broken(fd: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "lines"
    file = LineFile(path)
    file.extend(["first"])
    with monkeypatch.context() as full:
        full.setattr(os, "write", limited(20))
        if not cut_off:
            full.setattr(os, "ftruncate", broken)
        with pytest.raises((DiskFullError, InputError)):
            file.extend(["second " * 9])
        assert path.read_text() == ("first\n" if cut_off else "first\nsecond second ")
    file.extend(["third"])
    assert path.read_text() == "first\n" + "second " * 9 + "\nthird\n"


def test_lines_that_find_no_room_are_kept(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "none" / "lines")
    with pytest.raises(InputError, match="No such file"):
        file.extend(["a"])
    (tmp_path / "none").mkdir()
    file.extend(["b"])
    assert (tmp_path / "none" / "lines").read_text() == "a\nb\n"
