"""Every vote of one question so far, weighed anew whenever one arrives. Knows no clocks."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aimo2.answers import Judge, group
from aimo2.config import SolveConfig
from aimo2.policy.select import Candidate, verdict_votes
from aimo2.policy.signals import Signals
from aimo2.policy.vote import Tally, tally
from aimo2.policy.weigh import weigh
from aimo2.types import Vote


@dataclass(slots=True)
class Ballot:
    """The ended rollouts' signals in order of arrival, and what they came to.

    Every change weighs the whole set anew, so the tally depends on the set alone.
    """

    config: SolveConfig
    judge: Judge
    signals: list[Signals] = field(default_factory=list)
    votes: Sequence[Vote] = ()
    """In order of arrival."""
    tally: Tally = field(default_factory=lambda: tally(()))
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def add(self, *signals: Signals) -> None:
        """Count more rollouts."""
        async with self._lock:
            self.signals.extend(signals)
            self.votes = weigh(self.config.weigh, await self._merged(self.signals))
            self.tally = tally(self.votes)

    async def _merged(self, signals: Sequence[Signals]) -> Sequence[Signals]:
        """Equal expressions put under the one that the first rollout wrote."""
        if self.config.answer_type == "int":
            return signals
        answered = sorted(
            (one for one in signals if one.answer is not None), key=lambda one: one.rollout
        )
        classes = await group([one.answer or "" for one in answered], self.judge)
        names: dict[int, str] = {}
        renamed: dict[int, str] = {}
        for one, number in zip(answered, classes, strict=True):
            renamed[one.rollout] = names.setdefault(number, one.answer or "")
        return [replace(one, answer=renamed.get(one.rollout)) for one in signals]

    def hear(self, picks: Sequence[Candidate]) -> None:
        """Count a verifier's choices beside the votes."""
        verdict = verdict_votes(picks, self.votes, self.config.verify.weight)
        self.tally = tally((*self.votes, *verdict))

    def weights(self) -> dict[int, float]:
        """Rollout -> the weight of its vote."""
        return {vote.rollout: vote.weight for vote in self.votes}
