"""The inference server against a gateway that is nothing but gRPC and hand-written bytes."""

import asyncio
import io
import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aimo2.errors import SetupError, Withheld
from aimo2.kaggle.predict import PredictEndpoint
from aimo2.kaggle.server import Endpoint, InferenceServer, default_host
from aimo2.types import Problem
from tests.kaggle import wire

METHOD = "/kaggle_evaluation_client.KaggleEvaluationService/Send"
Send = Callable[..., Any]


class Gate:
    """Answers once it is opened; counts how often it was asked to begin."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.started = asyncio.Event()
        self.begun: list[str] = []
        self._answers: dict[str, asyncio.Task[str]] = {}

    async def predict(self, problem: Problem, within: float | None = None) -> str:
        if problem.id not in self._answers:
            self._answers[problem.id] = asyncio.create_task(self._solve(problem))
        return await asyncio.shield(self._answers[problem.id])

    async def _solve(self, problem: Problem) -> str:
        self.begun.append(problem.id)
        self.started.set()
        await self.opened.wait()
        if problem.statement == "Withheld":
            raise Withheld("not before the end")
        return str(len(problem.statement))

    def best(self, problem: Problem) -> str:
        return "0"


def series(number_in_payload: int, name: str, value: object) -> bytes:
    """A polars series of one row, as the gateway that the competition used writes it."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: [value]}), buffer, compression="lz4")
    return wire.field(number_in_payload, buffer.getvalue())


def predict(id_: object, text: str) -> bytes:
    return wire.request("predict", series(12, "id", id_), series(12, "problem", text))


def frame_of(reply: bytes) -> dict[str, list[Any]]:
    """The polars frame in a reply."""
    payload = wire.only(reply, 1)
    frame: dict[str, list[Any]] = pa.ipc.open_stream(wire.only(payload, 10)).read_all().to_pydict()
    return frame


def served(talk: Callable[[Send, Gate], Awaitable[None]], **endpoints: Endpoint) -> list[str]:
    """Let `talk` call a server; returns what the server said to a person."""
    heard: list[str] = []

    async def main() -> None:
        gate = Gate()
        endpoint = PredictEndpoint(gate, heard.append, limit=30)
        async with (
            InferenceServer({"predict": endpoint, **endpoints}, heard.append, port=0) as server,
            grpc.aio.insecure_channel(
                f"localhost:{server.port}", options=[("grpc.max_send_message_length", -1)]
            ) as channel,
        ):
            await talk(channel.unary_unary(METHOD), gate)
        await endpoint.close()

    asyncio.run(main())
    return heard


async def failure(call: Awaitable[bytes]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


def test_a_problem_gets_a_frame_with_its_id_and_one_answer() -> None:
    async def talk(send: Send, gate: Gate) -> None:
        gate.opened.set()
        assert frame_of(await send(predict("0a1b", "four"))) == {"id": ["0a1b"], "answer": [4]}
        assert frame_of(await send(predict(17, "three"))) == {"id": [17], "answer": [5]}

    assert served(talk) == []


def test_an_answer_that_is_withheld_looks_like_a_server_that_is_gone() -> None:
    async def talk(send: Send, gate: Gate) -> None:
        gate.opened.set()
        code, details = await failure(send(predict("0a1b", "Withheld")))
        assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "not before the end")

    assert served(talk) == ["a call is given back: not before the end"]


def test_an_unknown_function_is_answered_in_the_competitions_words() -> None:
    async def talk(send: Send, gate: Gate) -> None:
        code, details = await failure(send(wire.request("train")))
        assert code is grpc.StatusCode.UNKNOWN
        assert details == "Exception calling application: No listener for train was registered."

    assert served(talk) == ["a call was refused: No listener for train was registered."]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xff", "is no message"),
        (wire.request("predict"), "without arguments"),
        (wire.request("predict", wire.field(12, b"PAR1")), "Parquet table cannot be read"),
        (wire.request("predict", wire.field(99, b"x")), "newer than this"),
    ],
)
def test_a_bad_call_is_refused_and_the_next_one_answered(data: bytes, words: str) -> None:
    async def talk(send: Send, gate: Gate) -> None:
        gate.opened.set()
        code, details = await failure(send(data))
        assert code is grpc.StatusCode.UNKNOWN
        assert details.startswith("Exception calling application: ")
        assert words in details
        assert frame_of(await send(predict("a", "four")))["answer"] == [4]

    assert len(served(talk)) == 1


def test_a_bug_in_an_endpoint_is_spoken_not_swallowed() -> None:
    async def broken(call: object, patience: float | None) -> None:
        raise KeyError("no such thing")

    async def talk(send: Send, gate: Gate) -> None:
        _, details = await failure(send(wire.request("broken")))
        assert details == "Exception calling application: KeyError: 'no such thing'"

    served(talk, broken=broken)


def test_a_client_that_hangs_up_and_comes_back_finds_its_answer() -> None:
    async def talk(send: Send, gate: Gate) -> None:
        call = send(predict("a", "four"))
        await gate.started.wait()
        call.cancel()
        gate.opened.set()
        assert frame_of(await send(predict("a", "four")))["answer"] == [4]
        assert gate.begun == ["a"]

    served(talk)


def test_two_clients_with_the_same_problem_share_one_answer() -> None:
    async def talk(send: Send, gate: Gate) -> None:
        calls = [send(predict("a", "four")) for _ in range(2)]
        await gate.started.wait()
        gate.opened.set()
        assert [frame_of(await call)["answer"] for call in calls] == [[4], [4]]
        assert gate.begun == ["a"]

    served(talk)


def test_a_clients_own_deadline_is_kept() -> None:
    async def talk(send: Send, gate: Gate) -> None:
        assert frame_of(await send(predict("a", "four"), timeout=0.5))["answer"] == [0]

    assert "the limit came before the answer" in served(talk)[0]


def test_messages_may_be_of_any_size() -> None:
    async def talk(send: Send, gate: Gate) -> None:
        gate.opened.set()
        text = random.Random(0).randbytes(5_000_000).hex()  # lz4 cannot shrink it much
        assert len(predict("a", text)) > 5_000_000
        assert frame_of(await send(predict("a", text)))["answer"] == [len(text)]

    served(talk)


def test_a_port_that_is_taken_is_named() -> None:
    async def main() -> None:
        async with InferenceServer({}, print, port=0) as first:
            with pytest.raises(SetupError, match=f"cannot listen on localhost:{first.port}"):
                async with InferenceServer({}, print, port=first.port):
                    pass

    asyncio.run(main())


def test_only_the_real_rerun_is_reachable_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
    assert default_host() == "localhost"
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert default_host() == "[::]"
