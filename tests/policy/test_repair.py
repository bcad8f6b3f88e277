"""Failed cells are counted once, whatever forks; repairs are what follows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.policy.repair import (
    RepairFigures,
    is_same_failure,
    repair_figures,
    repair_step,
    summed,
    total,
)
from aimo2.types import CodeRun, ErrorKind, Trace, Turn

ERRORS: list[ErrorKind | None] = [None, "syntax", "name", "timeout"]


def trace(*errors: ErrorKind | str | None, shared: int = 0) -> Trace:
    """One turn for each entry: an error, `None` for a good cell, "text" for no cell at all."""
    turns = tuple(
        Turn(
            text="",
            num_tokens=1,
            finish_reason="closed",
            run=None if error == "text" else run(error),  # type: ignore[arg-type]
            injected="",
        )
        for error in errors
    )
    return Trace(
        problem_id="p",
        rollout=0,
        opening="code",
        seed=0,
        prefix="",
        turns=turns,
        answer=None,
        raw_answer=None,
        answer_source=None,
        stop_reason="no_answer",
        error=None,
        seconds=0,
        num_shared_turns=shared,
    )


def run(error: ErrorKind | None) -> CodeRun:
    return CodeRun(code="", output="", error=error, seconds=0, truncated=False)


def test_a_failed_cell_is_repaired_by_the_next_one() -> None:
    found = repair_figures([trace("syntax", None, "name", "text", "syntax")])
    assert found == {"syntax": RepairFigures(2, 1, 1), "name": RepairFigures(1, 1, 0)}
    assert list(found) == ["syntax", "name"]
    assert total(found) == RepairFigures(3, 2, 1)
    assert total(found).share_repaired == pytest.approx(1 / 3)


@given(st.lists(st.lists(st.sampled_from(ERRORS), max_size=6), max_size=4))
def test_figures_of_parts_add_up(runs: list[list[ErrorKind | None]]) -> None:
    traces = [trace(*errors) for errors in runs]
    parts = [repair_figures([each]) for each in traces]
    assert summed(pair for part in parts for pair in part.items()) == repair_figures(traces)


def test_without_failures_there_is_no_share() -> None:
    assert repair_figures([trace(None, "text")]) == {}
    assert total({}).share_repaired is None


@given(st.lists(st.sampled_from(ERRORS), max_size=12), st.integers(0, 12))
def test_shared_turns_are_counted_for_the_parent_only(
    errors: list[ErrorKind | None], shared: int
) -> None:
    shared = min(shared, len(errors))
    child = total(repair_figures([trace(*errors, shared=shared)]))
    assert child == total(repair_figures([trace(*errors[shared:])]))
    assert child.num_repaired <= child.num_followed <= child.num_failed
    assert child.num_failed == sum(error is not None for error in errors[shared:])


def failed(code: str, said: str = "NameError: name 'x' is not defined") -> CodeRun:
    output = f'Traceback (most recent call last):\n  File "<cell 1>", line 1\n{said}'
    kind: ErrorKind = "timeout" if said.startswith("TimeoutError") else "name"
    return CodeRun(code=code, output=output, error=kind, seconds=0, truncated=False)


@given(st.integers(0, 5), st.integers(1, 40))
def test_every_change_of_approach_follows_so_many_repairs(repairs: int, failures: int) -> None:
    row = [failed(f"f({number})", f"NameError: name 'x{number}'") for number in range(failures)]
    steps = [repair_step(row[:each], repairs) for each in range(1, failures + 1)]
    assert steps.count("change") == failures // (repairs + 1)
    assert all(
        (step == "change") == (number % (repairs + 1) == 0) for number, step in enumerate(steps, 1)
    )


def test_a_failure_that_comes_again_asks_for_another_approach_at_once() -> None:
    one, other = failed("f(x)"), failed("g(x)", "NameError: name 'y' is not defined")
    assert repair_step([one], 2) == "hint"
    assert repair_step([one, one], 2) == repair_step([one, failed("print(x)")], 2) == "change"
    assert repair_step([one, other], 2) == "hint"
    assert repair_step([one, one, one], 2) == "change"
    # What counts is the last failure; a change begins a row of its own.
    assert repair_step([one, one, other], 2) == "hint"
    assert repair_step([one, one, other, one], 2) == "hint"
    assert repair_step([one, one, other, one, other], 2) == "change"


def test_failures_are_the_same_by_their_code_or_by_their_words() -> None:
    assert is_same_failure(failed(" f(x)\n", "NameError: a"), failed("f(x)", "NameError: b"))
    assert not is_same_failure(failed("f(x)", "NameError: a"), failed("g(x)", "NameError: b"))
    # These words say nothing of the cause.
    slow = "TimeoutError: the cell ran out of time"
    assert not is_same_failure(failed("f(10)", slow), failed("f(9)", slow))
    assert is_same_failure(failed("f(10)", slow), failed("f(10)", slow))
    assert not is_same_failure(failed("f()", "AssertionError"), failed("g()", "AssertionError"))
    assert not is_same_failure(failed("f(x)"), failed("f(x)", slow))


def test_there_is_nothing_to_repair_without_a_failure() -> None:
    with pytest.raises(ValueError, match="no failed cell"):
        repair_step([], 2)
