"""Ask a process reward model how good a reply's last step is. Knows no trees and no decisions.

The model is served by vLLM's pooling API (`vllm serve MODEL --runner pooling`). Steps are told
apart by Qwen2.5-Math-PRM's mark (arXiv 2501.07301); a model without marks gives one value a token,
and the last one counts.
"""

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from aimo2.deadline import Deadline
from aimo2.errors import RequestRejected
from aimo2.llm import Conversation
from aimo2.llm.template import as_json
from aimo2.llm.transport import ClientLimits, Endpoint, Transport

STEP_MARK = "<extra_0>"
_LIMITS = ClientLimits(connect=5.0, first_byte=60.0, max_retries=0)


class RewardModel:
    """A client; an asynchronous context manager. `model`: `None` takes the first that is served."""

    def __init__(
        self, endpoint: str | Endpoint | Callable[[], Endpoint], model: str | None = None
    ) -> None:
        found = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
        self._transport = Transport(found if callable(found) else lambda: found, _LIMITS)
        self._name = model

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

    async def connect(self, deadline: Deadline) -> str:
        """The served model's name. Raises `ModelError` where the server cannot be reached."""
        if self._name is None:
            listed = await self._transport.get("models", deadline)
            try:
                self._name = str(listed["data"][0]["id"])
            except (LookupError, TypeError) as error:
                raise RequestRejected(
                    f"{self._transport.where} lists no model: name it with --reward-model"
                ) from error
        return self._name

    async def score(self, conversation: Conversation, deadline: Deadline) -> float:
        """The reward of the reply's last step, 0 to 1. Raises `ModelError`."""
        name = await self.connect(deadline)
        steps = [step.strip() for step in conversation.reply.split("\n\n") if step.strip()]
        reply = "".join(step + STEP_MARK for step in steps)
        messages = [*as_json(conversation.messages), {"role": "assistant", "content": reply}]
        answer = await self._transport.post(
            "pooling", {"model": name, "messages": messages}, deadline, root=True
        )
        return last_reward(answer)


def last_reward(answer: Any) -> float:
    """The last step's reward in an answer of the pooling API, 0 to 1.

    Two values a step are the probabilities of a bad and of a good step; one value is a probability,
    or, outside 0 to 1, a logit. Raises `RequestRejected` where it is none of these.
    """
    try:
        row = answer["data"][-1]["data"]
        while isinstance(row[-1], list):
            row = row[-1]
        value = float(row[-1])
    except (LookupError, TypeError, ValueError) as error:
        raise RequestRejected(
            "the reward model's answer holds no rewards: serve it with vLLM's pooling runner"
        ) from error
    if math.isnan(value):
        raise RequestRejected("the reward model's answer is not a number")
    if 0.0 <= value <= 1.0:
        return value
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, value))))
