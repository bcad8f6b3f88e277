"""A server that streams canned completions, as fast as it can or at an engine's pace.

Speaks just enough of the OpenAI completions API for `benchmarks/client_drain.py`: every event is
encoded before the first request, so that a core of this server outruns a core of any client.
Knows no model: the text repeats after 7,500 tokens.

    python benchmarks/fake_sse_server.py --rate 210      prints its base URL, serves until killed
"""

import argparse
import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal, cast

import uvloop

Logprobs = Literal["none", "openai", "chat"]

SENTENCE = "Step {}: the exponent of $p={}$ in ${}!$ is $\\lfloor {}/{} \\rfloor = {}$; go on.\n"


def text_of(num_steps: int) -> str:
    """Reasoning that does not repeat itself, so that a loop detector has to look at all of it."""
    random = Random(0)
    return "".join(
        SENTENCE.format(step, *(random.randrange(10_000) for _ in range(5)))
        for step in range(num_steps)
    )


TEXT = text_of(400)
"""About 30,000 characters, 7,500 tokens; repeats after that."""
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True)
class Pace:
    """How tokens are sent.

    `rate`: tokens a second and stream, one write each; 0 sends without waiting.
    `tokens_per_write`: without a rate, events joined into one write.
    """

    rate: float = 0.0
    tokens_per_write: int = 8


def tokens_of(text: str) -> list[str]:
    """Pieces of about four characters, as a tokenizer makes them."""
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def framed(payload: bytes) -> bytes:
    """One server-sent event in its own HTTP chunk, as uvicorn writes it."""
    event = b"data: " + payload + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    """One completion event with the fields that vLLM sends."""
    body = {
        "id": "cmpl-0123456789abcdef0123456789abcdef",
        "object": "text_completion",
        "created": 1760000000,
        "model": "fake-model",
        "choices": choices,
        **more,
    }
    return framed(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())


CANDIDATES = 1
"""Most likely tokens that a token's event names."""


def logprobs_of(token: str, kind: Logprobs) -> dict[str, Any] | None:
    if kind == "none":
        return None
    if kind == "openai":
        top = {token: -0.31326165795326233}
        top |= {f" other{rank}": -1.3132617473602295 - rank for rank in range(1, CANDIDATES)}
        return {
            "text_offset": [1234],
            "token_logprobs": [-0.31326165795326233],
            "tokens": [token],
            "top_logprobs": [top],
        }
    entry = {"id": 2221, "token": token, "bytes": list(token.encode()), "logprob": -0.3132616579}
    others = [{**entry, "logprob": -0.3132616579 - rank} for rank in range(CANDIDATES)]
    return {"content": [{**entry, "top_logprobs": others}]}


def token_events(kind: Logprobs) -> list[bytes]:
    return [
        event(
            [
                {
                    "index": 0,
                    "text": token,
                    "logprobs": logprobs_of(token, kind),
                    "finish_reason": None,
                    "stop_reason": None,
                }
            ]
        )
        for token in tokens_of(TEXT)
    ]


def last_events(num_tokens: int) -> bytes:
    finish = {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
    usage = {"prompt_tokens": 9, "completion_tokens": num_tokens, "total_tokens": 9 + num_tokens}
    return event([finish]) + event([], usage=usage) + framed(b"[DONE]") + b"0\r\n\r\n"


@dataclass
class Engine:
    """All streams of one server, stepped together as a batch is."""

    pace: Pace
    logprobs: Logprobs
    streams: set["Stream"] = field(default_factory=set)

    def events(self, wants_logprobs: bool) -> list[bytes]:
        kind: Logprobs = self.logprobs if wants_logprobs else "none"
        return self._tables[kind]

    def __post_init__(self) -> None:
        self._tables = {kind: token_events(kind) for kind in ("none", "openai", "chat")}

    async def run(self) -> None:
        """Give every stream its token at each step; never returns."""
        loop = asyncio.get_running_loop()
        step = loop.time()
        while True:
            step = max(step + 1 / self.pace.rate, loop.time() - 1)
            await asyncio.sleep(step - loop.time())
            for stream in list(self.streams):
                stream.send(1)


class Stream(asyncio.Protocol):
    """One connection: a request, then its events."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = b""
        self._events: Iterator[bytes] = iter(())
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine.streams.discard(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < content_length(head):
            return
        self._received = b""
        if head.startswith(b"GET /v1/models "):
            self._answer(200, {"data": [{"id": "fake-model", "owned_by": "fake"}]})
        elif head.startswith(b"POST /v1/completions "):
            self._start(json.loads(body))
        else:
            self._answer(404, {"error": {"message": "not here"}})

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def _start(self, request: dict[str, Any]) -> None:
        table = self._engine.events(bool(request.get("logprobs")))
        self._left = num_tokens = int(request.get("max_tokens", 16))
        repeats = num_tokens // len(table) + 1
        self._events = iter((table * repeats)[:num_tokens])
        self._last = last_events(num_tokens)
        self._transport.write(HEAD)
        if self._engine.pace.rate:
            self._engine.streams.add(self)
        else:
            self._pump()

    def _pump(self) -> None:
        if self._left and not self._paused and not self._engine.pace.rate:
            self.send(self._engine.pace.tokens_per_write)
            asyncio.get_running_loop().call_soon(self._pump)

    def send(self, count: int) -> None:
        count = min(count, self._left)
        self._left -= count
        block = b"".join(next(self._events) for _ in range(count))
        if not self._left:
            self._engine.streams.discard(self)
            block += self._last
        self._transport.write(block)


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def serve(pace: Pace, logprobs: Logprobs) -> None:
    engine = Engine(pace, logprobs)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stream(engine), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    async with server:
        await (engine.run() if pace.rate else server.serve_forever())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--tokens-per-write", type=int, default=8)
    parser.add_argument("--logprobs", choices=("openai", "chat"), default="openai")
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--core", type=int)
    parser.add_argument("--text", type=Path, help="stream this file's text instead")
    args = parser.parse_args()
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    globals()["CANDIDATES"] = args.candidates
    if args.text is not None:
        globals()["TEXT"] = args.text.read_text()
    uvloop.run(serve(Pace(args.rate, args.tokens_per_write), args.logprobs))


if __name__ == "__main__":
    main()
