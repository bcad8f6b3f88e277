"""Python values to `Payload` messages and back: every type that the protocol has.

Knows no calls and no network. pandas need not be installed: its frames and series travel as
Parquet, which polars reads and writes too.
"""

import io
import math
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from aimo2.errors import ProtocolError
from aimo2.kaggle import tables
from aimo2.kaggle.messages import Payload, PayloadList, PayloadMap
from aimo2.kaggle.tables import SeriesForm

MAX_DEPTH = 24
"""Lists in lists. protobuf itself reads 100 messages in messages; a dict in a dict costs three."""

Value: TypeAlias = Any
"""`str`, `bool`, `int`, `float`, `None`, `bytes`; `list`, `tuple`, `dict` with `str` keys of
values; polars and pandas frames and series; numpy arrays, numbers and booleans."""


_SCALAR_KINDS = "biufc"
"""Booleans, integers, unsigned, floats, complex numbers: what the competition's ends take."""


@dataclass(frozen=True, slots=True)
class AsPandas:
    """A polars frame or series that goes onto the wire as one of pandas."""

    data: pl.DataFrame | pl.Series


@dataclass(frozen=True, slots=True)
class Encoder:
    """Values to messages. `series`: the form that the other end reads, where it is a server."""

    series: SeriesForm = "parquet"

    def encode(self, value: Value) -> Any:
        """The value as a `Payload`.

        A `float` is cut to 32 bits, which is all that the protocol has. Raises `ProtocolError` for
        a value that it has no place for: another type, an integer above 64 bits, a float above 32.
        """
        return self._encode(value, MAX_DEPTH)

    def _encode(self, value: Value, depth: int) -> Any:
        if depth == 0:
            raise ProtocolError(f"the value is nested more than {MAX_DEPTH} deep")
        # numpy first: np.float64 is a float, too. bool before int: True is an int.
        if isinstance(value, np.generic):
            return Payload(numpy_scalar_value=_scalar(value))
        if isinstance(value, list | tuple | dict):
            return self._nested(value, depth - 1)
        return self._leaf(value)

    def _nested(
        self, value: "list[Value] | tuple[Value, ...] | dict[str, Value]", depth: int
    ) -> Any:
        if isinstance(value, dict):
            bad = next((key for key in value if not isinstance(key, str)), None)
            if bad is not None:
                raise ProtocolError(f"a dict's keys must be str, not {bad!r}")
            items = {_text(key): self._encode(each, depth) for key, each in value.items()}
            return Payload(dict_value=PayloadMap(payload_map=items))
        payloads = PayloadList(payloads=[self._encode(each, depth) for each in value])
        if isinstance(value, tuple):
            return Payload(tuple_value=payloads)
        return Payload(list_value=payloads)

    def _leaf(self, value: Value) -> Any:
        match value:
            case None:
                return Payload(none_value=True)
            case str():
                return Payload(str_value=_text(value))
            case bool():
                return Payload(bool_value=value)
            case int():
                return Payload(int_value=_integer(value))
            case float():
                return Payload(float_value=_single(value))
            case bytes() | bytearray() | memoryview():
                return Payload(bytes_io_value=bytes(value))
            case io.BytesIO():
                return Payload(bytes_io_value=value.getvalue())
            case np.ndarray():
                return Payload(numpy_array_value=tables.write_array(value))
            case _:
                return self._table(value)

    def _table(self, value: Value) -> Any:
        match value:
            case pl.DataFrame():
                return Payload(polars_dataframe_value=tables.write_ipc(value))
            case pl.Series():
                return Payload(polars_series_value=tables.write_series(value, self.series))
            case AsPandas(pl.DataFrame() as frame):
                return Payload(pandas_dataframe_value=tables.write_parquet(frame))
            case AsPandas(pl.Series() as series):
                return Payload(pandas_series_value=tables.write_parquet(series.to_frame()))
        pandas = sys.modules.get("pandas")  # a value of its types cannot be here without it
        if pandas is not None and isinstance(value, pandas.DataFrame):
            return Payload(pandas_dataframe_value=tables.write_pandas(value))
        if pandas is not None and isinstance(value, pandas.Series):
            return Payload(pandas_series_value=tables.write_pandas(value.to_frame()))
        raise ProtocolError(f"values of type {type(value).__qualname__} cannot be sent")


def decode(payload: Any, *, pandas: bool = False) -> Value:
    """The value of a `Payload`. `pandas`: give its frames and series as such, not as polars'.

    Raises `ProtocolError` for a payload that is empty, newer than this protocol, or damaged.
    """
    return _decode(payload, pandas, MAX_DEPTH)


def _decode(payload: Any, pandas: bool, depth: int) -> Value:
    if depth == 0:
        raise ProtocolError(f"a value is nested more than {MAX_DEPTH} deep")
    kind = payload.WhichOneof("value")
    if kind is None:
        raise ProtocolError("a payload has no value, or one of a kind that is newer than this")
    content = getattr(payload, kind)
    if kind in ("list_value", "tuple_value"):
        values = [_decode(each, pandas, depth - 1) for each in content.payloads]
        return tuple(values) if kind == "tuple_value" else values
    if kind == "dict_value":
        return {key: _decode(each, pandas, depth - 1) for key, each in content.payload_map.items()}
    if pandas and kind in _PANDAS_READERS:
        return _PANDAS_READERS[kind](content)
    return _READERS[kind](content) if kind in _READERS else content


def _read_scalar(data: bytes) -> np.generic:
    array: Any = tables.read_array(data)
    if array.shape != () or array.dtype.kind not in _SCALAR_KINDS:
        raise ProtocolError("a numpy scalar must be one number or boolean")
    scalar: np.generic = array[()]
    return scalar


def _read_pandas_series(data: bytes) -> Value:
    frame = tables.read_pandas(data)
    if len(frame.columns) != 1:
        raise ProtocolError(f"a series must have one column; this has {len(frame.columns)}")
    return frame[frame.columns[0]]


_READERS: dict[str, Callable[[Any], Value]] = {
    "none_value": lambda _: None,
    "pandas_dataframe_value": tables.read_parquet,
    "polars_dataframe_value": tables.read_ipc,
    "pandas_series_value": tables.read_series,
    "polars_series_value": tables.read_series,
    "numpy_array_value": tables.read_array,
    "numpy_scalar_value": _read_scalar,
}
"""Of the kinds whose content is not the value itself."""

_PANDAS_READERS: dict[str, Callable[[Any], Value]] = {
    "pandas_dataframe_value": tables.read_pandas,
    "pandas_series_value": _read_pandas_series,
}


def _scalar(value: np.generic) -> bytes:
    if value.dtype.kind not in _SCALAR_KINDS:
        raise ProtocolError(f"numpy values of type {type(value).__name__} cannot be sent")
    return tables.write_array(value)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ProtocolError(f"a text that is not Unicode cannot be sent: {error}") from error
    return value


def _integer(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ProtocolError("an integer of more than 64 bits cannot be sent; send it as text")
    return value


def _single(value: float) -> float:
    if math.isfinite(value):
        try:
            struct.pack("<f", value)
        except OverflowError as error:
            raise ProtocolError(f"{value!r} does not fit the protocol's 32-bit float") from error
    return value
