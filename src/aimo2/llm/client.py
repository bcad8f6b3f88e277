"""Stream completions from an OpenAI-compatible server. Knows no mathematics and starts no server.

A reply is continued as plain text: the chat template renders the messages, the reply so far is
appended, and `/completions` goes on from there. A server without that gets messages instead, with
fewer features (`OpenAIModel.features` says which). vLLM and SGLang would take the model's own top-k
and repetition penalty, so they are told to use neither; what else `Sampling` does not name is the
server's own default.
"""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from aimo2.deadline import Deadline
from aimo2.errors import ConfigError, DeadlinePassed, KeyRefused, RequestRejected
from aimo2.llm import Chunk, Conversation, Message, Sampling
from aimo2.llm.connect import Found, Served, context_length, find_template, served_model
from aimo2.llm.dialect import Dialect
from aimo2.llm.events import BrokenStreamError, ReplyReader, ReportedError
from aimo2.llm.features import Features, Seen, features
from aimo2.llm.recovery import OnUnavailable, Recovery
from aimo2.llm.stop import ReplyCutter
from aimo2.llm.template import (
    CachedTemplate,
    JinjaTemplate,
    LearnedTemplate,
    Template,
    TokenizeTemplate,
    continued,
    opens_thinking,
)
from aimo2.llm.transport import (
    Answer,
    ClientLimits,
    Endpoint,
    Overflow,
    Rejected,
    Transport,
    Unavailable,
)

__all__ = ["ClientLimits", "Counters", "Endpoint", "Features", "OpenAIModel"]

_EXACT_CHAT = frozenset({"vllm", "sglang", "llamacpp"})
"""Owners, as `GET /models` names them, whose chat endpoint can continue the last message."""
_COUNTS_ALONG = frozenset({"vllm", "sglang"})
"""Owners that can tell the number of tokens with every event."""
_MODEL_DEFAULTS = frozenset({"vllm", "sglang"})
"""Owners that sample by the model's `generation_config.json` what a request does not name."""
_CONNECT_RETRIES = 2
_TRIAL = Sampling(max_tokens=4, seed=1, logprobs=1)
T = TypeVar("T")
_PROMPT_TOKENS = re.compile(
    r"(\d+) (?:tokens from the input|in the (?:messages|prompt))|has (\d+) input tokens"
)
_AT_LEAST = re.compile(r"at least (\d+) input tokens")


@dataclass(slots=True)
class Counters:
    """What a client did so far.

    `num_retries`: requests sent again after a failure. `num_continuations`: replies that broke
    off and were taken up again where they ended.
    """

    num_requests: int = 0
    num_retries: int = 0
    num_continuations: int = 0


@dataclass(slots=True)
class _Link:
    """What `connect` found out."""

    dialect: Dialect
    seen: Seen
    template: Template | None
    counts: bool
    """Whether the server tells the tokens of a prompt."""


