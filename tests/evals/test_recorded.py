import json
from pathlib import Path
from typing import Any

import pytest

from aimo2.config import StopConfig
from aimo2.errors import InputError
from aimo2.evals.recorded import CHARS_PER_TOKEN, read_samples
from aimo2.evals.replay import Policy, replay
from aimo2.types import CodeRun, Outcome, Trace, Turn
from tests.evals.recorded import row, write


def trace(rollout: int, answer: str | None, **more: Any) -> dict[str, Any]:
    run = CodeRun(code="1", output="7", error=None, seconds=2.5, truncated=False)
    turns = (
        Turn(text="a", num_tokens=30, finish_reason="closed", run=run, injected=""),
        Turn(text="b", num_tokens=12, finish_reason="stop", run=None, injected=""),
    )
    stored = Trace(
        problem_id="p",
        rollout=rollout,
        opening="code",
        seed=0,
        prefix="",
        turns=turns,
        answer=answer,
        raw_answer=answer,
        answer_source="boxed" if answer else None,
        stop_reason="answered" if answer else "no_answer",
        error=None,
        seconds=4.0,
    )
    return json.loads(stored.model_dump_json()) | more  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a"])
def test_rows_of_one_problem_and_run_are_one_question(tmp_path: Path, name: str) -> None:
    rows = [row("p", "7", model="m"), row("p", "8", model="m"), row("p", "7", model="other")]
    path = write(tmp_path / (name if name != "a" else "a.gz"), rows)
    recorded = read_samples([path.rename(tmp_path / name)])  # what is in it says what it is
    assert [(p.problem_id, len(p.samples)) for p in recorded.problems] == [("p", 2), ("p", 1)]
    assert [s.correct for s in recorded.problems[0].samples] == [True, False]
    assert [s.signals.rollout for s in recorded.problems[0].samples] == [0, 1]
    assert recorded.notes == []


def test_equal_answers_are_one_class(tmp_path: Path) -> None:
    rows = [
        row("p", "7"),
        row("p", "7.0", correct=True),
        row("p", "\\frac{14}{2}", correct=True),
        row("p", "1/2"),
        row("p", "0.5"),
        row("p", None),
    ]
    (problem,) = read_samples([write(tmp_path / "a.jsonl", rows)]).problems
    answers = [each.signals.answer for each in problem.samples]
    assert answers[0] == answers[1] == answers[2] == problem.right
    assert answers[3] == answers[4] != problem.right
    assert answers[5] is None
    assert problem.pass_rate == 0.5


def test_lengths_are_taken_estimated_or_filled_in_and_it_is_said(tmp_path: Path) -> None:
    rows = [
        row(n_tokens=100),
        row(n_tokens=None, n_tokens_est=200),
        row(n_tokens=None, n_chars=int(300 * CHARS_PER_TOKEN)),
        row(n_tokens=None, text="x" * int(400 * CHARS_PER_TOKEN)),
        row(n_tokens=None),
    ]
    recorded = read_samples([write(tmp_path / "a.jsonl", rows)])
    lengths = [each.num_own_tokens for each in recorded.problems[0].samples]
    assert lengths == [100, 200, 300, 400, 250]
    assert recorded.problems[0].samples[4].signals.num_tokens == 250
    assert [note.partition(": ")[2] for note in recorded.notes] == [
        "tokens are estimated from characters, 2.8 a token",
        "tokens are estimated from characters, by the file itself",
        "1 samples of unknown length count as the mean one",
    ]


def test_samples_that_nobody_graded_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    rows = [row(), row(correct=None)]
    recorded = read_samples([write(tmp_path / "a.jsonl", rows)])
    assert recorded.num_samples == 1
    assert "1 samples left out" in recorded.notes[0]


def test_what_a_row_knows_becomes_signals(tmp_path: Path) -> None:
    text = "```python\nx\n```\n```output\nNameError: x\n```\nagain\n```output\n7\n```\n\\boxed{7}"
    rows = [
        row(text=text, mean_logprob=-0.2, tail_logprob=-0.1, min_window64_logprob=-0.9),
        row(ppl=[1.0, 2.718281828], rm_score=3.5, num_code_runs=4, num_code_errors=2),
        row(),
    ]
    samples = read_samples([write(tmp_path / "a.jsonl", rows)]).problems[0].samples
    first, second, third = (each.signals for each in samples)
    assert (first.num_code_runs, first.num_code_errors, first.num_repairs) == (2, 1, 1)
    assert first.code_agrees is True
    assert first.stats is not None
    assert (first.stats.tail_logprob, first.stats.min_window_logprob) == (-0.1, -0.9)
    assert second.stats is not None
    assert second.stats.mean_logprob == pytest.approx(-0.5)
    assert (second.score, second.num_code_runs, second.num_code_errors) == (3.5, 4, 2)
    assert (third.stats, third.score, third.code_agrees) == (None, None, None)


