import dataclasses
import math
from pathlib import Path

import pytest

from aimo2.evals.breakdown import (
    code_use,
    confidence_test,
    grouped,
    groupings,
    lengths,
    token_reliability,
    vote_reliability,
)
from aimo2.evals.figures import results_of
from aimo2.evals.store import LoadedRun, read_run
from aimo2.policy.repair import RepairFigures
from tests.evals.drawn import SUBJECTS, change_problems, drawn_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    return read_run(drawn_run(tmp_path_factory.mktemp("run"), longer=3.0, samples=6))


def test_only_fields_that_group_are_groupings(run: LoadedRun) -> None:
    assert groupings(run.items) == ["level", "subject"]  # `source` has one value only.


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    folder = drawn_run(tmp_path, problems=13, samples=1)
    change_problems(folder, source="x")
    several = read_run(folder)
    names = [group.name for group in grouped(results_of(several), several.items, "level")]
    assert names == ["1", "2", "3"]


def test_groups_split_the_problems(run: LoadedRun) -> None:
    results = results_of(run)
    groups = grouped(results, run.items, "subject")
    assert [group.name for group in groups] == sorted(SUBJECTS)
    assert sum(group.problems for group in groups) == len(results)
    whole = sum(result.share for result in results)
    assert math.isclose(sum(group.pass_1.value * group.problems for group in groups), whole)
    assert grouped(results, run.items, "nothing") == []


def test_bins_hold_every_case_in_order(run: LoadedRun) -> None:
    results = results_of(run)
    votes, tokens = vote_reliability(results), token_reliability(results)
    assert votes is not None
    assert tokens is not None
    assert sum(one.cases for one in votes.bins) == sum(bool(one.answers) for one in results)
    answered = sum(one.answer is not None for result in results for one in result.samples)
    assert sum(one.cases for one in tokens.bins) == answered
    for found in (votes, tokens):
        places = [one.confidence for one in found.bins]
        assert places == sorted(set(places))
        assert 0 <= found.brier <= 1
        assert 0 <= found.gap <= 1


def test_without_probabilities_there_is_no_reliability_of_tokens(tmp_path: Path) -> None:
    bare = results_of(read_run(drawn_run(tmp_path, with_logprobs=False, problems=3)))
    assert token_reliability(bare) is None
    assert confidence_test(bare) is None


def test_code_groups_hold_every_sample_once(run: LoadedRun) -> None:
    results = results_of(run)
    use = code_use(results)
    assert sum(group.samples for group in use.groups) == sum(len(one.samples) for one in results)
    right = sum(group.right.value * group.samples for group in use.groups)
    assert math.isclose(right, sum(one.right for one in results))
    assert use.within is not None
    assert use.both > 0


def test_failed_cells_stand_by_their_cause(run: LoadedRun) -> None:
    figures = {"name": RepairFigures(4, 3, 1), "syntax": RepairFigures(1, 1, 1)}
    first, second, *_ = results_of(run)
    changed = [
        dataclasses.replace(each, samples=[each.samples[0].model_copy(update={"repairs": repairs})])
        for each, repairs in ((first, figures), (second, {"name": RepairFigures(2, 2, 2)}))
    ]
    name, syntax = code_use(changed).repairs
    assert (name.cause, name.figures) == ("name", RepairFigures(6, 5, 3))
    assert (name.repaired.value, syntax.repaired.value) == (0.5, 1.0)
    assert name.repaired.low < 0.5 < name.repaired.high
    assert math.isnan(syntax.repaired.low)  # Only one problem has such cells.


def test_every_failed_cell_has_a_cause(run: LoadedRun) -> None:
    results = results_of(run)
    failed = sum(one.num_code_errors for result in results for one in result.samples)
    assert sum(each.figures.num_failed for each in code_use(results).repairs) == failed > 0


def test_lengths_are_of_samples_that_answered(run: LoadedRun) -> None:
    results = results_of(run)
    right, wrong, test = lengths(results)
    assert len(right) == sum(one.right for one in results)
    unanswered = sum(one.blank for one in results)
    assert len(right) + len(wrong) == sum(len(one.samples) for one in results) - unanswered
    assert unanswered > 0
    assert test is not None
    assert test.delta.value > 0.9


def test_branches_have_no_length_of_their_own(run: LoadedRun) -> None:
    results = results_of(run)
    forked = [
        dataclasses.replace(
            one, samples=[sample.model_copy(update={"parent": 0}) for sample in one.samples]
        )
        for one in results
    ]
    assert lengths(forked) == ([], [], None)


def test_right_samples_were_drawn_to_be_surer(run: LoadedRun) -> None:
    test = confidence_test(results_of(run))
    assert test is not None
    assert test.delta.value < 0
