"""Every kind of value, both ways, against bytes that were written without our code."""

import importlib
import io
import json
import math
import pickle
import struct
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal

from aimo2.errors import ProtocolError
from aimo2.kaggle import tables
from aimo2.kaggle.messages import Payload
from aimo2.kaggle.payloads import MAX_DEPTH, AsPandas, Encoder, decode
from aimo2.kaggle.tables import SeriesForm
from tests.kaggle import wire

FRAME = pl.DataFrame({"id": ["a", "b"], "n": [1, None], "x": [0.5, -2.0]})
SERIES = pl.Series("problem", ["What is $1+1$?", None])


def sent(value: Any, **options: Any) -> bytes:
    data: bytes = Encoder(**options).encode(value).SerializeToString()
    return data


def read(data: bytes, **options: Any) -> Any:
    return decode(Payload.FromString(data), **options)


def ipc(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(buffer, table.schema, options=options) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="lz4")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("", wire.field(1, "")),
        ("Ωmega \U0001f4a1", wire.field(1, "Ωmega \U0001f4a1")),
        (True, wire.number_field(2, 1)),
        (False, wire.number_field(2, 0)),
        (0, wire.integer(0)),
        (-1, wire.integer(-1)),
        (2**63 - 1, wire.integer(2**63 - 1)),
        (-(2**63), wire.integer(-(2**63))),
        (0.5, wire.single(0.5)),
        (-math.inf, wire.single(-math.inf)),
        (None, wire.number_field(5, 1)),
        ([], wire.sequence(6)),
        ([1, "a"], wire.sequence(6, wire.integer(1), wire.field(1, "a"))),
        ((), wire.sequence(7)),
        (([None],), wire.sequence(7, wire.sequence(6, wire.number_field(5, 1)))),
        ({}, wire.mapping()),
        ({"k": (2,)}, wire.mapping(k=wire.sequence(7, wire.integer(2)))),
        (b"\x00\xff", wire.field(15, b"\x00\xff")),
    ],
)
def test_plain_values_are_exactly_the_bytes_of_the_specification(value: Any, data: bytes) -> None:
    assert sent(value) == data
    back = read(data)
    assert back == value
    assert type(back) is type(value)


def test_none_is_none_whatever_its_payload_says() -> None:
    assert read(wire.number_field(5, 0)) is None


def test_a_float_keeps_32_bits_and_not_a_number_stays_one() -> None:
    assert read(sent(0.1)) == struct.unpack("<f", struct.pack("<f", 0.1))[0]
    assert math.isnan(read(sent(math.nan)))


def test_a_polars_frame_is_an_arrow_stream_with_lz4() -> None:
    content = wire.only(sent(FRAME), 10)
    assert_frame_equal(pl.DataFrame(pa.ipc.open_stream(content).read_all()), FRAME)
    table = pa.table({"id": ["a", "b"], "n": [1, None], "x": [0.5, -2.0]})
    assert_frame_equal(read(wire.field(10, ipc(table))), FRAME)


def test_lz4_makes_a_repetitive_frame_small() -> None:
    assert len(sent(pl.DataFrame({"x": [7] * 100_000}))) < 10_000


def test_a_polars_series_is_parquet_or_an_arrow_stream_of_one_column() -> None:
    content = wire.only(sent(SERIES), 12)
    assert pq.read_table(io.BytesIO(content)).to_pydict() == SERIES.to_frame().to_dict(
        as_series=False
    )
    newer = wire.only(sent(SERIES, series="ipc"), 12)
    assert pa.ipc.open_stream(newer).read_all().column_names == ["problem"]
    table = pa.table({"problem": SERIES.to_list()})
    for theirs in (ipc(table), parquet(table)):
        assert_series_equal(read(wire.field(12, theirs)), SERIES)


@pytest.mark.parametrize("form", ["parquet", "ipc"])
def test_a_nameless_series_stays_nameless(form: SeriesForm) -> None:
    series = decode(Encoder(form).encode(pl.Series(["x"])))
    assert (series.name, series.to_list()) == ("", ["x"])


def test_pandas_frames_and_series_are_read_without_pandas_and_without_their_index() -> None:
    described = {"index_columns": ["__index_level_0__"], "columns": []}
    table = pa.table({"answer": [7, 8], "__index_level_0__": ["p", "q"]})
    table = table.replace_schema_metadata({b"pandas": json.dumps(described).encode()})
    frame = read(wire.field(9, parquet(table)))
    assert_frame_equal(frame, pl.DataFrame({"answer": [7, 8]}))
    series = read(wire.field(11, parquet(table)))
    assert_series_equal(series, pl.Series("answer", [7, 8]))


