import gzip
from pathlib import Path
from typing import Any

import pytest

from aimo2.archive import Archive
from aimo2.errors import InputError
from aimo2.types import TRACE_VERSION
from tests.saved import outcome, trace, write_lines


def test_traces_come_back_by_problem_and_rollout(tmp_path: Path) -> None:
    stored = [trace(1), trace(0, problem_id="q"), trace(0), trace(2)]
    path = write_lines(tmp_path / "t.jsonl", stored)
    with Archive(path) as archive:
        assert archive.ids == ["p", "q"]
        assert archive.traces("p") == (stored[2], stored[0], stored[3])
        assert archive.traces("q") == (stored[1],)
        assert archive.notes == []


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl"])
def test_a_compressed_file_is_known_by_its_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(write_lines(tmp_path / "x", [trace(0), trace(1)]).read_bytes()))
    with Archive(path) as archive:
        assert [each.rollout for each in archive.traces("p")] == [0, 1]


def test_a_torn_compressed_file_gives_what_could_be_unpacked(tmp_path: Path) -> None:
    whole = write_lines(tmp_path / "x", [trace(n, seed=n * 7919) for n in range(400)]).read_bytes()
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(whole)[:-200])
    with Archive(path) as archive:
        assert 0 < len(archive.traces("p")) < 400
        assert any("is torn" in note for note in archive.notes)


def test_a_run_folder_has_outcomes_too(tmp_path: Path) -> None:
    write_lines(tmp_path / "traces.jsonl", [trace(0)])
    write_lines(tmp_path / "outcomes.jsonl", [outcome(gold="42", correct=True), {"x": 1}])
    with Archive(tmp_path) as archive:
        assert archive.outcomes["p"].correct
        assert archive.notes == [f"{tmp_path / 'outcomes.jsonl'} line 2 is no outcome; skipped"]


def test_a_torn_last_line_is_reported_and_skipped(tmp_path: Path) -> None:
    torn = trace(1).model_dump_json()[:-40]
    path = write_lines(tmp_path / "t.jsonl", [trace(0), torn])
    with Archive(path) as archive:
        assert len(archive.traces("p")) == 1
        assert archive.notes == [f"{path} line 2 is torn (the writer was stopped); skipped"]


def test_damage_in_the_middle_costs_one_line(tmp_path: Path) -> None:
    half = trace(7).model_dump() | {"turns": [{"text": 5}]}
    path = write_lines(tmp_path / "t.jsonl", [trace(0), "{not json\n", half, "\n", trace(1)])
    with Archive(path) as archive:
        assert [each.rollout for each in archive.traces("p")] == [0, 1]
        assert f"{path} line 2 is not JSON; skipped" in archive.notes
        assert any("line 3 is no whole trace (turns.0" in note for note in archive.notes)


def test_records_of_other_kinds_are_counted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"answer": 1}, trace(0), "[1]\n", {"answer": 2}])
    with Archive(path) as archive:
        assert sorted(archive.notes) == [
            f"{path}: skipped 1 records of another kind (list)",
            f"{path}: skipped 2 records of another kind (with answer)",
        ]


def test_the_later_of_two_records_of_a_rollout_counts(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [trace(0, answer="1"), trace(0, answer="2")])
    with Archive(path) as archive:
        assert [each.answer for each in archive.traces("p")] == ["2"]
        assert "1 rollouts stand there twice" in archive.notes[0]


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    newer = trace(0).model_dump() | {"version": TRACE_VERSION + 1, "unheard_of": 1}
    path = write_lines(tmp_path / "t.jsonl", [newer])
    with pytest.raises(InputError, match=r"line 1: trace version \d+, but .* upgrade aimo2"):
        Archive(path)


def test_traces_of_version_1_are_read(tmp_path: Path) -> None:
    old: dict[str, Any] = trace(0).model_dump()
    for name in ("parent", "num_shared_turns", "started", "stats", "weight", "model"):
        del old[name]
    path = write_lines(tmp_path / "t.jsonl", [old | {"version": 1}])
    with Archive(path) as archive:
        assert archive.traces("p")[0].parent is None


def test_an_unknown_id_is_answered_with_near_ones(tmp_path: Path) -> None:
    ids = ["aime-2024-01", "aime-2024-02", "amc-7"]
    path = write_lines(tmp_path / "t.jsonl", [trace(problem_id=key) for key in ids])
    with Archive(path) as archive:
        with pytest.raises(InputError, match=r"problem 'aime-2024-03'.*aime-2024-0[12]"):
            archive.traces("aime-2024-03")
        with pytest.raises(InputError, match="amc-7"):
            archive.traces("c-7")


@pytest.mark.parametrize("content", [None, b"", b"{}\n", b"\xff\xfe\x00"])
def test_nothing_to_read_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "t.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"t\.jsonl"):
        Archive(path)


def test_a_folder_without_traces_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no traces\.jsonl"):
        Archive(tmp_path)
