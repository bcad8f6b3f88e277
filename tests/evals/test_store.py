import json
import shutil
from pathlib import Path

import polars
import pytest

from aimo2.errors import ConfigError, InputError
from aimo2.evals.store import (
    EngineRecord,
    RunStore,
    check_folder,
    cut_torn_line,
    differences,
    read_run,
)
from aimo2.types import TRACE_VERSION
from tests.evals.exam import opened, record, run_config, sums
from tests.evals.test_runner import Exam


@pytest.fixture
def finished(tmp_path: Path) -> Exam:
    exam = Exam(tmp_path)
    exam.run()
    return exam


def test_another_configuration_is_refused_with_the_difference_named(finished: Exam) -> None:
    with pytest.raises(ConfigError, match=r"solve\.rollout\.max_tokens is 1024 there and 99 here"):
        opened(finished.folder, finished.data, max_tokens=99)
    with pytest.raises(ConfigError, match=r"samples is 3 there and 5 here"):
        opened(finished.folder, finished.data, samples=5)
    other = sums(finished.folder.parent, 6)
    with pytest.raises(ConfigError, match="dataset_sha256"):
        opened(finished.folder, other)
    with pytest.raises(ConfigError, match=r"and 1 more"):
        opened(finished.folder, finished.data, max_tokens=99, seed=4)


def test_concurrency_may_change_between_parts_of_a_run_of_samples(tmp_path: Path) -> None:
    data = sums(tmp_path)
    one, other = run_config(data, concurrency=1), run_config(data, concurrency=9)
    assert differences(one, other) == []
    voted = run_config(data, stop="never", verify={"comparisons": 4})
    solve = voted.solve.model_copy(update={"max_tokens": 9_000})
    assert differences(one, voted.model_copy(update={"solve": solve})) == []
    solving = [run_config(data, mode="solve", concurrency=n) for n in (1, 9)]
    assert [name for name, _, _ in differences(*solving)] == ["solve.concurrency"]


def test_a_model_that_is_not_known_yet_is_not_compared(finished: Exam) -> None:
    config = run_config(finished.data)
    check_folder(finished.folder, config.model_copy(update={"model": None}))
    with pytest.raises(ConfigError, match="model is fake there and other here"):
        check_folder(finished.folder, config.model_copy(update={"model": "other"}))


def test_another_engine_is_refused_and_an_older_record_goes_on(finished: Exam) -> None:
    config = run_config(finished.data)
    ours = EngineRecord(context=4096, chat_template=None, sandbox="auto")
    check_folder(finished.folder, config.model_copy(update={"engine": ours}))  # none was recorded
    recorded = config.model_copy(update={"engine": ours})
    for field, value in (("context", 8192), ("chat_template", "0af1"), ("sandbox", "strict")):
        other = config.model_copy(update={"engine": ours.model_copy(update={field: value})})
        assert [name for name, _, _ in differences(recorded, other)] == [f"engine.{field}"]
    old = json.loads((finished.folder / "run.json").read_text())
    del old["config"]["engine"]
    (finished.folder / "run.json").write_text(json.dumps(old))
    assert read_run(finished.folder).record.config.engine is None


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    data = sums(tmp_path)
    with pytest.raises(ConfigError, match="holds other files"):
        opened(tmp_path, data)
    with pytest.raises(ConfigError, match="is a file"):
        opened(tmp_path / "sums.jsonl", data)


def test_two_writers_are_kept_apart(tmp_path: Path) -> None:
    data = sums(tmp_path)
    with (
        opened(tmp_path / "run", data),
        pytest.raises(ConfigError, match="written by another aimo2"),
    ):
        opened(tmp_path / "run", data)
    with opened(tmp_path / "run", data):
        pass


@pytest.mark.parametrize("name", ["traces", "grades", "classes", "outcomes"])
def test_a_torn_last_line_is_cut_off_and_its_work_done_again(finished: Exam, name: str) -> None:
    before = read_run(finished.folder)
    path = finished.folder / f"{name}.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_run(finished.folder).samples) in (11, 12)
    store = finished.run()
    assert any("cut off" in note for note in store.notes)
    after = read_run(finished.folder)
    assert {k: (o.answer, o.correct) for k, o in after.outcomes.items()} == {
        k: (o.answer, o.correct) for k, o in before.outcomes.items()
    }
    assert {k: (s.answer, s.correct) for k, s in after.samples.items()} == {
        k: (s.answer, s.correct) for k, s in before.samples.items()
    }
    lines = path.read_text().splitlines()
    assert all(json.loads(line) for line in lines)


def test_cutting_leaves_whole_files_and_missing_ones_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert not cut_torn_line(path)
    path.write_bytes(b"one\ntwo\n")
    assert not cut_torn_line(path)
    path.write_bytes(b"one\n" + b"x" * 200_000)
    assert cut_torn_line(path)
    assert path.read_bytes() == b"one\n"
    path.write_bytes(b"torn")
    assert cut_torn_line(path)
    assert path.read_bytes() == b""


def test_damage_in_the_middle_is_named(finished: Exam) -> None:
    path = finished.folder / "grades.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "{broken\n", *lines[2:]]))
    with pytest.raises(InputError, match=r"grades\.jsonl line 3: not valid JSON"):
        read_run(finished.folder)
    path.write_text("".join([*lines[:2], '{"rollout": 1}\n', *lines[2:]]))
    with pytest.raises(InputError, match=r"grades\.jsonl line 3: problem_id.*not a grade"):
        read_run(finished.folder)


def test_a_newer_trace_is_refused(finished: Exam) -> None:
    path = finished.folder / "traces.jsonl"
    first, *rest = path.read_text().splitlines()
    newer = json.dumps({**json.loads(first), "version": TRACE_VERSION + 1})
    path.write_text("\n".join([newer, *rest]) + "\n")
    with pytest.raises(InputError, match=r"line 1: a trace of version \d+; .* update it"):
        read_run(finished.folder)


def test_no_run_and_a_foreign_record_are_named(tmp_path: Path, finished: Exam) -> None:
    with pytest.raises(InputError, match=r"is no run: it has no run\.json"):
        read_run(tmp_path / "nothing")
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)
    (copy / "run.json").write_text('{"version": 1}')
    with pytest.raises(InputError, match=r"run\.json: .*another version"):
        read_run(copy)


def test_a_question_solved_in_part_leaves_nothing(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    exam.run(mode="solve", limit=2, concurrency=2)
    path = exam.folder / "outcomes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    gone = json.loads(lines[-1])["id"]
    config = record(exam.data, mode="solve", concurrency=2)
    with RunStore.open(exam.folder, config, exam.data.items) as store:
        assert gone not in {key[0] for key in store.samples}
    kept = [json.loads(line) for line in (exam.folder / "traces.jsonl").read_text().splitlines()]
    assert gone not in {row["problem_id"] for row in kept}
    assert exam.run(mode="solve", limit=2, concurrency=2).outcomes.keys() == {
        "s0", "s1", "s2", "s3",
    }  # fmt: skip


def test_the_table_has_a_row_a_sample_with_metadata_and_classes(finished: Exam) -> None:
    with opened(finished.folder, finished.data) as store:
        path = store.write_samples()
    frame = polars.read_parquet(path)
    assert frame.height == 12
    assert frame["problem_id"].to_list() == [f"s{n}" for n in range(4) for _ in range(3)]
    assert set(frame["level"]) == {0, 1}
    for row in frame.iter_rows(named=True):
        assert (row["answer_class"] is None) == (row["answer"] is None)
        assert row["correct"] == (row["answer"] == row["gold"])
