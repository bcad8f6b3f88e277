import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from aimo2.errors import InputError
from aimo2.evals.compare import Results, compare
from aimo2.evals.datasets import Item
from aimo2.evals.figures import caveats_of, figures_of, results_of
from aimo2.evals.store import LoadedRun, read_run
from aimo2.llm import Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.types import Problem
from tests.evals.exam import opened
from tests.evals.test_runner import Exam


@pytest.fixture
def run(tmp_path: Path) -> LoadedRun:
    exam = Exam(tmp_path, 6)
    exam.run(samples=4, openings=("plain", "code"))
    return read_run(exam.folder)


def results(run: LoadedRun, name: str = "run") -> Results:
    return Results(name, run.items, results_of(run), run.record.config.mode)


def test_the_figures_are_the_means_of_the_samples(run: LoadedRun) -> None:
    figures = figures_of(run)
    assert figures is not None
    samples = list(run.samples.values())
    right = sum(bool(sample.correct) for sample in samples)
    assert figures.pass_1.value == pytest.approx(right / len(samples))
    assert figures.pass_k[1].value == pytest.approx(figures.pass_1.value)
    assert figures.maj_k[1].value == pytest.approx(figures.pass_1.value)
    any_right = [any(run.samples[f"s{n}", k].correct for k in range(4)) for n in range(6)]
    assert figures.pass_k[4].value == pytest.approx(sum(any_right) / 6)
    assert figures.tokens.value == pytest.approx(sum(one.num_tokens for one in samples) / 24)
    assert figures.total_tokens == sum(one.num_tokens for one in samples)
    cells = sum(one.num_code_runs for one in samples)
    failed = sum(one.num_code_errors for one in samples)
    assert figures.code_runs.value == pytest.approx(cells / 24)
    assert figures.code_use.value == pytest.approx(0.5)
    assert figures.failed is not None
    assert figures.failed.value == pytest.approx(failed / cells)
    assert (figures.problems, figures.left_out, figures.exact) == (6, 0, True)


def test_pass_rises_with_k_and_intervals_hold_their_values(run: LoadedRun) -> None:
    figures = figures_of(run)
    assert figures is not None
    values = [figures.pass_k[k].value for k in range(1, 5)]
    assert values == sorted(values)
    for one in (figures.pass_1, figures.answered, figures.seconds, *figures.maj_k.values()):
        assert one.low <= one.value <= one.high


def test_caveats_name_contamination_grading_and_what_is_left_out(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 4)
    exam.run(interrupt_after=6.0)
    run = read_run(exam.folder)
    figures = figures_of(run)
    assert figures is not None
    said = " ".join(figures.caveats)
    assert "contamination" in said
    assert "grading" in said
    assert figures.left_out == 4 - len(run.outcomes) > 0
    assert f"{figures.left_out} of 4 problems are not finished" in said


