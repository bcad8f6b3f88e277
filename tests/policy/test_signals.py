from typing import Any

import pytest

from aimo2.policy.signals import same_text, signals_of
from aimo2.types import CodeRun, ErrorKind, Trace, Turn


def run(output: str, error: ErrorKind | None = None) -> CodeRun:
    return CodeRun(code="x", output=output, error=error, seconds=0.1, truncated=False)


def turn(text: str, run: CodeRun | None = None, tokens: int = 10) -> Turn:
    return Turn(text=text, num_tokens=tokens, finish_reason="stop", run=run, injected="")


def trace(*turns: Turn, **fields: Any) -> Trace:
    values: dict[str, Any] = {
        "problem_id": "p",
        "rollout": 0,
        "opening": "code",
        "seed": 0,
        "prefix": "",
        "turns": turns,
        "answer": "42",
        "raw_answer": "42",
        "answer_source": "boxed",
        "stop_reason": "answered",
        "error": None,
        "seconds": 3.0,
    }
    return Trace(**(values | fields))


def test_runs_errors_and_repairs_are_counted() -> None:
    signals = signals_of(
        trace(
            turn("a", run("oops", "name")),
            turn("b", run("oops", "name")),
            turn("c", run("42")),
            turn("\\boxed{42}"),
            started=2.0,
        )
    )
    assert (signals.num_code_runs, signals.num_code_errors, signals.num_repairs) == (3, 2, 1)
    assert signals.code_agrees is True
    assert signals.num_tokens == 40
    assert signals.finished_at == 5.0


def test_code_that_printed_something_else_differs() -> None:
    assert signals_of(trace(turn("a", run("41")), turn("\\boxed{42}"))).code_agrees is False


def test_the_last_good_cell_s_last_line_is_compared() -> None:
    turns = (turn("a", run("1\nans = 42.0\n")), turn("b", run("bad", "type")), turn("\\boxed{42}"))
    assert signals_of(trace(*turns)).code_agrees is True


def test_an_answer_that_was_reduced_still_agrees_with_its_code() -> None:
    turns = (turn("a", run("1042")), turn("\\boxed{1042}"))
    assert signals_of(trace(*turns, raw_answer="1042")).code_agrees is True


def test_without_code_nothing_is_known() -> None:
    signals = signals_of(trace(turn("\\boxed{42}")))
    assert signals.code_agrees is None
    assert signals.stability is None


def test_stability_is_the_part_of_earlier_answers_that_held() -> None:
    turns = (turn("\\boxed{41}", run("42")), turn("so \\boxed{42}, that is \\boxed{42}"))
    assert signals_of(trace(*turns)).stability == pytest.approx(2 / 3)


def test_those_without_an_answer_or_cut_as_unsure_do_not_vote() -> None:
    assert not signals_of(trace(answer=None, raw_answer=None, answer_source=None)).votes
    assert not signals_of(trace(stop_reason="unsure")).votes
    assert signals_of(trace()).votes


def test_shared_turns_have_the_same_numbers() -> None:
    shared = turn("a", run("1"))
    one = signals_of(trace(shared, turn("b")))
    other = signals_of(trace(shared, turn("c"), rollout=1, parent=0, num_shared_turns=1))
    assert one.path[0] == other.path[0]
    assert one.path[1] != other.path[1]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("42", "42.0", True),
        ("x = 42", "42", True),
        ("$42$.", "042", True),
        ("1,234", "1234", True),
        ("", "", False),
        ("41", "42", False),
        ("1/2", "0.5", False),
        (r"\frac{11}{2}", r"\frac{1}{12}", False),
        (r"\frac{ 11 }{2}", r"$\frac{11}2$", True),
        (r"\sqrt{2x}", r"\sqrt{2}x", False),
        (r"x^{2}", "x^2", True),
        ("1, 2", "12", False),
        ("1 2", "12", False),
        ("1,2", "12", False),
        ("(1, 2)", "(1,2)", True),
        (r"1,\!234", r"1\,234", True),
        (r"\{1{,}234\}", r"\{1234\}", True),
        ("x = 1, y = 2", "2", False),
        ("gcd(12, 18) = 6", "6", True),
        ("m+n = 10", "10", True),
        ("+7", "7", True),
        ("-7", "7", False),
        ("0.50", ".5", True),
        ("9" * 5000, "9" * 5000, True),
    ],
)
def test_same_text(a: str, b: str, same: bool) -> None:
    assert same_text(a, b) is same
