"""Apply stop strings and a token limit as a server does, for a model that does not. Pure."""

from collections.abc import Sequence

from aimo2.llm import Chunk, FinishReason


class ReplyCutter:
    """Cuts the chunks of one call at the first stop string or at the token limit.

    `finish_reason`: set when the last chunk was given out; nothing may follow.
    """

    def __init__(self, stop: Sequence[str], max_tokens: int) -> None:
        self._stop = stop
        self._tokens_left = max_tokens
        self._held: list[Chunk] = []
        self.finish_reason: FinishReason | None = None

    def take(self, chunk: Chunk) -> Chunk | None:
        """The next chunk to hand out, or `None` where its text may begin a stop string."""
        self._held.append(chunk)
        self._tokens_left -= chunk.num_tokens
        text = "".join(held.text for held in self._held)
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            return self.end("stop", text[: min(found)])
        if chunk.finish_reason is not None or self._tokens_left <= 0:
            return self.end(chunk.finish_reason or "length", text)
        safe = len(text) - _overlap(text, self._stop)
        return self._release(text[:safe], text[safe:]) if safe or not text else None

    def end(self, reason: FinishReason, text: str | None = None) -> Chunk:
        """The last chunk: all that was held, or `text` of it."""
        self.finish_reason = reason
        if text is None:
            text = "".join(held.text for held in self._held)
        return self._release(text, "", reason)

    def _release(self, text: str, rest: str, reason: FinishReason | None = None) -> Chunk:
        num_tokens = sum(held.num_tokens for held in self._held)
        logprobs = tuple(value for held in self._held for value in held.logprobs)
        top = tuple(values for held in self._held for values in held.top_logprobs)
        prompt = self._held[-1].prompt if self._held else None
        self._held = [Chunk(rest, 0)] if rest else []
        return Chunk(text, num_tokens, logprobs, reason, top, prompt)


def _overlap(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of `text` that begin one of `stops`."""
    return max(
        (
            size
            for stop in stops
            for size in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:size])
        ),
        default=0,
    )
