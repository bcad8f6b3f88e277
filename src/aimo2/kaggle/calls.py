"""A call and its reply as bytes, and the rows of a `predict` call. Knows no network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from google.protobuf.message import DecodeError

from aimo2.errors import ProtocolError
from aimo2.kaggle.messages import Request, Response
from aimo2.kaggle.payloads import Encoder, Value, decode

PREDICT = "predict"
ID_COLUMN = "id"
ANSWER_COLUMN = "answer"
STATEMENT_COLUMNS = ("problem", "question")


@dataclass(frozen=True, slots=True)
class Call:
    """A function's name and arguments, as the gateway sends them."""

    name: str
    args: Sequence[Value] = ()
    kwargs: Mapping[str, Value] = field(default_factory=dict)


def write_call(call: Call, encoder: Encoder) -> bytes:
    """Raises `ProtocolError` where a value cannot be sent."""
    data: bytes = Request(
        name=call.name,
        args=[encoder.encode(value) for value in call.args],
        kwargs={key: encoder.encode(value) for key, value in call.kwargs.items()},
    ).SerializeToString()
    return data


def read_call(data: bytes) -> tuple[str, Any]:
    """The name of the function, and the message with its arguments, still unread."""
    request = _parsed(Request, data, "request")
    return request.name, request


def read_arguments(request: Any) -> Call:
    """The arguments of what `read_call` gave. Raises `ProtocolError`."""
    args = [decode(payload) for payload in request.args]
    return Call(request.name, args, {key: decode(each) for key, each in request.kwargs.items()})


def write_reply(value: Value) -> bytes:
    """Raises `ProtocolError` where the value cannot be sent."""
    data: bytes = Response(payload=Encoder().encode(value)).SerializeToString()
    return data


def read_reply(data: bytes) -> Value:
    """Raises `ProtocolError`."""
    response = _parsed(Response, data, "reply")
    if not response.HasField("payload"):
        raise ProtocolError("the reply has no payload")
    return decode(response.payload)


def _parsed(kind: Any, data: bytes, name: str) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ProtocolError(f"a {name} of {len(data)} bytes is no message: {error}") from error


@dataclass(frozen=True, slots=True)
class Row:
    """A problem as it was asked. `id` keeps its type: the gateway compares it with its own."""

    id: Value
    statement: str


def rows(call: Call) -> list[Row]:
    """The problems of a `predict` call: a series for the ids, one for the statements.

    Columns are known by their names; where the names say nothing, by their order. A gateway that
    sends the whole row as one frame, or plain values, is understood, too. Raises `ProtocolError`
    where there is no statement.
    """
    columns = dict(_columns(call))
    if not columns:
        raise ProtocolError("predict was called without arguments; it needs id and problem")
    others = [name for name in columns if name != ID_COLUMN]
    statement = next((name for name in STATEMENT_COLUMNS if name in columns), None)
    if statement is None:
        if not others:
            raise ProtocolError("predict was called without a problem")
        statement = others[0] if ID_COLUMN in columns or len(others) == 1 else others[1]
    ids = columns.get(ID_COLUMN)
    if ids is None:
        ids = next((columns[name] for name in others if name != statement), None)
    statements = columns[statement]
    if ids is None:
        ids = [""] * len(statements)
    if len(ids) != len(statements):
        raise ProtocolError(f"predict was called with {len(ids)} ids, {len(statements)} problems")
    return [Row(one, _text(text)) for one, text in zip(ids, statements, strict=True)]


def _columns(call: Call) -> Iterator[tuple[str, list[Value]]]:
    """Every column of the call with a name; nameless ones get their position as a name."""
    named = [(str(at), value) for at, value in enumerate(call.args)]
    taken: set[str] = set()  # pandas calls every nameless series "0"
    for name, value in [*named, *call.kwargs.items()]:
        if isinstance(value, pl.DataFrame):
            yield from ((series.name, series.to_list()) for series in value)
        elif isinstance(value, pl.Series):
            own = value.name and value.name not in taken and name not in call.kwargs
            taken.add(label := value.name if own else name)
            yield label, value.to_list()
        elif isinstance(value, np.ndarray):
            yield name, value.ravel().tolist()
        elif isinstance(value, list | tuple):
            yield name, list(value)
        else:
            yield name, [value]


def _text(value: Value) -> str:
    """A statement that is none is empty, and not an error: its row needs an answer, too."""
    return "" if value is None else str(value)


def answers_frame(ids: Sequence[Value], answers: Sequence[int] | Sequence[str]) -> pl.DataFrame:
    """What `predict` returns: `id` as it came, and `answer`."""
    return pl.DataFrame({ID_COLUMN: list(ids), ANSWER_COLUMN: list(answers)}, strict=False)