def test_nothing_done_gives_no_figures(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    with opened(exam.folder, exam.data) as store:
        assert figures_of(store) is None


def test_json_has_no_nan(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 1)
    exam.run()
    figures = figures_of(read_run(exam.folder))
    assert figures is not None
    assert math.isnan(figures.pass_1.low)
    assert figures.as_json()["pass_1"]["low"] is None


def test_the_solver_is_judged_by_its_answers(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    store = exam.run(mode="solve", concurrency=2)
    figures = figures_of(store)
    assert figures is not None
    right = sum(bool(outcome.correct) for outcome in store.outcomes.values())
    assert figures.answered.value == right / 4
    assert figures.pass_k == figures.maj_k == {}
    assert figures.tokens.value == pytest.approx(figures.total_tokens / 4)


def test_a_run_compared_with_itself_differs_in_nothing(run: LoadedRun) -> None:
    found = compare(results(run), results(run))
    assert (found.problems, found.answered.value, found.mcnemar.p, found.changed) == (6, 0, 1.0, ())
    assert found.votes is not None
    assert (found.votes.pass_1.value, found.votes.maj_k.value, found.votes.k) == (0, 0, 4)
    assert found.answered.low < 0 < found.answered.high
    assert found.notes() == []


def vote_of_three(run: LoadedRun, name: str) -> bool:
    """Whether the vote of a problem's first three samples is right."""
    first = [run.samples[name, k] for k in range(3)]
    votes = Counter(one.answer for one in first if one.answer is not None)
    return bool(votes) and votes.most_common(1)[0][0] == next(
        item.problem.gold for item in run.items if item.problem.id == name
    )


def test_two_runs_are_paired_and_their_changes_listed(tmp_path: Path, run: LoadedRun) -> None:
    exam = Exam(tmp_path, 6)
    exam.folder = tmp_path / "other"
    exam.run(samples=3, openings=("plain",), seed=9)
    other = read_run(exam.folder)
    found = compare(results(run, "a"), results(other, "b"))
    assert (found.problems, found.only_first, found.only_second) == (6, 0, 0)
    assert found.votes is not None
    pass_1 = found.votes.second_pass_1 - found.votes.first_pass_1
    assert found.votes.pass_1.value == pytest.approx(pass_1)
    assert found.seconds is not None
    right = {name: vote_of_three(run, name) for name in run.outcomes}
    changed = {name for name in right if right[name] != other.outcomes[name].correct}
    assert {one.problem_id for one in found.changed} == changed
    assert len(changed) == found.mcnemar.only_first + found.mcnemar.only_second
    assert found.votes.k == 3
    (note,) = found.notes()
    assert "up to 4 in the first run, 3 in the second" in note
    assert found.as_json()["mcnemar"]["p"] == found.mcnemar.p


def test_solvers_are_compared_by_their_answers_and_by_what_a_question_cost(
    tmp_path: Path, run: LoadedRun
) -> None:
    solved = []
    for name, rule in (("early", "majority"), ("late", "never")):
        exam = Exam(tmp_path, 6)
        exam.folder = tmp_path / name
        exam.run(mode="solve", concurrency=2, stop={"rule": rule, "min_votes": 2})
        solved.append(read_run(exam.folder))
    early, late = solved
    found = compare(results(early, "early"), results(late, "late"))
    assert (found.votes, found.unit) == (None, "problem")
    assert found.tokens is not None
    assert found.seconds is not None
    spent = [sum(one.num_sampled_tokens for one in each.outcomes.values()) / 6 for each in solved]
    assert found.tokens.value == pytest.approx(spent[1] - spent[0])
    took = [sum(one.seconds for one in each.outcomes.values()) / 6 for each in solved]
    assert found.seconds.value == pytest.approx(took[1] - took[0])
    assert found.seconds.value > 0
    assert all(one.first_share is None for one in found.changed)
    mixed = compare(results(run), results(late))
    assert (mixed.votes, mixed.unit, mixed.seconds) == (None, "problem", None)
    assert mixed.tokens is not None
    whole = sum(one.num_sampled_tokens for one in run.outcomes.values()) / 6
    assert mixed.tokens.value == pytest.approx(spent[1] - whole)


def test_one_problem_in_common_has_no_nan_in_json(run: LoadedRun) -> None:
    there = results(run)
    one = Results("one", run.items, there.problems[:1])
    shown = compare(there, one).as_json()
    assert shown["answered"] == {"value": 0.0, "low": None, "high": None}
    json.dumps(shown, allow_nan=False)


def test_probes_and_a_verifier_are_part_of_what_a_question_cost(tmp_path: Path) -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if "## Solutions" in str(conversation.messages):
            return ["The first. \\boxed{1}"]
        if conversation.reply.endswith("\\boxed{"):  # a probe
            return ["maybe 3}"]
        steps: list[Step] = [step for n in range(90) for step in (Delay(0.1), f" and{n}")]
        return [*steps, f" so \\boxed{{{(sampling.seed or 0) % 3}}}."]

    exam = Exam(tmp_path, 3)
    exam.model = ScriptedModel(script)
    store = exam.run(
        mode="solve",
        concurrency=3,
        stop="never",
        cut={"probe": "mid"},
        verify={"comparisons": 2},
    )
    figures = figures_of(store)
    assert figures is not None
    counted = sum(one.num_sampled_tokens for one in store.samples.values())
    written = sum(one.num_tokens for one in store.samples.values())
    spent = sum(one.num_sampled_tokens for one in store.outcomes.values())
    assert written < counted < spent
    assert figures.total_tokens == spent
    assert figures.tokens.value == pytest.approx(spent / 3)


def test_a_branch_does_not_count_the_cells_before_its_fork(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 4)
    store = exam.run(
        mode="solve",
        samples=6,
        concurrency=2,
        stop="never",
        openings=("code",),
        branch={"policy": "bfs", "roots": 1, "children": 2},
    )
    figures = figures_of(store)
    assert figures is not None
    assert any(one.parent is not None for one in store.samples.values())
    for name, outcome in store.outcomes.items():
        own = [one for key, one in store.samples.items() if key[0] == name]
        assert sum(one.num_code_runs for one in own) == outcome.num_code_runs
    assert figures.code_use.value == 1


def test_a_limit_above_the_set_is_no_subset(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 4)
    run = exam.run()
    config = run.record.config
    for limit, said in ((1000, False), (4, True), (None, False)):
        changed = run.record.model_copy(
            update={"config": config.model_copy(update={"limit": limit})}
        )
        lines = caveats_of(changed, list(run.samples.values()), len(run.items))
        assert any("a subset: 4 problems, the first" in line for line in lines) is said


def test_problems_with_other_numbers_are_paired_by_their_words(run: LoadedRun) -> None:
    renamed = {item.problem.id: f"doc-{at}" for at, item in enumerate(reversed(run.items))}
    items = [
        Item(Problem(id=renamed[one.problem.id], statement=one.problem.statement.upper()), {})
        for one in run.items
    ]
    there = results(run)
    moved = [
        replace(one, outcome=one.outcome.model_copy(update={"id": renamed[one.problem_id]}))
        for one in there.problems
    ]
    found = compare(there, Results("other", items, moved))
    assert (found.problems, found.changed) == (6, ())


def test_nothing_in_common_is_an_error(run: LoadedRun) -> None:
    items = [Item(Problem(id="x", statement="Something else"), {})]
    (first, *_) = results_of(run)
    alien = replace(first, outcome=first.outcome.model_copy(update={"id": "x"}))
    with pytest.raises(InputError, match="no finished problem in common"):
        compare(results(run), Results("alien", items, [alien]))
