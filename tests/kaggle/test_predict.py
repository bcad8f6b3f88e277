"""`predict`: always one answer a row, in time, on a virtual clock."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl
import pytest

from aimo2.errors import ProtocolError
from aimo2.kaggle.calls import Call
from aimo2.kaggle.predict import PredictEndpoint
from aimo2.types import Problem
from tests.virtual import run_virtual


@dataclass
class Scripted:
    """Answers after so many seconds; a text that is an exception's name raises it."""

    seconds: float = 0.0
    answer: str = "42"
    asked: list[Problem] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    async def predict(self, problem: Problem, within: float | None = None) -> str:
        self.asked.append(problem)
        await asyncio.sleep(self.seconds)
        if self.answer == "ZeroDivisionError":
            raise ZeroDivisionError("division by zero")
        self.finished.append(problem.id)
        return self.answer

    def best(self, problem: Problem) -> str:
        return "13"


def call(*ids: object) -> Call:
    return Call("predict", [pl.Series("id", list(ids)), pl.Series("problem", ["What?"] * len(ids))])


def answered(
    who: Scripted,
    asked: Call,
    *,
    limit: float | None = None,
    patience: float | None = None,
    integers: bool = True,
    notify: Callable[[str], None] = lambda line: None,
) -> tuple[pl.DataFrame, float]:
    """The frame, and the virtual seconds that it took."""

    async def main() -> tuple[pl.DataFrame, float]:
        endpoint = PredictEndpoint(who, notify, limit=limit, integers=integers)
        frame = await endpoint(asked, patience)
        seconds = asyncio.get_running_loop().time()
        await endpoint.close()
        return frame, seconds

    return run_virtual(main())


def test_an_answer_is_one_row_with_the_id_as_it_came() -> None:
    frame, _ = answered(Scripted(), call(7))
    assert frame.to_dict(as_series=False) == {"id": [7], "answer": [42]}
    assert frame.schema["answer"] == pl.Int64


def test_expressions_are_texts() -> None:
    frame, _ = answered(Scripted(answer="\\sqrt{2}"), call("a"), integers=False)
    assert frame["answer"].to_list() == ["\\sqrt{2}"]


@pytest.mark.parametrize("answer", ["\\sqrt{2}", "1" * 30, ""])
def test_what_is_no_number_is_0_where_numbers_are_wanted(answer: str) -> None:
    frame, _ = answered(Scripted(answer=answer), call("a"))
    assert frame["answer"].to_list() == [0]


@pytest.mark.parametrize(
    ("limit", "patience", "latest"),
    [(60.0, None, 60.0), (None, 30.0, 30.0), (60.0, 30.0, 30.0), (30.0, 60.0, 30.0)],
)
def test_the_best_guess_is_sent_before_the_caller_gives_up(
    limit: float | None, patience: float | None, latest: float
) -> None:
    heard: list[str] = []
    frame, seconds = answered(
        Scripted(seconds=3600), call("a"), limit=limit, patience=patience, notify=heard.append
    )
    assert frame["answer"].to_list() == [13]
    assert latest - 1 <= seconds < latest
    assert "the limit came before the answer" in heard[0]


def test_without_a_limit_an_answer_may_take_its_time() -> None:
    frame, seconds = answered(Scripted(seconds=86_400), call("a"))
    assert (frame["answer"].item(), seconds) == (42, 86_400)


def test_a_limit_that_is_over_gives_a_guess_at_once() -> None:
    frame, seconds = answered(Scripted(seconds=5), call("a"), patience=0.0)
    assert (frame["answer"].item(), seconds) == (13, 0.0)


def test_an_exception_becomes_a_guess_and_a_line() -> None:
    heard: list[str] = []
    frame, _ = answered(Scripted(answer="ZeroDivisionError"), call("a"), notify=heard.append)
    assert frame["answer"].to_list() == [13]
    assert heard == ["[a] ZeroDivisionError: division by zero; a guess is sent"]


def test_rows_share_the_time_and_saved_time_is_passed_on() -> None:
    who = Scripted(seconds=3600)
    frame, seconds = answered(who, call("a", "b", "c"), limit=90.0)
    assert frame["answer"].to_list() == [13, 13, 13]
    assert 89 <= seconds < 90
    frame, seconds = answered(Scripted(seconds=29), call("a", "b", "c"), limit=90.0)
    assert (frame["answer"].to_list(), seconds) == ([42, 42, 42], 87)


@pytest.mark.parametrize("statement", [None, "", " \n"])
def test_a_row_without_a_statement_has_a_guess_at_once(statement: str | None) -> None:
    who, heard = Scripted(), list[str]()
    columns = [pl.Series("id", ["a"]), pl.Series("problem", [statement], dtype=pl.String)]
    frame, _ = answered(who, Call("predict", columns), notify=heard.append)
    assert frame.rows() == [("a", 13)]
    assert heard == ["[a] was asked without a statement; a guess is sent"]
    assert who.asked == []


def test_no_rows_are_no_answers() -> None:
    assert answered(Scripted(), call())[0].height == 0


def test_a_caller_that_hangs_up_leaves_the_question_going() -> None:
    who = Scripted(seconds=10)

    async def main() -> None:
        endpoint = PredictEndpoint(who, lambda line: None, limit=60)
        caller = asyncio.create_task(endpoint(call("a"), None))
        await asyncio.sleep(1)
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        assert who.finished == []
        await asyncio.sleep(10)

    run_virtual(main())
    assert who.finished == ["a"]


def test_a_problem_without_an_id_gets_one_that_is_always_the_same() -> None:
    who = Scripted()
    for text in ("x", "y", "x"):
        answered(who, Call("predict", [pl.Series("problem", [text])]))
    first, other, again = (problem.id for problem in who.asked)
    assert first.startswith("unnamed-")
    assert first == again != other


def test_a_call_without_a_problem_is_refused() -> None:
    with pytest.raises(ProtocolError, match="without a problem"):
        answered(Scripted(), Call("predict", [pl.Series("id", ["a"])]))