def test_a_range_index_of_pandas_is_no_column() -> None:
    ranged = {"kind": "range", "name": None, "start": 0, "stop": 1, "step": 1}
    metadata = {b"pandas": json.dumps({"index_columns": [ranged]}).encode()}
    table = pa.table({"a": [1]}).replace_schema_metadata(metadata)
    assert read(wire.field(9, parquet(table))).columns == ["a"]


def test_polars_data_can_go_out_as_pandas() -> None:
    for number, value in ((9, FRAME), (11, SERIES)):
        content = wire.only(sent(AsPandas(value)), number)
        assert pq.read_table(io.BytesIO(content)).num_rows == 2


def test_pandas_itself_is_read_and_written() -> None:
    pandas = importlib.import_module("pandas")
    frame = pandas.DataFrame({"id": ["a"], "answer": [3]}, index=["row"])
    content = wire.only(sent(frame), 9)
    assert pq.read_table(io.BytesIO(content)).column_names == ["id", "answer"]
    assert list(pandas.read_parquet(io.BytesIO(content)).index) == [0]
    assert read(sent(frame), pandas=True).to_dict("list") == {"id": ["a"], "answer": [3]}
    series = read(sent(pandas.Series([1, 2], name="n")), pandas=True)
    assert (type(series), series.name, list(series)) == (pandas.Series, "n", [1, 2])


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (np.array([1, -2], dtype="<i4"), wire.npy("<i4", (2,), struct.pack("<2i", 1, -2))),
        (np.array([[0.5]], dtype="<f8"), wire.npy("<f8", (1, 1), struct.pack("<d", 0.5))),
        (np.array(3, dtype="<i8"), wire.npy("<i8", (), struct.pack("<q", 3))),
        (np.array(["ab"], dtype="<U2"), wire.npy("<U2", (1,), "ab".encode("utf-32-le"))),
        (np.zeros((0, 3), dtype="<i8"), wire.npy("<i8", (0, 3), b"")),
    ],
)
def test_arrays_are_npy_files(value: Any, data: bytes) -> None:
    content = wire.only(sent(value), 13)
    assert np.array_equal(np.load(io.BytesIO(content), allow_pickle=False), value)
    back = read(wire.field(13, data))
    assert np.array_equal(back, value)
    assert (back.dtype, back.shape) == (value.dtype, value.shape)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (np.int64(-5), wire.npy("<i8", (), struct.pack("<q", -5))),
        (np.float64(1.5), wire.npy("<f8", (), struct.pack("<d", 1.5))),
        (np.bool_(True), wire.npy("|b1", (), b"\x01")),
    ],
)
def test_numpy_scalars_keep_their_type(value: Any, data: bytes) -> None:
    assert wire.only(sent(value), 14)
    back = read(wire.field(14, data))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2**63, "more than 64 bits"),
        (1e39, "32-bit float"),
        ("\ud800", "not Unicode"),
        ({1: 2}, "keys must be str, not 1"),
        ({"\udfff": 2}, "not Unicode"),
        ({1, 2}, "type set cannot be sent"),
        (object(), "type object cannot be sent"),
        (np.str_("a"), "numpy values of type str_"),
        (np.array([{}], dtype=object), "the array cannot be sent"),
        (pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)}), "column 'o' has type"),
        (AsPandas(pl.DataFrame({"o": pl.Series([set()], dtype=pl.Object)})), "column 'o'"),
    ],
)
def test_what_has_no_place_in_the_protocol_is_named(value: Any, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        sent(value)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = {"k": value} if level % 2 else [value]
    return value


def test_values_may_be_nested_up_to_a_bound() -> None:
    assert read(sent(nested(MAX_DEPTH - 1))) == nested(MAX_DEPTH - 1)
    with pytest.raises(ProtocolError, match="nested more than"):
        sent(nested(MAX_DEPTH))
    deeper = sent(nested(MAX_DEPTH - 1))
    with pytest.raises(ProtocolError, match="nested more than"):
        read(wire.sequence(6, deeper))


def test_a_message_that_is_nested_without_end_is_refused() -> None:
    data = wire.integer(1)
    for _ in range(5_000):
        data = wire.sequence(6, data)
    with pytest.raises((ProtocolError, DecodeError)):
        read(data)


TABLE = pa.table({"id": ["a"] * 50, "n": list(range(50))})


@pytest.mark.parametrize("content", [b"", b"PAR1", b"nonsense", b"\xff" * 64, ipc(TABLE)[:90]])
@pytest.mark.parametrize("number", [9, 10, 11, 12, 13, 14])
def test_damaged_content_is_one_error(number: int, content: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(wire.field(number, content))


@settings(deadline=None)
@given(st.data())
def test_a_table_with_changed_bytes_never_does_worse_than_an_error(data: st.DataObject) -> None:
    number, content = data.draw(st.sampled_from([(10, ipc(TABLE)), (9, parquet(TABLE))]))
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] = data.draw(st.integers(0, 255))
    try:
        frame = read(wire.field(number, bytes(changed)))
    except ProtocolError:
        return
    frame.to_dicts()


def test_offsets_outside_of_their_buffer_are_not_followed() -> None:
    buffer = io.BytesIO()
    table = pa.table({"a": pa.array(["abcd"], pa.string())})
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    good, bad = struct.pack("<2i4s", 0, 4, b"abcd"), struct.pack("<2i4s", 0, 2**30, b"abcd")
    assert buffer.getvalue().count(good) == 1
    with pytest.raises(ProtocolError, match="Arrow stream"):
        read(wire.field(10, buffer.getvalue().replace(good, bad)))


@pytest.mark.parametrize(
    ("number", "data", "words"),
    [
        (13, wire.npy("<i8", (2**40,), b"\x00" * 8), "claims 8796093022208 bytes, 8 follow"),
        (13, wire.npy("<i8", (1,), b"\x00" * 16), "claims 8 bytes, 16 follow"),
        (13, wire.npy("|O", (1,), pickle.dumps([1])), "unpickled"),
        (13, wire.npy("<i8", (-1,), b""), "array cannot be read"),
        (14, wire.npy("<i8", (1,), b"\x00" * 8), "must be one number"),
        (14, wire.npy("<U1", (), b"a\x00\x00\x00"), "must be one number"),
        (13, b"\x93NUMPY\x09\x00" + b"\x00" * 80, "array cannot be read"),
    ],
)
def test_hostile_arrays_are_refused_before_memory_is_taken(
    number: int, data: bytes, words: str
) -> None:
    with pytest.raises(ProtocolError, match=words):
        read(wire.field(number, data))


def test_a_table_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_BYTES", 10_000)
    table = pa.table({"x": np.arange(10_000) % 3})
    for number, content in ((9, parquet(table)), (10, ipc(table))):
        with pytest.raises(ProtocolError, match="unpacks to"):
            read(wire.field(number, content))


def test_a_series_of_two_columns_is_refused() -> None:
    with pytest.raises(ProtocolError, match="one column; this has 2"):
        read(wire.field(12, parquet(TABLE)))


def test_an_empty_payload_and_a_newer_kind_are_named() -> None:
    for data in (b"", wire.field(16, b"x")):
        with pytest.raises(ProtocolError, match="newer than this"):
            read(data)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(width=32, allow_nan=False)
    | st.text()
    | st.binary()
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=25,
)


