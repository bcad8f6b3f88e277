"""An OpenAI-compatible server in this process, with a knob for everything that servers do.

It always "samples" the same reply, and like a real server it goes on from the reply in the prompt,
so that a client that loses or repeats a character of it gets another text.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

ASSISTANT = "<|im_start|>assistant\n"
REPLY = "The naïve 答え 😀 is $\\boxed{41040}$, because 20! has 8 prime factors.\n"

Flavour = Literal["llamacpp", "vllm", "sglang", "cloud"]


@dataclass
class Fail:
    """Answer the next completion with an error."""

    status: int
    body: Any = "no"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Break:
    """Break the next completion after some tokens.

    `how`: "silent" never begins to answer, "drop" resets the connection, "end" ends the answer
    cleanly but too early, "stall" sends nothing more, "error" sends an error object as an event.
    """

    after: int
    how: Literal["silent", "drop", "end", "stall", "error"] = "drop"


@dataclass
class Knobs:
    """What the server is like.

    `write_size`: bytes of one write; 0 writes each event whole. `refuses`: request fields that
    it calls unsupported. `context`: tokens; a character of the prompt is one, and so is a piece
    of three characters of the reply. `breaks`: for the next completions, one each. `files`:
    what it answers at a path, whatever is asked. `busy`: how often a path answers 503 at first.
    `begins`: what its template begins a reply with.
    `overflow`: how vLLM counts what does not fit. `no_prefill`: what it answers where the
    assistant's message is the last.
    `hung`: takes connections and answers nothing at all, as a process that was stopped.
    """

    flavour: Flavour = "llamacpp"
    reply: str = REPLY
    logprobs: Literal["openai", "chat", "none"] = "chat"
    chat_only: bool = False
    models: tuple[str, ...] = ("fake",)
    write_size: int = 0
    tokens_per_event: int = 1
    refuses: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    context: int = 4096
    key: str | None = None
    breaks: list[Fail | Break] = field(default_factory=list)
    sends_done: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    hung: bool = False
    begins: str = ""
    overflow: Literal["at least", "exact"] = "at least"
    no_prefill: str = ""


@dataclass
class Request:
    """One request that came in."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