def test_traces_take_their_golds_from_the_run_folder(tmp_path: Path) -> None:
    write(tmp_path / "traces.jsonl", [trace(0, "7"), trace(1, "8"), trace(2, None)])
    outcome = Outcome(
        id="p",
        answer="7",
        votes={},
        stop_reason="exhausted",
        num_rollouts=3,
        num_sampled_tokens=0,
        num_code_runs=0,
        seconds=1.0,
        gold="7.0",
    )
    (tmp_path / "outcomes.jsonl").write_text(outcome.model_dump_json() + "\n")
    (problem,) = read_samples([tmp_path]).problems
    assert [each.correct for each in problem.samples] == [True, False, False]
    assert problem.samples[0].num_own_tokens == 42
    assert problem.samples[0].code_seconds == 2.5
    assert problem.samples[0].signals.code_agrees is True


def test_a_run_s_own_grades_come_before_arithmetic(tmp_path: Path) -> None:
    write(tmp_path / "traces.jsonl", [trace(0, "7"), trace(1, "8")])
    grades = [{"problem_id": "p", "rollout": at, "correct": at == 1} for at in (0, 1)]
    write(tmp_path / "grades.jsonl", grades)
    (problem,) = read_samples([tmp_path], {"p": "7"}).problems
    assert [each.correct for each in problem.samples] == [False, True]
    write(tmp_path / "grades.jsonl", [{"rollout": 0}])
    with pytest.raises(InputError, match="line 1: no grade"):
        read_samples([tmp_path], {"p": "7"})


def test_a_forked_trace_costs_its_own_tokens_only(tmp_path: Path) -> None:
    rows = [trace(0, "7"), trace(1, "7", parent=0, num_shared_turns=1)]
    path = write(tmp_path / "t.jsonl", rows)
    (problem,) = read_samples([path], {"p": "7"}).problems
    assert [each.num_own_tokens for each in problem.samples] == [42, 12]
    assert [each.code_seconds for each in problem.samples] == [2.5, 0.0]


def test_rollouts_that_their_question_cut_short_are_left_out_and_it_is_said(
    tmp_path: Path,
) -> None:
    rows = [
        trace(0, "7"),
        trace(1, None, stop_reason="cancelled"),
        trace(2, None, stop_reason="deadline"),
        trace(3, "8", stop_reason="deadline"),
        trace(4, None, stop_reason="max_tokens"),
        trace(0, None, problem_id="q", stop_reason="deadline"),
    ]
    recorded = read_samples([write(tmp_path / "t.jsonl", rows)], {"p": "7", "q": "7"})
    (problem,) = recorded.problems
    assert [each.signals.rollout for each in problem.samples] == [0, 3, 4]
    assert [note.partition(": ")[2].partition(":")[0] for note in recorded.notes] == [
        "3 rollouts left out",
        "1 questions left out",
    ]


def test_the_baseline_of_an_early_stop_is_what_finished(tmp_path: Path) -> None:
    """Two of two finished votes are right; the cancelled ones say nothing against them."""
    rows = [trace(0, "7"), trace(1, "7")]
    rows += [trace(at, None, stop_reason="cancelled") for at in range(2, 9)]
    (problem,) = read_samples([write(tmp_path / "t.jsonl", rows)], {"p": "7"}).problems
    decision = replay(problem, Policy(StopConfig(rule="never"), num_rollouts=9, concurrency=9))
    assert (decision.num_rollouts, decision.num_votes, decision.num_tokens) == (2, 2, 84)
    assert problem.pass_rate == 1.0


