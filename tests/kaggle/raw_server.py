"""An inference server that is nothing but gRPC and hand-written bytes, as a process of its own.

    python -m tests.kaggle.raw_server PORT [DIES_AT]

Answers the length of each statement; its `DIES_AT`th call, from 1, ends the process instead.
"""

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq

from tests.kaggle import wire


def column(payload: bytes) -> tuple[str, str]:
    """Name and one value of a polars series."""
    table = pq.read_table(io.BytesIO(wire.only(payload, 12)))
    [name] = table.column_names
    [value] = table[name].to_pylist()
    return name, value


def framed(**columns: list[Any]) -> bytes:
    """A polars frame as the reply's payload."""
    table = pa.table(columns)
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(buffer, table.schema, options=options) as writer:
        writer.write_table(table)
    return wire.response(wire.field(10, buffer.getvalue()))


def main(port: int, dies_at: int) -> None:
    calls = iter(range(1, 1_000_000))

    def answer(data: bytes, context: Any) -> bytes:
        if next(calls) == dies_at:
            os._exit(1)
        fields = list(wire.fields(data))
        assert fields[0] == (1, b"predict")
        row = dict(column(content) for _, content in fields[1:] if isinstance(content, bytes))
        return framed(id=[row["id"]], answer=[len(row["problem"])])

    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(answer)
    service = "kaggle_evaluation_client.KaggleEvaluationService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Send": handler}),)
    )
    print(server.add_insecure_port(f"localhost:{port}"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
