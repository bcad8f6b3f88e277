"""Frames, series and arrays to bytes and back. Knows no messages.

Everything read here came from somebody else: sizes are checked before memory is taken, where the
bytes say them, contents before they are used, and nothing is ever unpickled.
"""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as _format
from polars.exceptions import PanicException, PolarsError

from aimo2.errors import ProtocolError

MAX_BYTES = 1 << 30
"""Bytes that one table or array may unpack to. A row of a competition has a few thousand."""

SeriesForm = Literal["parquet", "ipc"]
"""How a polars series travels: older peers write and read Parquet only, newer ones Arrow IPC."""

_npy: Any = _format
"""Without types in some versions of numpy."""
_PARQUET_MAGIC = b"PAR1"
_UNSUPPORTED = (pl.Object, pl.Unknown)
_ERRORS = (pa.ArrowException, PolarsError, PanicException, OSError, ValueError, TypeError)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The boundary of Arrow, polars and numpy: whatever they say of the data is one error."""
    try:
        yield
    except (*_ERRORS, MemoryError, EOFError, OverflowError, KeyError) as error:
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise ProtocolError(f"{what}: {told}") from error


def write_ipc(frame: pl.DataFrame) -> bytes:
    """A polars frame as an Arrow IPC stream, compressed with lz4. Raises `ProtocolError`."""
    _check_types(frame)
    with _translated("the frame cannot be sent"):
        table = frame.to_arrow()
        buffer = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(buffer, table.schema, options=options) as writer:
            writer.write_table(table)
    return buffer.getvalue()


def read_ipc(data: bytes) -> pl.DataFrame:
    """What `write_ipc` wrote, here or elsewhere. Raises `ProtocolError`."""
    with _translated("an Arrow stream cannot be read"):
        with pa.ipc.open_stream(data) as reader:
            table = _bounded(reader, reader.schema)
        return _frame(table)


def write_parquet(frame: pl.DataFrame) -> bytes:
    """A frame as Parquet, compressed with lz4. Raises `ProtocolError`."""
    _check_types(frame)
    buffer = io.BytesIO()
    with _translated("the frame cannot be sent"):
        frame.write_parquet(buffer, compression="lz4", statistics=False)
    return buffer.getvalue()


def read_parquet(data: bytes) -> pl.DataFrame:
    """A frame that polars or pandas wrote, without pandas' index. Raises `ProtocolError`."""
    table = _parquet_table(data)
    with _translated("a Parquet table cannot be read"):
        index = _index_columns(table.schema.metadata or {})
        kept = [name for name in table.column_names if name not in index]
        return _frame(table.select(kept) if kept else table)


def read_pandas(data: bytes) -> Any:
    """The same as a pandas frame. Raises `ProtocolError` where pandas is not installed."""
    try:
        import pandas  # noqa: F401 - Arrow would say it less clearly
    except ImportError as error:
        raise ProtocolError("pandas is not installed; read the frame with polars") from error
    table = _parquet_table(data)
    with _translated("a Parquet table cannot be read"):
        return table.to_pandas()


def write_pandas(frame: Any) -> bytes:
    """A pandas frame as Parquet, without its index, as the competition's own ends write it."""
    with _translated("the pandas frame cannot be sent"):
        table = pa.Table.from_pandas(frame, preserve_index=False)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="lz4")
    return buffer.getvalue()


def write_series(series: pl.Series, form: SeriesForm) -> bytes:
    """A polars series as a frame of one column. Raises `ProtocolError`."""
    frame = series.to_frame()
    return write_parquet(frame) if form == "parquet" else write_ipc(frame)


def read_series(data: bytes) -> pl.Series:
    """A series in either form. Raises `ProtocolError` where it has not exactly one column."""
    frame = read_parquet(data) if data[:4] == _PARQUET_MAGIC else read_ipc(data)
    if frame.width != 1:
        raise ProtocolError(f"a series must have one column; this has {frame.width}")
    return frame.to_series()


def write_array(array: "np.ndarray[Any, Any] | np.generic") -> bytes:
    """An array or scalar as `.npy`. Raises `ProtocolError` for one that needs pickle."""
    buffer = io.BytesIO()
    with _translated("the array cannot be sent"):
        np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def read_array(data: bytes) -> "np.ndarray[Any, Any]":
    """What `write_array` wrote. Raises `ProtocolError` for pickle and for sizes that do not fit."""
    with _translated("an array cannot be read"):
        stream = io.BytesIO(data)
        shape, dtype = _array_header(stream)
        # Asked before anything is allocated: the header may claim more than is there.
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size != len(data) - stream.tell():
            raise ValueError(f"its header claims {size} bytes, {len(data) - stream.tell()} follow")
        array: np.ndarray[Any, Any] = np.load(io.BytesIO(data), allow_pickle=False)
        return array


def _array_header(stream: io.BytesIO) -> "tuple[tuple[int, ...], np.dtype[Any]]":
    version = _npy.read_magic(stream)
    readers = {(1, 0): _npy.read_array_header_1_0, (2, 0): _npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format is not supported")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which would have to be unpickled")
    return shape, dtype


def _parquet_table(data: bytes) -> pa.Table:
    with _translated("a Parquet table cannot be read"):
        file = pq.ParquetFile(io.BytesIO(data))
        return _bounded(file.iter_batches(), file.schema_arrow)


def _bounded(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """The batches as one table; they are unpacked one by one, until they are too much."""
    size, kept = 0, []
    for batch in batches:
        size += batch.nbytes
        if size > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_BYTES >> 20} MiB")
        # Offsets that point outside of their buffer would be followed otherwise.
        batch.validate(full=True)
        kept.append(batch)
    return pa.Table.from_batches(kept, schema=schema)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    frame.columns = table.column_names  # polars makes up names for nameless columns
    return frame


def _index_columns(metadata: dict[bytes, bytes]) -> set[str]:
    """Columns that pandas stored its index in. A range index is no column, but a description."""
    described = json.loads(metadata.get(b"pandas", b"{}"))
    names = described.get("index_columns", []) if isinstance(described, dict) else []
    return {name for name in names if isinstance(name, str)}


def _check_types(frame: pl.DataFrame) -> None:
    for name, kind in frame.schema.items():
        if kind.base_type() in _UNSUPPORTED:
            raise ProtocolError(f"column {name!r} has type {kind}, which cannot be sent")