def exact(value: Any) -> Any:
    """The value with its types, as 1 == True == 1.0, and without its dicts' order."""
    match value:
        case list() | tuple():
            return type(value), [exact(each) for each in value]
        case dict():
            return {key: exact(each) for key, each in value.items()}
        case _:
            return type(value), value


@settings(deadline=None)
@given(NESTED)
def test_any_nest_of_plain_values_comes_back_as_it_was(value: Any) -> None:
    assert exact(read(sent(value))) == exact(value)


COLUMNS = st.fixed_dictionaries(
    {
        "id": st.lists(st.text() | st.none(), min_size=3, max_size=3),
        "n": st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=3, max_size=3),
        "x": st.lists(st.floats(allow_nan=False) | st.none(), min_size=3, max_size=3),
    }
)
SCHEMA = {"id": pl.String, "n": pl.Int64, "x": pl.Float64}


@settings(deadline=None)
@given(COLUMNS, st.sampled_from(["parquet", "ipc"]))
def test_any_frame_and_series_comes_back_as_it_was(
    columns: dict[str, list[Any]], form: tables.SeriesForm
) -> None:
    frame = pl.DataFrame(columns, schema=SCHEMA)
    assert_frame_equal(read(sent(frame)), frame)
    assert_frame_equal(read(sent(AsPandas(frame))), frame)
    for series in frame:
        assert_series_equal(read(sent(series, series=form)), series)
