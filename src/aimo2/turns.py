"""What one model call has given so far, and how fast. Knows no rollouts and no decisions."""

import asyncio
from dataclasses import dataclass, field

from aimo2.llm import Chunk
from aimo2.spans import Span, SpanMeter
from aimo2.types import FinishReason


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a rollout's newest model call has streamed. Seconds on the event loop's clock."""

    first_chunk: float
    """From the call to its first chunk: what a forced answer will wait, too, more or less."""
    per_token: float
    """Of the tokens behind the first chunk; 0 before there were any."""

    def forecast(self, num_tokens: int) -> float:
        """Seconds that another call for so many tokens takes."""
        return self.first_chunk + num_tokens * self.per_token


@dataclass(slots=True)
class TurnSoFar:
    """What the current model call has given so far. `began`: on the event loop's clock."""

    began: float
    parts: list[str] = field(default_factory=list)
    num_tokens: int = 0
    logprob_sum: float = 0.0
    num_logprobs: int = 0
    finish_reason: FinishReason = "closed"
    meter: SpanMeter | None = None
    first_chunk: float | None = None
    last_chunk: float = 0.0
    num_first_tokens: int = 0

    def take(self, chunk: Chunk) -> None:
        """More of it."""
        if self.meter is not None:
            self.meter.feed(chunk)
        now = asyncio.get_running_loop().time()
        if self.first_chunk is None:
            self.first_chunk, self.num_first_tokens = now, chunk.num_tokens
        self.last_chunk = now
        self.parts.append(chunk.text)
        self.num_tokens += chunk.num_tokens
        self.logprob_sum += sum(chunk.logprobs)
        self.num_logprobs += len(chunk.logprobs)
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason

    @property
    def text(self) -> str:
        """What is kept of it so far."""
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return self.parts[0] if self.parts else ""

    def pace(self) -> Pace | None:
        """How fast it streams; `None` before the first chunk."""
        if self.first_chunk is None:
            return None
        behind = self.num_tokens - self.num_first_tokens
        streaming = self.last_chunk - self.first_chunk
        return Pace(self.first_chunk - self.began, streaming / behind if behind > 0 else 0.0)

    def mean_logprob(self) -> float | None:
        """Of its tokens; `None` where the server gives none."""
        return self.logprob_sum / self.num_logprobs if self.num_logprobs else None

    def spans(self) -> tuple[Span, ...] | None:
        """The surprise of its tokens, where that is recorded."""
        return None if self.meter is None else self.meter.spans(len(self.text))