class OpenAIModel:
    """A `Model` behind an OpenAI-compatible server; an asynchronous context manager.

    `endpoint`: a base URL ending in `/v1`, an `Endpoint` with its key, or a function that gives
    one, asked again for every request because a restarted server may have another port.
    `model`: a served model's name; `None` takes the first. `chat_template`: Jinja source that
    replaces the server's own (`template.CHATML` for example). `mode`: "auto" prefers raw text.
    `request_seeds`: whether requests carry their seed; `None`: to every server but vLLM, which it
    slows down to a half where many streams run. `seed`: of the back-off's jitter.
    """

    def __init__(
        self,
        endpoint: str | Endpoint | Callable[[], Endpoint],
        *,
        model: str | None = None,
        chat_template: str | None = None,
        mode: Literal["auto", "raw", "chat"] = "auto",
        limits: ClientLimits = ClientLimits(),  # noqa: B008 - frozen
        on_unavailable: OnUnavailable | None = None,
        request_seeds: bool | None = None,
        seed: int = 0,
    ) -> None:
        self.counters = Counters()
        self._transport = Transport(_provider(endpoint), limits)
        self._wanted = model
        self._chat_template = chat_template
        self._mode = mode
        self._limits = limits
        self._on_unavailable = on_unavailable
        self._request_seeds = request_seeds
        self._random = random.Random(seed)
        self._connecting = asyncio.Lock()
        self._link: _Link | None = None

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    @property
    def features(self) -> Features:
        """What works with this server; raises `RuntimeError` before `connect`."""
        link = self._linked()
        return features(link.dialect, link.seen)

    @property
    def name(self) -> str:
        """The served model's name; raises `RuntimeError` before `connect`."""
        return self._linked().dialect.model

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and reply together; `None` where the server does not say."""
        return self._linked().dialect.context_length

    async def connect(self, deadline: Deadline) -> Features:
        """Find the model, its template and what the server takes; once, also if called again.

        Raises `ConfigError` where the server does not have the model or no template can be
        found, and `ModelError` where it cannot be reached or refuses the key.
        """
        await self._connected(deadline)
        return self.features

    async def check(self, name: str | None, deadline: Deadline) -> None:
        """See that the server answers now and has the model `name`, with one try.

        `None`: the model that it was asked for. A client that is not connected, or to another
        model, is then connected to this one. Raises as `connect` does.
        """
        wanted = name if name is not None else self._wanted
        await served_model(self._transport, wanted, deadline)
        if self._link is None or name not in (None, self._link.dialect.model):
            self._link, self._wanted = None, wanted
            await self._connected(deadline)

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        """Sample a continuation; see `Model.stream`.

        A reply that breaks off is continued by a new request from where it ended, so no text
        comes twice. With a full context window the last chunk says "length".
        """
        link = await self._connected(deadline)
        reply = _Reply(conversation, sampling)
        recovery = Recovery(self._limits, self._random, self._on_unavailable)
        cutter: ReplyCutter | None = None
        while reply.tokens_left > 0:
            try:
                answer = await self._open(link, reply, deadline)
                if cutter is None and "stop" in link.dialect.refused:
                    cutter = ReplyCutter(sampling.stop, sampling.max_tokens)
                async with aclosing(_chunks(answer, sampling.logprobs)) as chunks:
                    async for chunk in chunks:
                        reply.add(chunk)
                        recovery.succeeded()
                        out = cutter.take(chunk) if cutter else chunk
                        if out is not None:
                            yield out
                        if cutter and cutter.finish_reason is not None:
                            return
                return
            except Unavailable as error:
                self._check_resumable(reply, error)
                await recovery.pause(error, deadline)
                self.counters.num_retries += 1
                self.counters.num_continuations += reply.num_tokens > 0
        yield Chunk("", 0, (), "length")

    async def _open(self, link: _Link, reply: "_Reply", deadline: Deadline) -> Answer:
        """An opened stream; asks again without what the server refuses, or for fewer tokens."""
        dialect = link.dialect
        body = await self._body(link, reply, deadline)
        while True:
            try:
                return await self._open_body(dialect, body, deadline)
            except Overflow as error:
                room = await self._room(link, body, error.body, deadline)
                if not 0 < room < body[dialect.limit_name]:
                    raise
                body = {**body, dialect.limit_name: room}

    async def _open_body(
        self, dialect: Dialect, body: dict[str, Any], deadline: Deadline
    ) -> Answer:
        refused: list[str] = []
        while True:
            self.counters.num_requests += 1
            try:
                answer = await self._transport.open(dialect.path, body, deadline)
            except Rejected as error:
                name = dialect.refusal(error.status, error.body, body)
                if name is None:
                    raise
                refused.append(name)
                body = dialect.without(name, body)
            else:
                dialect.refused.update(refused)
                return answer

    async def _body(self, link: _Link, reply: "_Reply", deadline: Deadline) -> dict[str, Any]:
        sampling = replace(reply.sampling, max_tokens=reply.tokens_left)
        conversation = reply.conversation
        if link.dialect.mode == "chat":
            return link.dialect.ask_chat(conversation, sampling)
        return link.dialect.ask_raw(await self._prompt(link, conversation, deadline), sampling)

    async def prompt(self, conversation: Conversation, deadline: Deadline) -> str:
        """The raw text that a request of this conversation carries.

        Raises `ConfigError` where the server is asked by messages, and what `connect` raises.
        """
        link = await self._connected(deadline)
        if link.template is None:
            raise ConfigError(f"{self.name} is asked by messages, so that no prompt has a text")
        return await self._prompt(link, conversation, deadline)

    async def _prompt(self, link: _Link, conversation: Conversation, deadline: Deadline) -> str:
        assert link.template is not None
        prompt = await link.template.render(conversation.messages, deadline)
        return continued(prompt, conversation.reply)

    async def _room(self, link: _Link, body: dict[str, Any], said: str, deadline: Deadline) -> int:
        """Tokens that the context window has left after the prompt; 0 where nobody knows.

        vLLM and SGLang refuse a request whose `max_tokens` does not fit, even if its prompt does.
        vLLM's message may name only a lower bound of the prompt's tokens. It is asked to count a
        rendered prompt; for messages, half of the limit is tried next.
        """
        length = link.dialect.context_length
        if length is None:
            return 0
        if link.counts:
            counter = TokenizeTemplate(self._ask, link.dialect.model)
            plain = link.dialect.plain_tokens
            return length - len(await counter.tokens_of(body["prompt"], deadline, plain=plain))
        if found := _PROMPT_TOKENS.search(said):
            return length - int(found[1] or found[2])
        if found := _AT_LEAST.search(said):
            half: int = body[link.dialect.limit_name] // 2
            return min(length - int(found[1]), half)
        return 0

    def _check_resumable(self, reply: "_Reply", error: Unavailable) -> None:
        if reply.num_tokens and not self.features.exact_continuation:
            raise Unavailable(
                f"{error}; the reply cannot be continued on a chat-only server",
                reached=error.reached,
            ) from error

    async def _ask(self, path: str, asked: Any, deadline: Deadline) -> Any:
        return await self._retrying(
            lambda: self._transport.post(path, asked, deadline, root=True), deadline
        )

    async def _retrying(self, call: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        recovery = Recovery(self._limits, self._random, self._on_unavailable)
        while True:
            try:
                return await call()
            except Unavailable as error:
                await recovery.pause(error, deadline)
                self.counters.num_retries += 1

    def _linked(self) -> _Link:
        if self._link is None:
            raise RuntimeError("call connect() first")
        return self._link

    async def _connected(self, deadline: Deadline) -> _Link:
        if self._link is not None:
            return self._link
        try:
            async with asyncio.timeout_at(deadline.when()):
                await self._connecting.acquire()
        except TimeoutError as error:
            raise DeadlinePassed("the deadline came before the server was known") from error
        try:
            if self._link is None:
                self._link = await self._find_link(deadline)
            return self._link
        finally:
            self._connecting.release()

    async def _find_link(self, deadline: Deadline) -> _Link:
        recovery = Recovery(self._limits, self._random, self._on_unavailable)
        num_unreached = 0
        while True:
            try:
                served = await served_model(self._transport, self._wanted, deadline)
                break
            except Unavailable as error:
                num_unreached += not error.reached
                if num_unreached > _CONNECT_RETRIES:  # most likely a wrong URL: say so soon
                    raise
                await recovery.pause(error, deadline)
        length = await context_length(self._transport, served, deadline)
        return await self._agree(served, length, deadline)

    async def _agree(self, served: Served, length: int | None, deadline: Deadline) -> _Link:
        """Raw mode if the server takes prompts and a template is found; else chat mode."""
        why = "asked for"
        common = Dialect(
            served.name,
            counts_along=served.owner in _COUNTS_ALONG,
            context_length=length,
            sends_seeds=self._sends_seeds(served),
            neutral=served.owner in _MODEL_DEFAULTS,
        )
        if self._mode != "chat":
            raw = replace(common, mode="raw", refused=set())
            link, why = await self._try_raw(raw, served, deadline)
            if link is not None:
                return link
            if self._mode == "raw":
                raise ConfigError(f"raw mode cannot be used: {why}")
        exact = served.owner in _EXACT_CHAT
        chat = replace(common, mode="chat", continues=exact, refused=set())
        body = chat.ask_chat(Conversation((Message("user", "1+1?"),), "1+1="), _TRIAL)
        logprobs = await self._probe(chat, body, deadline)
        seen = Seen("the server's own, unseen", why, exact, logprobs)
        return _Link(chat, seen, None, counts=False)

    def _sends_seeds(self, served: Served) -> bool:
        return self._request_seeds if self._request_seeds is not None else served.owner != "vllm"

    async def _try_raw(
        self, raw: Dialect, served: Served, deadline: Deadline
    ) -> tuple[_Link | None, str]:
        """The link in raw mode, or why there is none."""
        try:
            logprobs = await self._probe(raw, raw.ask_raw("1", _TRIAL), deadline)
        except RequestRejected as error:
            if isinstance(error, KeyRefused):
                raise
            return None, f"the server takes no raw prompts ({error})"
        found = await self._find_template(served, deadline)
        if found is None:
            why = f"no chat template was found for {served.name}: give one with --chat-template"
            return None, why
        raw.plain_tokens = isinstance(found.template, TokenizeTemplate)
        seen = Seen(found.origin, None, exact_chat=False, logprobs=logprobs, thinks=found.thinks)
        template: Template = found.template
        if not isinstance(template, JinjaTemplate):
            template = LearnedTemplate(template)
        counts = served.owner == "vllm" or raw.plain_tokens
        return _Link(raw, seen, CachedTemplate(template), counts), ""

    async def _find_template(self, served: Served, deadline: Deadline) -> Found | None:
        if self._chat_template is None:
            return await find_template(self._transport, self._ask, served, deadline)
        template = JinjaTemplate(self._chat_template)
        prompt = await template.render((Message("user", "1+1?"),), deadline)
        return Found(template, "--chat-template", opens_thinking(prompt))

    async def _probe(self, dialect: Dialect, body: dict[str, Any], deadline: Deadline) -> bool:
        """Try a tiny request, learn what is refused; returns whether log-probabilities came."""

        async def once() -> bool:
            answer = await self._open_body(dialect, body, deadline)
            async with aclosing(_chunks(answer)) as chunks:
                return any([chunk.logprobs async for chunk in chunks])

        return await self._retrying(once, deadline)


class _Reply:
    """What a call has received so far, over all its requests."""

    def __init__(self, conversation: Conversation, sampling: Sampling) -> None:
        self.sampling = sampling
        self.num_tokens = 0
        self._start = conversation
        self._texts: list[str] = []

    def add(self, chunk: Chunk) -> None:
        self._texts.append(chunk.text)
        self.num_tokens += chunk.num_tokens

    @property
    def tokens_left(self) -> int:
        return self.sampling.max_tokens - self.num_tokens

    @property
    def conversation(self) -> Conversation:
        """The conversation with what was received."""
        return replace(self._start, reply=self._start.reply + "".join(self._texts))


async def _chunks(answer: Answer, candidates: int = 0) -> AsyncGenerator[Chunk, None]:
    """The chunks of one answer, with top candidates where wanted; closes it."""
    reader = ReplyReader(candidates)
    try:
        while not reader.done:
            received = await answer.read()
            if not received:
                break
            chunk = reader.feed(received)
            if chunk is not None:
                yield chunk
        yield reader.end()
    except BrokenStreamError as error:
        raise answer.broken(str(error)) from error
    except ReportedError as error:
        raise answer.reported(error.status, error.body) from error
    finally:
        answer.close()


def _provider(endpoint: str | Endpoint | Callable[[], Endpoint]) -> Callable[[], Endpoint]:
    if isinstance(endpoint, str):
        endpoint = Endpoint(endpoint)
    if isinstance(endpoint, Endpoint):
        fixed = endpoint
        return lambda: fixed
    return endpoint