class FakeServer:
    """Serves on a free port while its context is open; remembers requests and hang-ups."""

    def __init__(self, knobs: Knobs | None = None) -> None:
        self.knobs = knobs or Knobs()
        self.requests: list[Request] = []
        self.asked = asyncio.Event()
        self.hung_up = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._admit])
        app.router.add_route("*", "/{path:.*}", self._dispatch)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    @property
    def completions(self) -> list[Request]:
        """The requests for completions, the start-up trial left out."""
        return [
            request
            for request in self.requests
            if request.path.endswith("completions") and "1+1" not in str(request.body)
            if request.body.get("prompt") != "1"
        ]

    @web.middleware
    async def _admit(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        self.asked.set()
        self.requests.append(Request(request.path, body, dict(request.headers)))
        if self.knobs.hung:
            await asyncio.Event().wait()
        if self.knobs.key and request.headers.get("Authorization") != f"Bearer {self.knobs.key}":
            return error(401, f"wrong key in {request.headers.get('Authorization')}")
        response: web.StreamResponse = await handler(request)
        return response

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        knobs, body, path = self.knobs, self.requests[-1].body, request.path
        if knobs.busy.get(path):
            knobs.busy[path] -= 1
            return error(503, "Loading model")
        if path in knobs.files:
            return web.Response(body=knobs.files[path], content_type="text/html")
        if path == "/v1/models":
            return web.json_response({"data": [self._model(name) for name in knobs.models]})
        if path == "/v1/completions" and not knobs.chat_only:
            return await self._complete(request, body, _reply_in(body["prompt"]))
        if path == "/v1/chat/completions":
            last = body["messages"][-1]
            so_far = last["content"] if last["role"] == "assistant" else ""
            if so_far and knobs.no_prefill:
                return error(400, knobs.no_prefill)
            return await self._complete(request, body, so_far)
        if path == "/apply-template" and knobs.flavour == "llamacpp" and not knobs.chat_only:
            return web.json_response({"prompt": chatml(body["messages"]) + knobs.begins})
        if path in ("/tokenize", "/detokenize") and knobs.flavour == "vllm":
            return web.json_response(_tokenized(body, knobs.begins))
        return error(404, "not here")

    def _model(self, name: str) -> dict[str, Any]:
        if self.knobs.flavour == "cloud":
            return {"id": name, "owned_by": "somebody"}
        length = {"max_model_len": self.knobs.context}
        if self.knobs.flavour == "llamacpp":
            length = {"meta": {"n_ctx": self.knobs.context}, "aliases": [f"{name}-alias"]}  # type: ignore[dict-item]
        return {"id": name, "owned_by": self.knobs.flavour, **length}

    async def _complete(
        self, request: web.Request, body: dict[str, Any], so_far: str
    ) -> web.StreamResponse:
        knobs = self.knobs
        refused = [name for name in knobs.refuses if name in body]
        if refused:
            return error(400, f"Unsupported parameter: '{refused[0]}'")
        is_trial = body.get("prompt") == "1" or so_far == "1+1="
        broken = knobs.breaks.pop(0) if knobs.breaks and not is_trial else None
        if isinstance(broken, Fail):
            return web.json_response(broken.body, status=broken.status, headers=broken.headers)
        if not is_trial and (full := self._context_full(body)):
            return full
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            if broken is not None and broken.how == "silent":
                await asyncio.Event().wait()
            await response.prepare(request)
            await self._send(request, response, self._events(body, so_far), broken)
        except (asyncio.CancelledError, ConnectionError):
            self.hung_up.set()
            raise
        return response

    def _context_full(self, body: dict[str, Any]) -> web.Response | None:
        prompt = len(body["prompt"] if "prompt" in body else chatml(body["messages"]))
        wanted = body["max_tokens"] if self.knobs.flavour in ("vllm", "sglang") else 0
        if prompt + wanted <= self.knobs.context:
            return None
        if self.knobs.flavour == "sglang":
            return error(
                400,
                "Requested token count exceeds the model's maximum context length of "
                f"{self.knobs.context} tokens. You requested a total of {prompt + wanted} tokens: "
                f"{prompt} tokens from the input messages and {wanted} tokens for the completion.",
            )
        if self.knobs.overflow == "exact":
            return error(
                400,
                f"'max_tokens' or 'max_completion_tokens' is too large: {wanted}. This model's "
                f"maximum context length is {self.knobs.context} tokens and your request has "
                f"{prompt} input tokens ({wanted} > {self.knobs.context} - {prompt}).",
            )
        return error(
            400,
            f"This model's maximum context length is {self.knobs.context} tokens. However, you "
            f"requested {wanted} output tokens and your prompt contains at least "
            f"{self.knobs.context - wanted + 1} input tokens.",
        )

    def _events(self, body: dict[str, Any], so_far: str) -> Iterator[tuple[int, bytes]]:
        """Tokens and bytes of each event."""
        pieces, finish = self._sample(body, so_far)
        step = self.knobs.tokens_per_event
        with_logprobs = bool(body.get("logprobs")) and self.knobs.logprobs != "none"
        for at in range(0, len(pieces), step):
            part = pieces[at : at + step]
            wanted = int(body.get("top_logprobs", body["logprobs"])) if with_logprobs else 0
            shown = self._logprobs(part, wanted) if with_logprobs else None
            yield len(part), event(self._choice(body, "".join(part), shown, None))
        yield 0, event(self._choice(body, "", None, finish))
        if (body.get("stream_options") or {}).get("include_usage"):
            count = len(pieces) + (finish == "stop")
            yield 0, event([], usage={"completion_tokens": count})
        if self.knobs.sends_done:
            yield 0, b"data: [DONE]\n\n"

    def _sample(self, body: dict[str, Any], so_far: str) -> tuple[list[str], str]:
        knobs = self.knobs
        goes_on = knobs.reply.startswith(so_far) and "continue_final_message" not in knobs.ignores
        text = knobs.reply[len(so_far) :] if goes_on else knobs.reply
        for stop in body.get("stop", ()):
            text = text.partition(stop)[0]
        pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
        limit = body.get("max_tokens", body.get("max_completion_tokens", 16))
        return pieces[:limit], "length" if len(pieces) > limit else "stop"

    def _logprobs(self, pieces: list[str], wanted: int) -> dict[str, Any]:
        values = [-len(piece) / 8 for piece in pieces]
        tops = [[value - rank for rank in range(wanted)] for value in values]
        if self.knobs.logprobs == "openai":
            named = [{str(rank): each for rank, each in enumerate(top)} for top in tops]
            return {"tokens": pieces, "token_logprobs": values, "top_logprobs": named}
        entries = [
            {"token": "?", "logprob": value, "top_logprobs": [{"logprob": each} for each in top]}
            for value, top in zip(values, tops, strict=True)
        ]
        return {"content": entries}

    def _choice(
        self, body: dict[str, Any], text: str, logprobs: Any, finish: str | None
    ) -> list[dict[str, Any]]:
        said = {"delta": {"content": text}} if "messages" in body else {"text": text}
        return [{"index": 0, **said, "logprobs": logprobs, "finish_reason": finish}]

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        events: Iterator[tuple[int, bytes]],
        broken: Break | None,
    ) -> None:
        num_sent = 0
        for num_tokens, data in events:
            if broken is not None and num_sent >= broken.after:
                await self._break(request, response, broken.how)
                return
            size = self.knobs.write_size or len(data)
            for at in range(0, len(data), size):
                await response.write(data[at : at + size])
                await asyncio.sleep(0)
            num_sent += num_tokens

    async def _break(self, request: web.Request, response: web.StreamResponse, how: str) -> None:
        if how == "drop":
            assert request.transport is not None
            request.transport.abort()
        elif how == "stall":
            await asyncio.Event().wait()
        elif how == "error":
            said = {"error": {"code": 500, "message": "the engine fell over"}}
            await response.write(b"data: " + json.dumps(said).encode() + b"\n\n")


def chatml(messages: list[dict[str, str]]) -> str:
    turns = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages]
    return "".join(turns) + ASSISTANT


def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    value = {"object": "completion", "choices": choices, **more}
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


def _reply_in(prompt: str) -> str:
    return prompt.rpartition(ASSISTANT)[2] if ASSISTANT in prompt else ""


def _tokenized(body: dict[str, Any], begins: str) -> dict[str, Any]:
    if "tokens" in body:
        return {"prompt": "".join(map(chr, body["tokens"]))}
    prompt = chatml(body["messages"]) + begins if "messages" in body else body["prompt"]
    return {"tokens": [ord(character) for character in prompt], "count": len(prompt)}
