"""The gateway's rules, order and record, with a server that is a function."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from aimo2.errors import GatewayError, InputError
from aimo2.kaggle.gateway import (
    RECORD_NAME,
    GatewayRecord,
    Reply,
    Score,
    checked_answer,
    ordered,
    run,
    score,
    submission,
)
from aimo2.types import Problem

PROBLEMS = [Problem(id=f"p{i}", statement=f"What is {i}+{i}?", gold=str(2 * i)) for i in range(5)]


@dataclass
class Server:
    """Answers with what `reply` makes of the id; keeps what it was asked."""

    reply: Callable[[str], Any]
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        ids, statements = args
        assert (name, len(ids), len(statements)) == ("predict", 1, 1)
        assert ids.name == "id"
        self.asked.append((ids.item(), statements.item(), statements.name))
        return self.reply(ids.item())


@dataclass
class Watching:
    lines: list[str] = field(default_factory=list)

    def asked(self, problem: Problem, number: int, total: int) -> None:
        self.lines.append(f"{problem.id}?")

    def answered(self, reply: Reply, number: int, total: int) -> None:
        self.lines.append(f"{reply.id}={reply.answer} {number}/{total}")


def twice(id_: str) -> pl.DataFrame:
    return pl.DataFrame({"id": [id_], "answer": [2 * int(id_[1:])]})


def test_every_problem_is_asked_once_with_its_row(tmp_path: Path) -> None:
    server, watching = Server(twice), Watching()
    with GatewayRecord(tmp_path, PROBLEMS) as record:
        run(PROBLEMS, server, record, watching, column="question")
        assert [reply.answer for reply in record.replies.values()] == [0, 2, 4, 6, 8]
    assert server.asked[3] == ("p3", "What is 3+3?", "question")
    assert watching.lines[:3] == ["p0?", "p0=0 1/5", "p1?"]


def test_the_order_is_the_files_or_a_seeds() -> None:
    assert ordered(PROBLEMS, "file", 3) == PROBLEMS
    shuffled = ordered(PROBLEMS, "random", 3)
    assert shuffled == ordered(PROBLEMS, "random", 3) != ordered(PROBLEMS, "random", 4)
    assert sorted(shuffled, key=lambda problem: problem.id) == PROBLEMS
    assert any(ordered(PROBLEMS, "random", None) != PROBLEMS for _ in range(20))


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (pl.DataFrame({"id": ["p1"], "answer": [5]}), 5),
        (pl.DataFrame({"answer": ["1/2"], "id": ["p1"], "more": [1]}), "1/2"),
        (pl.DataFrame({"id": ["p1"], "answer": [5.0]}), 5.0),
        (7, 7),
        ("7", "7"),
        (np.int64(7), 7),
    ],
)
def test_what_the_competition_takes_is_taken(reply: Any, answer: Any) -> None:
    assert checked_answer("p1", reply) == answer


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (None, "returned nothing"),
        (pl.DataFrame({"id": ["p2"], "answer": [5]}), "for another id, 'p2'"),
        (pl.DataFrame({"id": ["p1", "p1"], "answer": [5, 6]}), "expected 1 row, got 2"),
        (pl.DataFrame({"id": [], "answer": []}), "expected 1 row, got 0"),
        (pl.DataFrame({"id": ["p1"], "Answer": [5]}), "no column 'answer'; the frame has id, Ans"),
        (pl.DataFrame({"answer": [5]}), "no column 'id'"),
        (pl.DataFrame({"id": ["p1"], "answer": [None]}), "the answer is null"),
        (pl.DataFrame({"id": ["p1"], "answer": [[5]]}), "the answer is a list"),
        (pl.DataFrame({"id": ["p1"], "answer": [True]}), "the answer is a bool"),
        (pl.DataFrame({"id": ["p1"], "answer": [math.nan]}), "the answer is nan, no number"),
        (math.inf, "the answer is inf, no number"),
        (np.float64("nan"), "the answer is nan"),
        ([5], "returned a list, not a frame"),
        (True, "returned a bool"),
        (pl.Series("answer", [5]), "returned a Series"),
    ],
)
def test_what_the_competition_refuses_is_refused_by_its_name(reply: Any, words: str) -> None:
    with pytest.raises(GatewayError, match=words) as caught:
        checked_answer("p1", reply)
    assert caught.value.kind == "INVALID_SUBMISSION"
    assert str(caught.value).startswith("problem p1: ")


def test_a_run_that_broke_off_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    def breaking(id_: str) -> pl.DataFrame:
        if id_ == "p3":
            raise GatewayError("SERVER_CONNECTION_FAILED", "hung up")
        return twice(id_)

    with GatewayRecord(tmp_path, PROBLEMS) as record, pytest.raises(GatewayError, match="hung up"):
        run(PROBLEMS, Server(breaking), record, Watching())
    server = Server(twice)
    with GatewayRecord(tmp_path, PROBLEMS) as record:
        assert list(record.replies) == ["p0", "p1", "p2"]
        run(ordered(PROBLEMS, "random", 1), server, record, Watching())
        replies = dict(record.replies)
    assert {id_ for id_, _, _ in server.asked} == {"p3", "p4"}
    assert score(PROBLEMS, replies) == Score(5, 5, 5)


def test_a_torn_record_is_cut_off_and_its_problem_asked_again(tmp_path: Path) -> None:
    with GatewayRecord(tmp_path, PROBLEMS) as record:
        run(PROBLEMS, Server(twice), record, Watching())
    path = tmp_path / RECORD_NAME
    path.write_bytes(path.read_bytes()[:-5])
    with GatewayRecord(tmp_path, PROBLEMS) as record:
        assert len(record.replies) == 4
        assert "torn" in record.repaired[0]


def test_answers_of_other_problems_are_not_mixed_in(tmp_path: Path) -> None:
    with GatewayRecord(tmp_path, PROBLEMS):
        pass
    with pytest.raises(InputError, match="a run of other problems"):
        GatewayRecord(tmp_path, PROBLEMS[1:])
    with GatewayRecord(tmp_path, PROBLEMS):  # the refusal did not keep the record locked
        pass


def test_two_gateways_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        GatewayRecord(tmp_path, PROBLEMS),
        pytest.raises(InputError, match="another process is writing"),
    ):
        GatewayRecord(tmp_path, PROBLEMS)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder"):
        GatewayRecord(tmp_path / "file" / "out", PROBLEMS)


def replies(*answers: int | float | str) -> dict[str, Reply]:
    pairs = zip(PROBLEMS, answers, strict=False)
    return {p.id: Reply(id=p.id, answer=answer, seconds=1.0) for p, answer in pairs}


def test_a_submission_has_one_row_a_problem_in_the_files_order() -> None:
    frame = submission(PROBLEMS[:2], dict(reversed(replies(3, 4).items())))
    assert frame.to_dict(as_series=False) == {"id": ["p0", "p1"], "answer": [3, 4]}
    mixed = submission(PROBLEMS[:2], replies(3, "\\frac12"))
    assert mixed["answer"].to_list() == ["3", "\\frac12"]


@pytest.mark.parametrize(
    ("answers", "modulus", "right"),
    [
        ((0, 2, 4, 6, 8), None, 5),
        ((0, 2, 5), None, 2),
        ((1000, 2002), 1000, 2),
        ((1000, 2002), None, 0),
        ((0.0, "2", "\\frac{8}{2}"), None, 3),
        ((0.5, "x"), 10, 0),
        ((), None, 0),
    ],
)
def test_the_score_compares_values(answers: Any, modulus: int | None, right: int) -> None:
    assert score(PROBLEMS, replies(*answers), modulus) == Score(right, 5, 5)


def test_problems_without_a_gold_are_not_graded() -> None:
    bare = [problem.model_copy(update={"gold": None}) for problem in PROBLEMS]
    assert score(bare, replies(1, 2)) == Score(0, 0, 5)
