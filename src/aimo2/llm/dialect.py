"""Word a request as one server takes it, and learn what it refuses. Knows no HTTP."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from aimo2.llm import Conversation, Sampling
from aimo2.llm.template import as_json

Mode = Literal["raw", "chat"]
"""A rendered prompt to `/completions`, or messages to `/chat/completions`."""

_OPTIONAL = (
    "continue_final_message",
    "add_generation_prompt",
    "add_special_tokens",
    "stream_options",
    "ignore_eos",
    "skip_special_tokens",
    "top_logprobs",
    "logprobs",
    "repetition_penalty",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "top_p",
    "temperature",
)
_REFUSAL = re.compile(
    r"unsupported|not .{0,24}(?:support|permit|allow|accept|enabled|available|recogni[sz]ed)"
    r"|unknown|unrecogni[sz]ed|unexpected|extra[ _](?:inputs?|fields?|forbidden|parameters?)"
    r"|no such|disabled",
    re.IGNORECASE,
)
_NO_PREFILL = re.compile(
    r"prefill|last (?:role|message|turn)|(?:end|finish) with (?:a|the) user|final (?:role|message)",
    re.IGNORECASE,
)
PREFILL = "prefill"
"""Among what is refused: that the last message is the assistant's."""
_GO_ON = {"role": "user", "content": "Go on from where your message ends."}
_ONLY_OPENS = re.compile(r"\s*(?:<think>|\[THINK\]|(?:<\|\w+\|>(?:analysis)?)+)\s*")
_SEEDS = 2**31
"""llama.cpp takes 32 bits and reads the largest as "any"; others take signed integers."""
_ALL = -1
"""vLLM and SGLang both read it as no top-k; SGLang refuses 0."""


@dataclass(slots=True)
class Dialect:
    """How one server wants to be asked.

    `continues`: chat mode only: whether the server can be told to continue the last message.
    `plain_tokens`: whether `add_special_tokens` can be switched off; the rendered prompt then
    brings its own. `counts_along`: whether every event is asked to carry the number of tokens so
    far, as vLLM and SGLang can, which may put many tokens into one event. `context_length`: tokens
    of prompt and reply together, where it is known. `sends_seeds`: whether requests carry a seed;
    vLLM samples seeded requests one by one, which halved its speed at 512 streams on an H200.
    `neutral`: whether the server has to be told not to take the model's own top-k and repetition
    penalty; llama.cpp and others have settings of their own, which are left as they are.
    `refused`: fields that the server did not take and that are left out from then on.
    """

    model: str
    mode: Mode = "raw"
    continues: bool = False
    plain_tokens: bool = False
    counts_along: bool = False
    sends_seeds: bool = True
    neutral: bool = False
    context_length: int | None = None
    refused: set[str] = field(default_factory=set)

    @property
    def path(self) -> str:
        """Where requests go, below `/v1`."""
        return "completions" if self.mode == "raw" else "chat/completions"

    @property
    def limit_name(self) -> str:
        """OpenAI renamed the token limit; some of its models refuse the old name."""
        return "max_completion_tokens" if "max_tokens" in self.refused else "max_tokens"

    def ask_raw(self, prompt: str, sampling: Sampling) -> dict[str, Any]:
        """The request for a rendered prompt."""
        body = {"prompt": prompt, **self._sampling(sampling)}
        if sampling.logprobs:
            body["logprobs"] = sampling.logprobs
        if self.plain_tokens:
            body["add_special_tokens"] = False
        return self._without_refused(body)

    def ask_chat(self, conversation: Conversation, sampling: Sampling) -> dict[str, Any]:
        """The request for messages, the reply so far being the last.

        A reply that only opens its thinking is left to a server that cannot continue one; one that
        takes no message of the assistant's at the end is asked, as the user, to go on.
        """
        messages = as_json(conversation.messages)
        body = {"messages": messages, **self._sampling(sampling)}
        if sampling.logprobs and "logprobs" not in self.refused:
            body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        reply = conversation.reply
        if reply and (self.continues or not _ONLY_OPENS.fullmatch(reply)):
            messages.append({"role": "assistant", "content": reply})
            if PREFILL in self.refused:
                messages.append(_GO_ON)
            elif self.continues:
                body |= {"continue_final_message": True, "add_generation_prompt": False}
        return self._without_refused(body)

    def refusal(self, status: int, said: str, body: dict[str, Any]) -> str | None:
        """The field of `body` that an error answer calls unsupported, if there is one; `PREFILL`
        where it is the assistant's message at the end.

        A value out of range is no refusal: the user should hear of it.
        """
        if status not in (400, 422):
            return None
        last = body.get("messages", [{}])[-1]
        if not self.continues and last.get("role") == "assistant" and _NO_PREFILL.search(said):
            return PREFILL
        if not _REFUSAL.search(said):
            return None
        for name in (*_OPTIONAL, "max_tokens"):
            if name in body and re.search(rf"\b{name}\b", said):
                return name
        return None

    @staticmethod
    def without(name: str, body: dict[str, Any]) -> dict[str, Any]:
        """The request again, without what was refused by `refusal`."""
        if name == PREFILL:
            return {**body, "messages": [*body["messages"], _GO_ON]}
        rest = {field: value for field, value in body.items() if field != name}
        if name == "max_tokens":
            rest["max_completion_tokens"] = body[name]
        return rest

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        limit = sampling.max_tokens
        if self.context_length is not None:
            limit = min(limit, self.context_length - 1)
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            self.limit_name: limit,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.counts_along:
            body["stream_options"]["continuous_usage_stats"] = True
        if self.neutral:
            body |= {"top_k": sampling.top_k or _ALL, "repetition_penalty": 1.0}
        elif sampling.top_k is not None:
            body["top_k"] = sampling.top_k
        if sampling.ignore_eos:
            body["ignore_eos"] = True
        if sampling.special_tokens:
            body["skip_special_tokens"] = False
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.seed is not None and self.sends_seeds:
            body["seed"] = sampling.seed % _SEEDS
        return body

    def _without_refused(self, body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name not in self.refused}
