"""The gateway's end against a server that is nothing but gRPC and hand-written bytes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import polars as pl
import pytest

from aimo2.errors import GatewayError, ProtocolError
from aimo2.kaggle.client import Client, Patience
from tests.kaggle import wire

Answer = Callable[[bytes, Any], bytes]


@contextmanager
def serving(answer: Answer, port: int = 0) -> Iterator[int]:
    """A server whose only function is `answer`: request bytes and context to reply bytes."""
    server = grpc.server(
        ThreadPoolExecutor(1),
        options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "kaggle_evaluation_client.KaggleEvaluationService",
                {"Send": grpc.unary_unary_rpc_method_handler(answer)},
            ),
        )
    )
    bound = server.add_insecure_port(f"localhost:{port}")
    server.start()
    try:
        yield bound
    finally:
        server.stop(0).wait()


def failure(answer: Answer, **patience: float) -> GatewayError:
    with serving(answer) as port, Client(port=port, patience=Patience(**patience)) as client:
        with pytest.raises(GatewayError) as caught:
            client.call("predict", 1)
        return caught.value


def test_arguments_go_out_in_order_and_the_reply_comes_back() -> None:
    seen: list[bytes] = []

    def answer(data: bytes, context: Any) -> bytes:
        seen.append(data)
        return wire.response(wire.integer(-7))

    with serving(answer) as port, Client(port=port) as client:
        assert client.call("predict", 1, "a", flag=True) == -7
    assert seen == [
        wire.request("predict", wire.integer(1), wire.field(1, "a"), flag=wire.number_field(2, 1))
    ]


def test_a_series_goes_out_in_the_form_that_the_server_reads() -> None:
    magics: list[bytes] = []

    def answer(data: bytes, context: Any) -> bytes:
        argument = dict(wire.fields(data))[2]
        assert isinstance(argument, bytes)
        magics.append(wire.only(argument, 12)[:4])
        return wire.response(wire.integer(0))

    with serving(answer) as port:
        for form in ("parquet", "ipc"):
            with Client(port=port, series=form) as client:
                client.call("predict", pl.Series("id", ["a"]))
    assert magics == [b"PAR1", b"\xff\xff\xff\xff"]


def test_an_exception_in_the_server_is_its_own_words() -> None:
    def answer(data: bytes, context: Any) -> bytes:
        raise ValueError("no such model")

    error = failure(answer)
    assert error.kind == "SERVER_RAISED_EXCEPTION"
    assert str(error) == "predict failed in the server: no such model"


def test_a_missing_function_has_its_own_name() -> None:
    def answer(data: bytes, context: Any) -> bytes:
        raise NotImplementedError("No listener for predict was registered.")

    assert failure(answer).kind == "SERVER_MISSING_ENDPOINT"


@pytest.mark.parametrize("reply", [b"\xff", b"", wire.response(wire.field(10, "no arrow"))])
def test_a_reply_that_cannot_be_read_is_no_submission(reply: bytes) -> None:
    error = failure(lambda data, context: reply)
    assert error.kind == "INVALID_SUBMISSION"
    assert "the reply cannot be read" in str(error)


def test_a_reply_that_takes_too_long_is_named_with_the_limit() -> None:
    def answer(data: bytes, context: Any) -> bytes:
        while context.is_active():
            context.time_remaining()
        return b""

    error = failure(answer, start=0.2, response=0.3)
    assert error.kind == "GRPC_DEADLINE_EXCEEDED"
    assert "within 0.3 s" in str(error)


def test_a_refusal_of_another_kind_is_a_failed_connection() -> None:
    def answer(data: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        raise AssertionError

    error = failure(answer)
    assert (error.kind, str(error)) == (
        "SERVER_CONNECTION_FAILED",
        "the call of predict failed: PERMISSION_DENIED, not you",
    )


def test_a_server_that_never_comes_up_is_waited_for_and_named() -> None:
    now = 0.0
    told: list[float] = []

    def waiting(seconds: float) -> None:
        nonlocal now
        told.append(seconds)
        now += 300

    client = Client(
        port=9,
        patience=Patience(start=900),
        waiting=waiting,
        clock=lambda: now,
        pause=lambda seconds: None,
    )
    with client, pytest.raises(GatewayError, match="no inference server came up") as caught:
        client.call("predict")
    assert caught.value.kind == "SERVER_NEVER_STARTED"
    assert told == [0, 300, 600]


def test_a_server_that_comes_up_late_is_found() -> None:
    with serving(lambda data, context: b"") as free:
        pass
    servers: list[Any] = []

    def waiting(seconds: float) -> None:
        if not servers:
            servers.append(serving(lambda data, context: wire.response(wire.integer(3)), free))
            servers[0].__enter__()

    with Client(port=free, patience=Patience(start=60), waiting=waiting) as client:
        assert client.call("predict") == 3
    servers[0].__exit__(None, None, None)


def test_a_server_that_hangs_up_and_comes_back_is_asked_again() -> None:
    with Client(port=9) as nobody:
        assert nobody.address == "localhost:9"
    calls: list[bytes] = []

    def answer(data: bytes, context: Any) -> bytes:
        calls.append(data)
        if len(calls) == 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        return wire.response(wire.integer(len(calls)))

    with serving(answer) as port, Client(port=port) as client:
        assert client.call("predict", 1) == 1
        assert client.call("predict", 2) == 3
    assert calls[1] == calls[2]


def test_a_server_that_hangs_up_for_good_is_named() -> None:
    with serving(lambda data, context: wire.response(wire.integer(1))) as port:
        client = Client(port=port, patience=Patience(reconnect=0.5))
        assert client.call("predict") == 1
    with client, pytest.raises(GatewayError, match="did not come back") as caught:
        client.call("predict")
    assert caught.value.kind == "SERVER_CONNECTION_FAILED"


def test_an_argument_that_cannot_be_sent_is_our_own_error() -> None:
    with Client(port=9) as client, pytest.raises(ProtocolError, match="type set"):
        client.call("predict", {1})
