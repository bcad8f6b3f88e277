import math
from pathlib import Path

import pytest

from aimo2.errors import InputError
from aimo2.evals.compare import Results, compare
from aimo2.evals.datasets import Item
from aimo2.evals.figures import figures_of, results_of
from aimo2.evals.store import LoadedRun, read_run
from aimo2.types import Problem
from tests.evals.exam import opened
from tests.evals.test_runner import Exam


@pytest.fixture
def run(tmp_path: Path) -> LoadedRun:
    exam = Exam(tmp_path, 6)
    exam.run(samples=4, openings=("plain", "code"))
    return read_run(exam.folder)


def results(run: LoadedRun, name: str = "run") -> Results:
    return Results(name, run.items, results_of(run))


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
    assert f"{figures.left_out} problems are not finished" in said


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
    assert (found.problems, found.pass_1.value, found.mcnemar.p, found.changed) == (6, 0, 1.0, ())


def test_two_runs_are_paired_and_their_changes_listed(tmp_path: Path, run: LoadedRun) -> None:
    exam = Exam(tmp_path, 6)
    exam.folder = tmp_path / "other"
    exam.run(samples=3, openings=("plain",), seed=9)
    other = read_run(exam.folder)
    found = compare(results(run, "a"), results(other, "b"))
    assert (found.k, found.problems, found.only_first, found.only_second) == (3, 6, 0, 0)
    assert found.pass_1.value == pytest.approx(found.second_pass_1 - found.first_pass_1)
    changed = {
        name for name in run.outcomes if run.outcomes[name].correct != other.outcomes[name].correct
    }
    assert {one.problem_id for one in found.changed} == changed
    assert len(changed) == found.mcnemar.only_first + found.mcnemar.only_second
    assert found.as_json()["mcnemar"]["p"] == found.mcnemar.p


def test_problems_with_other_numbers_are_paired_by_their_words(run: LoadedRun) -> None:
    renamed = {item.problem.id: f"doc-{at}" for at, item in enumerate(reversed(run.items))}
    items = [
        Item(Problem(id=renamed[one.problem.id], statement=one.problem.statement.upper()), {})
        for one in run.items
    ]
    there = results(run)
    moved = [
        type(one)(renamed[one.problem_id], one.samples, one.answers, one.blank, one.voted)
        for one in there.problems
    ]
    found = compare(there, Results("other", items, moved))
    assert (found.problems, found.changed) == (6, ())


def test_nothing_in_common_is_an_error(run: LoadedRun) -> None:
    items = [Item(Problem(id="x", statement="Something else"), {})]
    (first, *_) = results_of(run)
    alien = type(first)("x", first.samples, first.answers, first.blank, first.voted)
    with pytest.raises(InputError, match="no finished problem in common"):
        compare(results(run), Results("alien", items, [alien]))
