"""Read the events of one streamed completion into chunks. Knows no HTTP.

Understands `text_completion` and `chat.completion.chunk` objects, and both shapes of
log-probabilities: `token_logprobs` (OpenAI completions, vLLM, SGLang) and `content` (OpenAI chat;
llama.cpp everywhere).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from aimo2.errors import RequestRejected
from aimo2.llm import Chunk, FinishReason, PromptUse
from aimo2.llm.sse import SseDecoder

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
    "max_tokens": "length",
}


_IMPOSSIBLE = -1000.0
"""vLLM writes -9999 for minus infinity; llama.cpp writes its smallest number."""


class BrokenStreamError(Exception):
    """The server ended or garbled a reply; asking again may help."""


class ReportedError(Exception):
    """The server sent an error object instead of an event; `body` is that object's JSON."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class ReplyReader:
    """Collects the reply of one request; feed it network reads, take chunks.

    `num_tokens`: tokens given out so far. Without log-probabilities an event with text counts as
    one token, until the server's own count corrects it, with every event or at the end.
    `candidates`: top candidates to keep of each token; below two none are kept.
    """

    def __init__(self, candidates: int = 0) -> None:
        self._candidates = candidates if candidates > 1 else 0
        self.num_tokens = 0
        self.done = False
        self._decoder = SseDecoder()
        self._finish: str | None = None
        self._text: list[str] = []
        self._logprobs: list[float] = []
        self._top: list[tuple[float, ...]] = []
        self._new_tokens = 0
        self._prompt: PromptUse | None = None
        self._num_events = 0
        self._num_choices = 0

    def feed(self, received: bytes) -> Chunk | None:
        """What one network read brought, all events together; `None` where that was no token.

        Raises `BrokenStreamError`, `ReportedError` or `RequestRejected` (a content filter).
        """
        try:
            events = self._decoder.feed(received)
        except ValueError as error:
            raise BrokenStreamError(str(error)) from error
        return self._take(events)

    def end(self) -> Chunk:
        """The last chunk, with the finish reason; call it when `done` or at the stream's end.

        Raises as `feed` does, and `BrokenStreamError` where the server gave no finish reason.
        """
        rest = None if self.done else self._take(self._decoder.flush())
        if self._finish is None and not self._num_choices and self._num_events:
            raise RequestRejected(
                "the server streams something that is no completion: does --base-url end in /v1?"
            )
        if self._finish is None and not self.done:
            raise BrokenStreamError("the reply broke off")
        finish = _finish_reason(self._finish)
        return replace(rest or Chunk("", 0), finish_reason=finish, prompt=self._prompt)

    def _take(self, events: list[bytes]) -> Chunk | None:
        for event in events:
            if event == b"[DONE]":
                self.done = True
                break
            self._read(event)
        if not (self._text or self._new_tokens):
            return None
        chunk = Chunk(
            "".join(self._text),
            self._new_tokens,
            tuple(self._logprobs),
            top_logprobs=tuple(self._top),
        )
        self.num_tokens += self._new_tokens
        self._text, self._logprobs, self._top, self._new_tokens = [], [], [], 0
        return chunk

    def _read(self, data: bytes) -> None:
        self._num_events += 1
        try:
            event = orjson.loads(data)
            if event.get("error"):
                raise _reported(event["error"], data)
            for choice in event.get("choices") or ():
                self._read_choice(choice)
            usage = event.get("usage")
            if usage:
                self._count(usage.get("completion_tokens") or 0)
                self._prompt = _prompt_use(usage) or self._prompt
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise BrokenStreamError(f"an event that is no completion: {data[:200]!r}") from error

    def _count(self, total: int) -> None:
        """The server's own count so far: an event may have brought several tokens."""
        self._new_tokens += max(0, total - self.num_tokens - self._new_tokens)

    def _read_choice(self, choice: dict[str, Any]) -> None:
        self._num_choices += 1
        text = choice.get("text")
        if text is None:
            text = self._read_delta(choice.get("delta") or {})
        logprobs = choice.get("logprobs")
        if logprobs:
            self._read_logprobs(logprobs)
        elif text:
            self._new_tokens += 1
        if text:
            self._text.append(text)
        self._finish = choice.get("finish_reason") or self._finish

    def _read_delta(self, delta: dict[str, Any]) -> str:
        """The text of a chat event; hidden reasoning counts as a token but is no text."""
        text: str = delta.get("content") or ""
        if not text and (delta.get("reasoning_content") or delta.get("reasoning")):
            self._new_tokens += 1
        return text

    def _read_logprobs(self, logprobs: dict[str, Any]) -> None:
        values = logprobs.get("token_logprobs")
        entries: list[dict[str, Any]] = []
        if values is None:
            entries = logprobs.get("content") or []
            values = [entry.get("logprob") for entry in entries]
        self._new_tokens += len(values)
        self._logprobs += [value for value in values if value is not None and value > _IMPOSSIBLE]
        if not self._candidates:
            return
        if entries:
            for entry in entries:
                self._keep_top(each.get("logprob") for each in entry.get("top_logprobs") or ())
        else:
            for candidates in logprobs.get("top_logprobs") or ():
                self._keep_top((candidates or {}).values())

    def _keep_top(self, values: Iterable[float | None]) -> None:
        """Of one token. The sampled one may stand beside the most likely; it is then the last."""
        found = sorted(
            (value for value in values if value is not None and value > _IMPOSSIBLE), reverse=True
        )
        if found:
            self._top.append(tuple(found[: self._candidates]))


def _prompt_use(usage: dict[str, Any]) -> PromptUse | None:
    """llama.cpp says it always, vLLM with `--enable-prompt-tokens-details`."""
    details = usage.get("prompt_tokens_details")
    if not details or details.get("cached_tokens") is None:
        return None
    return PromptUse(int(usage["prompt_tokens"]), int(details["cached_tokens"]))


def _reported(error: Any, data: bytes) -> ReportedError:
    code = error.get("code") if isinstance(error, dict) else None
    return ReportedError(code if isinstance(code, int) and 400 <= code < 600 else 500, data)


def _finish_reason(said: str | None) -> FinishReason:
    if said is None:
        return "stop"
    if said == "content_filter":
        raise RequestRejected(
            "the server's content filter ended the reply: word the problem differently "
            "or use another server"
        )
    if said not in _FINISH:
        raise BrokenStreamError(f"the server ended the reply: {said}")
    return _FINISH[said]
