"""The seam to a served model: one streaming method. Knows no HTTP and no mathematics."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from aimo2.deadline import Deadline
from aimo2.types import FinishReason

__all__ = ["Chunk", "Conversation", "FinishReason", "Message", "Model", "PromptUse", "Sampling"]


@dataclass(frozen=True, slots=True)
class Message:
    """One complete message before the reply."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Everything that the next token depends on.

    `reply` is the assistant's message so far; sampling continues exactly where it ends.
    """

    messages: Sequence[Message]
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample.

    `max_tokens`: of this call. `stop`: strings that end the call and are not part of its text.
    `logprobs`: number of top candidates wanted a token; 0 asks for none, 1 for the sampled token's
    log-probability alone. `ignore_eos`: go on to
    `max_tokens` whatever the model says, for measurements; servers that cannot do it stop earlier.
    `special_tokens`: leave them in the text, for models that switch channels with them.
    `top_k`: most likely tokens that are drawn from, 0 for all; `None` is all, too, but leaves
    servers with a limit of their own to it (llama.cpp: 40).
    """

    temperature: float = 0.7
    top_p: float = 0.95
    min_p: float = 0.0
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int = 0
    ignore_eos: bool = False
    special_tokens: bool = False
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class PromptUse:
    """Tokens of a call's prompt, and how many of them the server had in its prefix cache."""

    num_tokens: int
    num_cached: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that arrived together: one network read, not one token.

    `num_tokens`: sampled tokens in this chunk, special tokens included.
    `logprobs`: log-probability of each sampled token, natural logarithm; empty where the server
    gives none. `top_logprobs`: of each sampled token's most likely candidates, largest first, at
    most as many as were asked for; empty where fewer than two were. A value that the server calls
    infinite is left out of either. `finish_reason` is set on the last chunk of a call only.
    """

    text: str
    num_tokens: int
    logprobs: tuple[float, ...] = ()
    finish_reason: FinishReason | None = None
    top_logprobs: tuple[tuple[float, ...], ...] = ()
    prompt: PromptUse | None = None
    """On the last chunk, where the server tells."""


class Model(Protocol):
    """A served model."""

    def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        """Sample a continuation of the conversation's reply.

        Closing the iterator (`aclose`) or cancelling its task closes the connection, so that the
        server frees the slot. The last chunk carries a `finish_reason`.

        Raises `ModelUnavailable`, `RequestRejected` or `DeadlinePassed`.
        """
        ...
