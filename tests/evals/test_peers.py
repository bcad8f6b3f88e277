import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from aimo2.errors import InputError
from aimo2.evals.compare import compare
from aimo2.evals.peers import Format, export, read_results
from tests.evals.test_runner import Exam


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    exam = Exam(tmp_path, 5)
    exam.run(samples=4)
    return exam.folder


@pytest.mark.parametrize(
    ("to", "name"),
    [("lm-eval", "samples_sums_x.jsonl"), ("inspect", "log.json"), ("inspect", "log.eval")],
)
def test_what_is_exported_reads_back_the_same(
    folder: Path, tmp_path: Path, to: Format, name: str
) -> None:
    assert export(folder, to, tmp_path / name) == 20
    ours, theirs = read_results(folder), read_results(tmp_path / name)
    assert len(theirs.problems) == 5
    for one, other in zip(ours.problems, theirs.problems, strict=True):
        assert [s.correct for s in one.samples] == [s.correct for s in other.samples]
        assert [s.answer for s in one.samples] == [s.answer for s in other.samples]
        assert sorted(one.answers) == sorted(other.answers)
        assert (one.share, one.blank, one.voted) == (other.share, other.blank, other.voted)
    found = compare(ours, theirs)
    assert (found.problems, found.answered.value, found.changed) == (5, 0.0, ())
    assert found.votes is not None
    assert found.votes.pass_1.value == 0.0
    assert (found.tokens is None) == (to == "lm-eval")


def test_an_unfinished_folder_cannot_be_exported(folder: Path, tmp_path: Path) -> None:
    (folder / "grades.jsonl").unlink()
    with pytest.raises(InputError, match="no graded samples yet"):
        export(folder, "inspect", tmp_path / "x.json")


def test_a_place_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        export(folder, "lm-eval", tmp_path / "gone" / "x.jsonl")


def harness_row(number: int, **rest: Any) -> dict[str, Any]:
    """A row as the harness writes it for one response."""
    return {
        "doc_id": number,
        "doc": {"question": f"What is {number} plus 1?", "answer": str(number + 1)},
        "target": str(number + 1),
        "arguments": {"gen_args_0": {"arg_0": "Q: ...", "arg_1": {"until": []}}},
        "resps": [["so it is 1"]],
        "filtered_resps": [str(number + 1)],
        "filter": "strict",
        "metrics": ["exact_match"],
        "exact_match": 1.0,
        **rest,
    }


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_harness_file_gives_its_own_verdicts_by_its_first_filter(tmp_path: Path) -> None:
    path = write(
        tmp_path / "samples_t_1.jsonl",
        harness_row(1),
        harness_row(2, exact_match=0.0, filtered_resps=["[invalid]"]),
        harness_row(1, filter="flexible", exact_match=0.0),
        harness_row(2, filter="flexible"),
    )
    found = read_results(tmp_path)
    assert found.name == path.stem
    assert [(one.problem_id, one.voted, one.blank) for one in found.problems] == [
        ("1", True, 0),
        ("2", False, 1),
    ]
    assert found.items[0].problem.statement == "What is 1 plus 1?"


def test_several_responses_under_one_mean_are_compared_with_the_target(tmp_path: Path) -> None:
    several = harness_row(
        4, resps=[["a", "b", "c"]], filtered_resps=[["5", "6", "$5$"]], exact_match=2 / 3
    )
    (one,) = read_results(write(tmp_path / "samples_t.jsonl", several)).problems
    assert [sample.correct for sample in one.samples] == [True, False, True]


def test_another_metric_may_be_named(tmp_path: Path) -> None:
    row = harness_row(1, metrics=["exact_match", "math_verify"], math_verify=0)
    path = write(tmp_path / "samples_t.jsonl", row)
    assert read_results(path).problems[0].voted
    assert not read_results(path, metric="math_verify").problems[0].voted
    with pytest.raises(InputError, match="no number under metric f1"):
        read_results(path, metric="f1")


def sample(name: str, epoch: int = 1, **rest: Any) -> dict[str, Any]:
    """A sample as inspect_ai writes it."""
    return {
        "id": name,
        "epoch": epoch,
        "input": [
            {"role": "system", "content": "Think."},
            {"role": "user", "content": [{"type": "text", "text": f"Problem {name}"}]},
        ],
        "target": ["7"],
        "output": {"completion": "It is \\boxed{7}."},
        "scores": {"match": {"value": "C"}, "judge": {"value": 0}},
        "model_usage": {"m": {"output_tokens": 11}},
        "total_time": 2.5,
        "metadata": {"level": 3, "notes": ["x"]},
        **rest,
    }


def inspect_log(path: Path, *samples: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"version": 2, "status": "success", "samples": samples}))
    return path


def test_an_inspect_log_gives_epochs_scores_tokens_and_metadata(tmp_path: Path) -> None:
    wrong = sample("a", 2, scores={"match": {"value": "I", "answer": "8"}, "judge": {"value": 1}})
    path = inspect_log(tmp_path / "log.json", wrong, sample("a"), sample("b", scores={}))
    found = read_results(path)
    a, b = found.problems
    assert [(one.answer, one.correct) for one in a.samples] == [("7", True), ("8", False)]
    assert (a.samples[0].num_tokens, a.samples[0].seconds) == (11, 2.5)
    assert (b.voted, b.blank) == (False, 1)
    assert found.items[0].problem.statement == "Problem a"
    assert dict(found.items[0].meta) == {"level": 3}
    judged = read_results(inspect_log(tmp_path / "l.json", sample("a"), wrong), metric="judge")
    assert [one.correct for one in judged.problems[0].samples] == [False, True]


def test_a_log_packed_with_zstandard_is_read(tmp_path: Path) -> None:
    """Newer logs use a zip method that Python itself reads from 3.14 on."""
    names = [(f"samples/{name}_epoch_1.json", sample(name)) for name in ("a", "b")]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, value in names:
            data = pyarrow.Codec("zstd").compress(json.dumps(value).encode(), asbytes=True)
            archive.writestr(name, data)
    content = bytearray(packed.getvalue())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] = 93
            at = content.find(signature, at + 4)
    path = tmp_path / "log.eval"
    path.write_bytes(content)
    assert [one.problem_id for one in read_results(path).problems] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.json", b"{", "as a log of inspect_ai"),
        ("x.json", b"{}", "no log of inspect_ai with samples"),
        ("x.json", b'{"samples": [{"id": 1}]}', "without id or target"),
        ("x.json", b'{"samples": []}', "holds no samples"),
        ("x.eval", b"no zip", "as a log of inspect_ai"),
        ("x.jsonl", b'{"a": 1}\n', "no samples of lm-evaluation-harness"),
        ("x.jsonl", b"{\n", "line 1: not valid JSON"),
        ("x.txt", b"", "give a run's folder"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_results(tmp_path / name)


def test_missing_files_and_ambiguous_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such run or file"):
        read_results(tmp_path / "gone.json")
    with pytest.raises(InputError, match="holds 0 files of samples"):
        read_results(tmp_path)
    with pytest.raises(InputError, match="no scorer f1; the log has match, judge"):
        read_results(inspect_log(tmp_path / "l.json", sample("a")), metric="f1")
    odd = sample("a", scores={"match": {"value": {"x": 1}}})
    with pytest.raises(InputError, match="neither right nor wrong"):
        read_results(inspect_log(tmp_path / "m.json", odd))
