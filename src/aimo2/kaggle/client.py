"""The gateway's end of the line: calls of an inference server. Knows no problems.

Its patience is the competition's: the server may take 15 minutes to come up, the first call has
no other limit than that and its own, every later one has the response limit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import grpc

from aimo2.errors import GatewayError, ProtocolError
from aimo2.kaggle.calls import Call, read_reply, write_call
from aimo2.kaggle.messages import CHANNEL_OPTIONS, METHOD, PORT
from aimo2.kaggle.payloads import Encoder, Value
from aimo2.kaggle.tables import SeriesForm

_STEP_SECONDS = 0.2
"""How often a server that is not there is looked for, and Ctrl-C with it."""
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""gRPC's own patience grows to two minutes, in which a server that came back would not be seen."""
_SPOKEN = "Exception calling application: "
_FORGOTTEN = "No listener for {} was registered"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a gateway waits."""

    start: float = 900.0
    """For a server that is not there yet."""
    response: float = 1800.0
    """For the reply to a call. The first call's model may have to be loaded: it has `start` too."""
    reconnect: float = 5.0
    """For a server that hung up; the call is then made again."""


class Client:
    """Calls one server, one call at a time."""

    def __init__(
        self,
        host: str = "localhost",
        port: int = PORT,
        patience: Patience | None = None,
        *,
        series: SeriesForm = "parquet",
        waiting: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`waiting` hears now and then for how many seconds the server has been waited for."""
        self.address = f"{host}:{port}"
        self._patience = patience or Patience()
        self._encoder = Encoder(series)
        self._waiting = waiting
        self._clock = clock
        self._pause = pause
        options = (*CHANNEL_OPTIONS, *_RECONNECT)
        self._channel = grpc.insecure_channel(self.address, options=options)
        self._send = self._channel.unary_unary(METHOD)
        self._met = False
        """Whether the server has answered once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()

    def call(self, name: str, *args: Value, **kwargs: Value) -> Value:
        """What the server's function returned.

        Raises `GatewayError`, whose `kind` is the competition's name for it, and `ProtocolError`
        where an argument cannot be sent.
        """
        data = write_call(Call(name, args, kwargs), self._encoder)
        gone_at: float | None = None
        begun = self._clock()
        while True:
            try:
                reply = self._once(data, begun)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise self._failure(name, error) from error
                gone_at = self._clock() if gone_at is None else gone_at
                self._wait_for_return(error, gone_at)
                continue
            self._met = True
            return self._read(reply)

    def _once(self, data: bytes, begun: float) -> bytes:
        patience = self._patience
        limit = patience.response if self._met else patience.start + patience.response
        left = max(0.0, begun + limit - self._clock())
        # A call that waits for its server would also wait for one that hung up.
        reply: bytes = self._send(data, timeout=left, wait_for_ready=False)
        return reply

    def _wait_for_return(self, error: grpc.RpcError, gone_at: float) -> None:
        """A moment's wait for a server that is not there. Raises `GatewayError` at the end."""
        waited = self._clock() - gone_at
        if self._met and waited >= self._patience.reconnect:
            raise GatewayError(
                "SERVER_CONNECTION_FAILED",
                f"the inference server at {self.address} hung up and did not come back within"
                f" {self._patience.reconnect:g} s ({error.details()})",
            ) from error
        if not self._met and waited >= self._patience.start:
            raise GatewayError(
                "SERVER_NEVER_STARTED",
                f"no inference server came up at {self.address} within {self._patience.start:g} s;"
                " start it with: aimo2 kaggle serve",
            ) from error
        self._waiting(waited)
        self._pause(_STEP_SECONDS)

    def _failure(self, name: str, error: Any) -> GatewayError:
        code, details = error.code(), str(error.details() or "")
        if _FORGOTTEN.format(name) in details:
            return GatewayError(
                "SERVER_MISSING_ENDPOINT", f"the server has no function {name!r}: {details}"
            )
        if details.startswith(_SPOKEN):
            told = details.removeprefix(_SPOKEN)
            return GatewayError("SERVER_RAISED_EXCEPTION", f"{name} failed in the server: {told}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return GatewayError(
                "GRPC_DEADLINE_EXCEEDED",
                f"{name} gave no reply within {self._patience.response:g} s",
            )
        return GatewayError(
            "SERVER_CONNECTION_FAILED", f"the call of {name} failed: {code.name}, {details}"
        )

    def _read(self, reply: bytes) -> Value:
        try:
            return read_reply(reply)
        except ProtocolError as error:
            raise GatewayError(
                "INVALID_SUBMISSION", f"the reply cannot be read: {error}"
            ) from error
