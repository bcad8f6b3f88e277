import csv
import errno
import json
import os
from pathlib import Path

import pytest

from aimo2.errors import DiskFullError, InputError
from aimo2.journal import AnswerFile, RecordFile, TraceFile
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
