"""How sure the model was along a text, as it is stored: a few bytes a token. Knows no rollouts."""

from aimo2.llm import Chunk

LARGEST_SURPRISE = 1_000
"""Hundredths of nats: beyond e to the -10 a token is as surprising as can be."""

Span = tuple[int, int]
"""Characters, and their mean surprise in hundredths of nats."""


class SpanMeter:
    """Collects `Turn.token_spans` from the chunks of one model call."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._waiting: list[float] = []
        self._is_whole = True

    def feed(self, chunk: Chunk) -> None:
        """The next chunk. Probabilities may come before their text: a part of a character, or text
        that was held back because it could have been a stop string.
        """
        self._waiting += chunk.logprobs
        if not chunk.text:
            return
        if self._waiting:
            mean = sum(self._waiting) / len(self._waiting)
            surprise = min(LARGEST_SURPRISE, max(0, round(-100 * mean)))
            self._spans.append((len(chunk.text), surprise))
            self._waiting.clear()
        elif self._spans:
            length, surprise = self._spans[-1]
            self._spans[-1] = (length + len(chunk.text), surprise)
        else:
            self._is_whole = False

    def spans(self, num_chars: int) -> tuple[Span, ...] | None:
        """Those of the first `num_chars` characters; `None` where some have no probability."""
        if not self._spans or not self._is_whole:
            return None
        kept: list[Span] = []
        left = num_chars
        for length, surprise in self._spans:
            if left <= 0:
                break
            kept.append((min(length, left), surprise))
            left -= length
        return tuple(kept)
