"""Decide when one rollout is ended before its reply is. Pure state machines; no model, no clock.

Each rule is told what happened and says whether the rollout ends. What asks the model or reads the
stream is in `watch`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from aimo2.config import CutConfig, ProbeLevel
from aimo2.policy.signals import last_line, same_text

_HEDGE = re.compile(
    r"\b(?:wait|hmm+|hold on|not sure|unsure|uncertain|maybe|perhaps|alternatively|double[- ]check"
    r"|let me (?:re-?)?(?:check|verify|think|consider|reconsider|try)|i made a mistake"
    r"|seems? (?:wrong|off|odd|strange|too)|(?:doesn|don|isn)'t seem)\b"
    r"|等等|等一下|不确定|不太确定|也许|或许|可能不对|好像不对|再检查|再想想|重新考虑",
    re.IGNORECASE,
)
_PROBE_HEDGE = re.compile(r"\b(?:wait|hold|but|okay|no|hmm+)\b|等|但|不", re.IGNORECASE)
"""Inside a forced answer any of these words means that the model would rather go on."""
_LONGEST_HEDGE = 24


def find_hedge(text: str) -> int | None:
    """Where the first word of doubt in `text` ends; `None` where there is none."""
    found = _HEDGE.search(text)
    return None if found is None else found.end()


@dataclass(frozen=True, slots=True)
class ProbePace:
    """How often a rollout is probed, and how many probes in a row have to agree."""

    agreeing: int
    every: int
    """Sampled tokens."""


PROBE_PACES: dict[ProbeLevel, ProbePace] = {
    "mild": ProbePace(8, 64),
    "low": ProbePace(5, 64),
    "mid": ProbePace(3, 64),
    "high": ProbePace(2, 64),
    "crazy": ProbePace(2, 32),
}
"""Levels of Dynasor's "certaindex" (arXiv 2412.20993)."""


class ProbeRule:
    """Ends a rollout whose forced answers agree (certaindex)."""

    def __init__(self, pace: ProbePace) -> None:
        self._pace = pace
        self._next = pace.every
        self._answers: list[str] = []

    def due(self, num_tokens: int) -> bool:
        """Whether to probe after so many sampled tokens; at most once in each `every` of them."""
        if num_tokens < self._next:
            return False
        self._next = (num_tokens // self._pace.every + 1) * self._pace.every
        return True

    def add(self, answer: str | None, sampled: str) -> bool:
        """Take a probe: what stood in the box, and all that was sampled. Whether the rollout ends.

        An answer is no answer where the text holds a word of doubt.
        """
        if not answer or _PROBE_HEDGE.search(sampled):
            self._answers.clear()
            return False
        if self._answers and not same_text(self._answers[-1], answer):
            self._answers.clear()
        self._answers.append(answer)
        return len(self._answers) >= self._pace.agreeing


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of all lie, between two of them in proportion.

    Raises `ValueError` without values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


@dataclass(slots=True)
class ConfidenceGate:
    """Ends rollouts that become less sure than the first ones were (DeepConf, arXiv 2508.15260).

    One for each question: the lowest windows of the first rollouts that end set the threshold,
    from then on a rollout whose window falls below it is ended and does not vote.
    """

    warm_up: int
    percent: float
    threshold: float | None = None
    _lowest: list[float] = field(default_factory=list)

    def add(self, min_confidence: float | None) -> None:
        """A rollout ended by itself; those after the warm-up change nothing."""
        if self.threshold is not None or min_confidence is None:
            return
        self._lowest.append(min_confidence)
        if len(self._lowest) >= self.warm_up:
            self.threshold = percentile(self._lowest, self.percent)

    def falls(self, window: float | None) -> bool:
        """Whether a rollout with this newest whole window (`None`: not whole yet) ends."""
        return self.threshold is not None and window is not None and window < self.threshold


@dataclass(slots=True)
class LengthGate:
    """Ends rollouts that are far longer than their siblings that have answered.

    `factor`: times the median length of those; `after`: how many of them it needs. Wrong answers
    have longer reasoning (short-m@k, arXiv 2505.17813).
    """

    factor: float
    after: int
    _lengths: list[int] = field(default_factory=list)

    def add(self, num_tokens: int) -> None:
        """A sibling has answered with so many tokens."""
        self._lengths.append(num_tokens)

    @property
    def limit(self) -> float | None:
        """Tokens that a rollout may have; `None` while too few have answered."""
        if len(self._lengths) < self.after:
            return None
        return self.factor * percentile(self._lengths, 50)

    def too_long(self, num_tokens: int) -> bool:
        """Whether a rollout of so many tokens ends."""
        limit = self.limit
        return limit is not None and num_tokens > limit


def confidence_gate(config: CutConfig) -> ConfidenceGate | None:
    """The gate of a question; `None` where confidence ends nothing."""
    return ConfidenceGate(config.warm_up, config.percentile) if config.confidence else None


def length_gate(config: CutConfig) -> LengthGate | None:
    """The gate of a question; `None` where length ends nothing."""
    return LengthGate(config.length, config.length_after) if config.length else None


class BoxWatch:
    r"""Sees complete `\boxed{}` answers in a stream, thinking included, wherever the chunks end."""

    _BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
    _WINDOW = 160
    """Longer answers are not seen; no code prints them as such."""

    def __init__(self) -> None:
        self._tail = ""

    def feed(self, text: str) -> str | None:
        """Take more text; the last box that it completes."""
        known = len(self._tail)
        window = self._tail + text
        self._tail = window[-self._WINDOW :]
        if "}" not in text:
            return None
        ended = [box[1].strip() for box in self._BOX.finditer(window) if box.end() > known]
        ended = [answer for answer in ended if answer]
        return ended[-1] if ended else None


def confirmed(answer: str | None, output: str | None) -> bool:
    """Whether an answer is the last line of a good cell's output, as text or as an integer."""
    if answer is None or output is None:
        return False
    return same_text(answer, last_line(output))
