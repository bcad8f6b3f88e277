"""Watch the rollouts of one question and end those that `policy.cut` ends.

Knows rollouts and, for probes, the model; knows no votes. A rollout asks its watchers after each
chunk, so they return at once: a probe is a side request in a task of its own, which the server
answers from the same cached prefix while the rollout streams on.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from aimo2 import prompts, salvage
from aimo2.answers import Extracted
from aimo2.attempt import Attempt, Watcher
from aimo2.config import AnswerType, CutConfig
from aimo2.errors import ModelError
from aimo2.llm import Chunk, Conversation, Model, Sampling
from aimo2.policy.cut import (
    PROBE_PACES,
    BoxWatch,
    ConfidenceGate,
    LengthGate,
    ProbeRule,
    confidence_gate,
    confirmed,
    length_gate,
)
from aimo2.prompts.families import Family
from aimo2.types import RolloutStop

_PROBE_TOKENS = 20
_SELF_ENDED: frozenset[RolloutStop] = frozenset(
    {"answered", "no_answer", "max_tokens", "max_code_runs", "max_context", "certain"}
)
"""Stops of rollouts that were not ended from outside: they tell how sure the model usually is."""


@dataclass(frozen=True, slots=True)
class Prober:
    """Asks the model what a rollout would answer now, and throws the tokens away."""

    model: Model
    family: Family
    answer_type: AnswerType

    async def ask(self, asked: Conversation, rollout: Attempt) -> str:
        """What the model puts behind a forced answer prefix. `asked`: what `rollout` had so far.

        Tokens are counted as they arrive, so that those of a probe that is hung up on are, too.
        """
        forced = prompts.answer_prefix(asked.reply, self.family, self.answer_type)
        sampling = Sampling(
            temperature=0.0,
            top_p=1.0,
            max_tokens=_PROBE_TOKENS,
            special_tokens=self.family.keeps_special_tokens,
        )
        side = Conversation(asked.messages, asked.reply + forced)
        parts: list[str] = []
        async with aclosing(self.model.stream(side, sampling, rollout.deadline)) as chunks:
            async for chunk in chunks:
                parts.append(chunk.text)
                rollout.num_side_tokens += chunk.num_tokens
        return "".join(parts)


class ProbeWatcher:
    """Ends a rollout as "certain" when its probes agree; one probe at a time."""

    def __init__(self, rule: ProbeRule, prober: Prober) -> None:
        self._rule = rule
        self._prober = prober
        self._asking: asyncio.Task[str] | None = None

    def feed(self, chunk: Chunk, rollout: Attempt) -> RolloutStop | None:
        """Take up the answer of the last probe, and begin the next where it is due."""
        if self._asking is not None and self._asking.done():
            if self._taken(self._asking, rollout):
                return "certain"
            self._asking = None
        if self._asking is None and not rollout.in_block and self._rule.due(rollout.num_tokens):
            asked = rollout.conversation
            self._asking = asyncio.create_task(self._prober.ask(asked, rollout))
        return None

    def _taken(self, asking: asyncio.Task[str], rollout: Attempt) -> bool:
        if asking.cancelled():
            return False
        error = asking.exception()
        if error is not None:
            if not isinstance(error, ModelError):
                raise error
            return False  # The rollout's own stream will meet the same trouble.
        sampled = asking.result()
        answer = salvage.forced(sampled).answer if salvage.box_end(sampled) is not None else None
        if not self._rule.add(answer.raw if answer else None, sampled):
            return False
        assert answer is not None
        rollout.offered = Extracted(answer.raw, "forced")
        return True

    async def close(self) -> None:
        """Hang up on a probe that is under way."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait([asking])
            if not asking.cancelled():
                asking.exception()  # Seen; it came too late to matter.


@dataclass(frozen=True, slots=True)
class ConfidenceWatcher:
    """Ends a rollout as "unsure" when its newest window falls below the threshold."""

    gate: ConfidenceGate

    def feed(self, chunk: Chunk, rollout: Attempt) -> RolloutStop | None:
        """See `ConfidenceGate.falls`."""
        return "unsure" if self.gate.falls(rollout.confidence.window_confidence) else None

    async def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True, slots=True)
class LengthWatcher:
    """Ends a rollout as "too_long" when its siblings have answered in far fewer tokens."""

    gate: LengthGate

    def feed(self, chunk: Chunk, rollout: Attempt) -> RolloutStop | None:
        """See `LengthGate.too_long`."""
        return "too_long" if self.gate.too_long(rollout.num_tokens) else None

    async def close(self) -> None:
        """Nothing to let go of."""


class ConfirmedWatcher:
    """Ends a rollout as "answered" when it boxes, even in its thinking, what its code printed."""

    def __init__(self) -> None:
        self._boxes = BoxWatch()

    def feed(self, chunk: Chunk, rollout: Attempt) -> RolloutStop | None:
        """See `policy.cut.confirmed`."""
        answer = self._boxes.feed(chunk.text)
        if answer is None or rollout.in_block:
            return None
        if not confirmed(answer, _last_good_output(rollout)):
            return None
        rollout.offered = Extracted(answer, "boxed")
        return "answered"

    async def close(self) -> None:
        """Nothing to let go of."""


class Cuts:
    """The rules that end single rollouts of one question, and what they have learnt of it."""

    def __init__(self, config: CutConfig, prober: Prober) -> None:
        self._config = config
        self._prober = prober
        self._confidence = confidence_gate(config)
        self._length = length_gate(config)

    def watchers(self, rollout: Attempt) -> Sequence[Watcher]:
        """Those of one rollout; asked once, at its start."""
        found: list[Watcher] = []
        if self._config.confirmed:
            found.append(ConfirmedWatcher())
        if self._confidence is not None:
            found.append(ConfidenceWatcher(self._confidence))
        if self._length is not None:
            found.append(LengthWatcher(self._length))
        if self._config.probe is not None:
            found.append(ProbeWatcher(ProbeRule(PROBE_PACES[self._config.probe]), self._prober))
        return found

    def ended(self, rollout: Attempt) -> None:
        """A rollout has ended: the rules learn from it."""
        if self._confidence is not None and rollout.stop_reason in _SELF_ENDED:
            self._confidence.add(rollout.confidence.min_confidence)
        if self._length is not None and rollout.stop_reason in ("answered", "certain"):
            self._length.add(rollout.num_tokens)


def _last_good_output(rollout: Attempt) -> str | None:
    runs = [turn.run for turn in rollout.turns if turn.run is not None]
    return runs[-1].output if runs and runs[-1].error is None else None
