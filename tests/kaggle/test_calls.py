"""Calls and replies as bytes, and what a `predict` call asks, however the gateway words it."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from aimo2.errors import ProtocolError
from aimo2.kaggle.calls import (
    Call,
    Row,
    answers_frame,
    read_arguments,
    read_call,
    read_reply,
    rows,
    write_call,
    write_reply,
)
from aimo2.kaggle.payloads import Encoder
from tests.kaggle import wire


def test_a_call_is_exactly_the_bytes_of_the_specification() -> None:
    call = Call("predict", [1, "a"], {"flag": True})
    data = wire.request(
        "predict", wire.integer(1), wire.field(1, "a"), flag=wire.number_field(2, 1)
    )
    assert write_call(call, Encoder()) == data
    name, request = read_call(data)
    assert (name, read_arguments(request)) == ("predict", call)


def test_a_reply_is_exactly_the_bytes_of_the_specification() -> None:
    assert write_reply(7) == wire.response(wire.integer(7))
    assert read_reply(wire.response(wire.field(1, "seven"))) == "seven"


def test_fields_of_a_newer_protocol_are_passed_over() -> None:
    name, request = read_call(wire.request("predict", wire.integer(1)) + wire.field(9, "new"))
    assert (name, read_arguments(request).args) == ("predict", [1])


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", wire.field(1, b"\xff\xfe")])
def test_bytes_that_are_no_message_are_named(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="is no message"):
        read_call(data)
    with pytest.raises(ProtocolError, match="reply"):
        read_reply(data)


def test_a_reply_without_a_payload_is_named() -> None:
    with pytest.raises(ProtocolError, match="no payload"):
        read_reply(b"")


ID, TEXT = pl.Series("id", ["a1"]), pl.Series("problem", ["What?"])


@pytest.mark.parametrize(
    "call",
    [
        Call("predict", [ID, TEXT]),
        Call("predict", [TEXT, ID]),
        Call("predict", [ID, TEXT.alias("question")]),
        Call("predict", [ID.alias("x"), TEXT.alias("y")]),
        Call("predict", [ID.alias(""), TEXT.alias("")]),
        Call("predict", [ID.alias("0"), TEXT.alias("0")]),
        Call("predict", [], {"id": ID.alias("x"), "problem": TEXT.alias("y")}),
        Call("predict", [ID], {"question": TEXT.alias("")}),
        Call("predict", [pl.DataFrame([ID, TEXT])]),
        Call("predict", [pl.DataFrame([ID, TEXT, pl.Series("extra", [3])])]),
        Call("predict", ["a1", "What?"]),
        Call("predict", [["a1"], ["What?"]]),
        Call("predict", [np.array(["a1"]), np.array(["What?"])]),
    ],
)
def test_a_problem_is_understood_however_it_is_worded(call: Call) -> None:
    assert rows(call) == [Row("a1", "What?")]


def test_a_single_text_is_a_problem_without_an_id() -> None:
    assert rows(Call("predict", [TEXT])) == [Row("", "What?")]


def test_ids_keep_their_type() -> None:
    assert rows(Call("predict", [pl.Series("id", [17]), TEXT])) == [Row(17, "What?")]
    frame = answers_frame([17], [5])
    assert_frame_equal(frame, pl.DataFrame({"id": [17], "answer": [5]}))


def test_several_rows_are_several_problems() -> None:
    call = Call("predict", [pl.Series("id", ["a", "b"]), pl.Series("problem", ["x", "y"])])
    assert rows(call) == [Row("a", "x"), Row("b", "y")]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (Call("predict"), "without arguments"),
        (Call("predict", [ID]), "without a problem"),
        (Call("predict", [pl.Series("id", ["a", "b"]), TEXT]), "2 ids, 1 problems"),
    ],
)
def test_a_call_without_a_problem_is_named(call: Call, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        rows(call)


def test_a_frame_of_texts_stays_one() -> None:
    answers: list[Any] = ["\\frac{1}{2}"]
    assert answers_frame(["a"], answers).schema == {"id": pl.String, "answer": pl.String}
