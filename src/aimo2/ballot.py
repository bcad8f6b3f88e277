"""Every vote of one question so far, weighed anew whenever one arrives. Knows no clocks."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from aimo2.answers import Judge, group, same
from aimo2.config import SolveConfig
from aimo2.deadline import NEVER, Deadline
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
    votes: Sequence[Vote] = ()
    """In order of arrival."""
    tally: Tally = field(default_factory=lambda: tally(()))
    _signals: dict[int, Signals] = field(default_factory=dict)
    """By rollout."""
    _names: Mapping[str, str] = field(default_factory=dict)
    """Expression -> the equal one that it is counted under."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def add(self, *signals: Signals, deadline: Deadline = NEVER) -> None:
        """Count more rollouts; one that is there already is replaced.

        Expressions that are not found equal by `deadline` are counted apart. Where this is
        cancelled, the signals are kept for `settle`.
        """
        self._take(signals)
        async with self._lock:
            known = tuple(self._signals.values())
            if self.config.answer_type == "expr":
                self._names = await self._classes(known, deadline)
            self._weigh(known)

    def settle(self, *signals: Signals) -> None:
        """Count these and all that was not counted yet, without algebra and without a wait.

        An expression that was not compared yet joins those that it equals by text or by value.
        """
        self._take(signals)
        known = tuple(self._signals.values())
        if self.config.answer_type == "expr":
            self._names = self._plain_classes(known)
        self._weigh(known)

    def _take(self, signals: Sequence[Signals]) -> None:
        for one in signals:
            self._signals.pop(one.rollout, None)
            self._signals[one.rollout] = one

    async def _classes(self, signals: Sequence[Signals], deadline: Deadline) -> dict[str, str]:
        """Every answer and what it is counted under: the equal one that the first rollout wrote."""
        answers = _answers(signals)
        classes = await group(answers, self.judge, deadline)
        return {answer: answers[at] for answer, at in zip(answers, classes, strict=True)}

    def _plain_classes(self, signals: Sequence[Signals]) -> dict[str, str]:
        names = dict(self._names)
        for answer in _answers(signals):
            if answer not in names:
                equal = (name for name in dict.fromkeys(names.values()) if same(name, answer))
                names[answer] = next(equal, answer)
        return names

    def _weigh(self, signals: Sequence[Signals]) -> None:
        named = [
            replace(one, answer=self._names.get(one.answer or "", one.answer)) for one in signals
        ]
        self.votes = weigh(self.config.weigh, named)
        self.tally = tally(self.votes)

    def has_answer(self, rollout: int) -> bool:
        """Whether a rollout has given one, whatever it weighs."""
        one = self._signals.get(rollout)
        return one is not None and one.answer is not None

    def hear(self, picks: Sequence[Candidate]) -> None:
        """Count a verifier's choices beside the votes."""
        verdict = verdict_votes(picks, self.votes, self.config.verify.weight)
        self.tally = tally((*self.votes, *verdict))

    def weights(self) -> dict[int, float]:
        """Rollout -> the weight of its vote."""
        return {vote.rollout: vote.weight for vote in self.votes}


def _answers(signals: Sequence[Signals]) -> list[str]:
    """Those that were given, by rollout."""
    ordered = sorted(signals, key=lambda one: one.rollout)
    return [one.answer for one in ordered if one.answer is not None]
