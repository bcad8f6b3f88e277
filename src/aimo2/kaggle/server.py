"""The inference server: answers a gateway's calls over gRPC. Knows no problems and no engine."""

import os
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import grpc.aio

from aimo2.errors import Aimo2Error, ProtocolError, SetupError, Withheld
from aimo2.kaggle.calls import Call, read_arguments, read_call, write_reply
from aimo2.kaggle.messages import CHANNEL_OPTIONS, METHOD, PORT, SERVICE
from aimo2.kaggle.payloads import Value
from aimo2.kaggle.predict import Notify, missing

Endpoint = Callable[[Call, float | None], Awaitable[Value]]
"""A function that can be called: the call, and the seconds after which the caller gives up."""

RERUN_VARIABLE = "KAGGLE_IS_COMPETITION_RERUN"
"""Set where the real gateway will call, from another container."""

_SPOKEN = "Exception calling application: "
"""How the competition's gateway knows an error of ours from one of the network."""
_GRACE_SECONDS = 2.0


def default_host() -> str:
    """Every interface where the real gateway calls, otherwise this machine alone."""
    return "[::]" if os.environ.get(RERUN_VARIABLE) else "localhost"


class InferenceServer:
    """Listens while it is open. One call after the other is the endpoints' business."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        notify: Notify,
        *,
        host: str | None = None,
        port: int = PORT,
    ) -> None:
        """`port` 0 takes any free one."""
        self._endpoints = endpoints
        self._notify = notify
        self.host = host or default_host()
        self.port = port
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        """Raises `SetupError` where the port cannot be had."""
        # Two servers on one port would each get some of the calls, and each keep half an exam.
        server = grpc.aio.server(options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(self._send)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD.rsplit("/", 1)[1]: handler}),)
        )
        self.port = self._bound(server)
        await server.start()
        self._server = server
        return self

    def _bound(self, server: grpc.aio.Server) -> int:
        hosts = [self.host, "0.0.0.0"] if self.host == "[::]" else [self.host]
        for host in hosts:
            try:
                if port := int(server.add_insecure_port(f"{host}:{self.port}")):
                    return port
            except RuntimeError:
                continue
        raise SetupError(
            f"cannot listen on {self.host}:{self.port}: another process has the port, or the host"
            " is not ours; give another with --port or --host"
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            await self._server.stop(_GRACE_SECONDS)

    async def _send(self, data: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
        """Answer one call. Nothing but a reply or a spoken error leaves here."""
        try:
            name, request = read_call(data)
            endpoint = self._endpoints.get(name)
            if endpoint is None:
                raise missing(name)
            call = read_arguments(request)
            return write_reply(await endpoint(call, context.time_remaining()))
        except Withheld as error:
            # As one hears it of a server that is gone: the gateway asks the next one again.
            self._notify(f"a call is given back: {error}")
            await self._abort(context, grpc.StatusCode.UNAVAILABLE, str(error))
        except Aimo2Error as error:
            await self._refuse(context, error)
        # The boundary to the gateway: a bug must reach it in the words that it understands.
        except Exception as error:  # noqa: BLE001
            await self._refuse(context, ProtocolError(f"{type(error).__name__}: {error}"))

    async def _refuse(
        self, context: "grpc.aio.ServicerContext[Any, Any]", error: Exception
    ) -> NoReturn:
        self._notify(f"a call was refused: {error}")
        await self._abort(context, grpc.StatusCode.UNKNOWN, f"{_SPOKEN}{error}")

    @staticmethod
    async def _abort(
        context: "grpc.aio.ServicerContext[Any, Any]", code: grpc.StatusCode, why: str
    ) -> NoReturn:
        await context.abort(code, why)
        raise AssertionError("abort does not return")