def test_what_others_were_forked_from_stays_for_the_tokens_that_they_share(tmp_path: Path) -> None:
    cut = {"stop_reason": "cancelled"}
    rows = [
        trace(0, None, **cut),
        trace(1, None, parent=0, num_shared_turns=1, **cut),
        trace(2, "7", parent=1, num_shared_turns=2),
        trace(3, None, parent=0, num_shared_turns=1, **cut),
        trace(4, None, **cut),
    ]
    recorded = read_samples([write(tmp_path / "t.jsonl", rows)], {"p": "7"})
    samples = recorded.problems[0].samples
    assert [(each.signals.rollout, each.num_own_tokens) for each in samples] == [
        (0, 42), (1, 12), (2, 0),
    ]  # fmt: skip
    assert "2 rollouts left out" in recorded.notes[0]


@pytest.mark.parametrize("parents", [{0: 0}, {0: 1, 1: 0}, {0: 7}])
def test_forks_that_go_in_circles_end(parents: dict[int, int], tmp_path: Path) -> None:
    rows = [
        trace(0, "7", parent=parents[0], num_shared_turns=1),
        trace(1, None, parent=parents.get(1), num_shared_turns=1, stop_reason="cancelled"),
    ]
    (problem,) = read_samples([write(tmp_path / "t.jsonl", rows)], {"p": "7"}).problems
    assert [each.signals.rollout for each in problem.samples] == [0, 1][: 1 + (parents[0] == 1)]


@pytest.mark.parametrize("torn", ["traces", "grades", "outcomes"])
def test_a_torn_last_line_is_left_out_and_it_is_said(torn: str, tmp_path: Path) -> None:
    write(tmp_path / "traces.jsonl", [trace(0, "7"), trace(1, "7")])
    write(tmp_path / "grades.jsonl", [{"problem_id": "p", "rollout": 0, "correct": True}])
    write(tmp_path / "outcomes.jsonl", [])
    with (tmp_path / f"{torn}.jsonl").open("a") as file:
        file.write('{"problem_id": "p", "rol')
    recorded = read_samples([tmp_path], {"p": "7"})
    assert recorded.num_samples == 2
    assert recorded.problems[0].run == tmp_path.name
    assert [f"{torn}.jsonl line" in note and "is torn" in note for note in recorded.notes] == [True]


def test_a_whole_last_line_needs_no_line_break(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(), row()])
    path.write_bytes(path.read_bytes().rstrip())
    recorded = read_samples([path])
    assert (recorded.num_samples, recorded.notes) == (2, [])


def test_a_run_folder_may_hold_compressed_traces_and_must_hold_some(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no traces.jsonl; give a run folder"):
        read_samples([tmp_path])
    write(tmp_path / "traces.jsonl.gz", [trace(0, "7")])
    assert read_samples([tmp_path], {"p": "7"}).num_samples == 1


def test_traces_without_golds_cannot_be_graded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing says whether they are right"):
        read_samples([write(tmp_path / "t.jsonl", [trace(0, "7")])])


def test_older_traces_are_read_and_newer_ones_refused(tmp_path: Path) -> None:
    old = {k: v for k, v in trace(0, "7").items() if k not in ("started", "stats", "parent")}
    assert read_samples([write(tmp_path / "t.jsonl", [old | {"version": 1}])], {"p": "7"}).problems
    with pytest.raises(InputError, match="version 99; update"):
        read_samples([write(tmp_path / "t.jsonl", [trace(0, "7", version=99)])], {"p": "7"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense\n", "line 1: not JSON"),
        (b"nonsense", "line 1 is torn"),
        (b"[" * 100_000 + b"\n", "line 1: not JSON"),
        (b"[1]\n", "line 1: not a JSON object"),
        (b'\n{"a": 1}\n', "line 2: neither a trace nor a sample"),
        (b'{"problem_id": "p", "answer": "1", "correct": "yes"}\n', "'yes' must be true, false"),
        (b'{"turns": []}\n', "line 1: no trace"),
        (b"", "no samples"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_samples([path])


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "a.jsonl.gz"
    broken.write_bytes(write(tmp_path / "b.jsonl.gz", [row()] * 50).read_bytes()[:-20])
    with pytest.raises(InputError, match="not a whole gzip file"):
        read_samples([broken])
    with pytest.raises(InputError, match="cannot read"):
        read_samples([tmp_path / "none.jsonl"])
    (tmp_path / "outcomes.jsonl").write_text('{"id": 3}\n')
    write(tmp_path / "traces.jsonl", [trace(0, "7")])
    with pytest.raises(InputError, match="line 1: no outcome"):
        read_samples([tmp_path])
