"""Measure, token by token, how sure a model is. Knows no model, no answers and no decisions.

Definitions of DeepConf (arXiv 2508.15260, section 2). A token costs a few arithmetic operations,
whatever the windows' lengths; what a whole trace needs besides is computed when it is asked for.
"""

from array import array
from collections.abc import Sequence
from math import exp
from typing import Self

from aimo2.llm import Chunk
from aimo2.types import TokenStats

WINDOW = 2048
"""Tokens of a sliding window of confidence, and of the tail."""
SHORT_WINDOW = 64
"""Tokens of a sliding window of log-probability."""
BOTTOM_SHARE = 0.1
"""Share of the windows that `bottom_confidence` is over."""
ENTROPY_CANDIDATES = 5


def token_confidence(top: Sequence[float]) -> float:
    """-(1/k) times the sum of the k candidates' log-probabilities, in nats: larger is surer."""
    return -sum(top) / len(top)


def token_entropy(top: Sequence[float]) -> float:
    """Entropy of the 5 likeliest candidates, as they are: what is left out adds nothing. Nats.

    `top`: log-probabilities, largest first.
    """
    return -sum(exp(value) * value for value in top[:ENTROPY_CANDIDATES])


class _Series:
    """Running sums of one figure a token, for means over any of its windows in constant time."""

    def __init__(self, window: int, sums: "array[float]", lowest: float | None = None) -> None:
        self.window = window
        self.sums = sums
        self.lowest = lowest

    @classmethod
    def empty(cls, window: int) -> Self:
        return cls(window, array("d", (0.0,)))

    def copy(self) -> "_Series":
        return _Series(self.window, self.sums[:], self.lowest)

    def __len__(self) -> int:
        return len(self.sums) - 1

    def add(self, value: float) -> None:
        sums = self.sums
        sums.append(sums[-1] + value)
        before = len(sums) - 1 - self.window
        if before >= 0:
            mean = (sums[-1] - sums[before]) / self.window
            if self.lowest is None or mean < self.lowest:
                self.lowest = mean

    def mean(self) -> float:
        return self.sums[-1] / len(self)

    def tail(self, length: int) -> float:
        """Mean of the last `length` values, or of all where there are fewer."""
        length = min(length, len(self))
        return (self.sums[-1] - self.sums[-1 - length]) / length

    def bottom(self, share: float) -> float:
        """Mean of the lowest share of all windows, at least one."""
        if len(self) <= self.window:
            return self.mean()
        import numpy as np  # Only traces with candidates need it, once each.

        sums = np.frombuffer(self.sums)
        means = (sums[self.window :] - sums[: -self.window]) / self.window
        count = max(1, int(len(means) * share))
        return float(np.partition(means, count - 1)[:count].mean())


class ConfidenceMeter:
    """Takes the chunks of a rollout in order; a fork goes on with a copy.

    `window`: tokens of the sliding windows of confidence.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._logprobs = _Series.empty(SHORT_WINDOW)
        self._confidence = _Series.empty(window)
        self._entropy_sum = 0.0
        self.last_entropy: float | None = None
        """Of the newest token's 5 likeliest candidates; `None` before any came."""

    def copy(self) -> "ConfidenceMeter":
        """A meter that has seen the same and goes on by itself."""
        twin = ConfidenceMeter(self._confidence.window)
        twin._logprobs = self._logprobs.copy()
        twin._confidence = self._confidence.copy()
        twin._entropy_sum = self._entropy_sum
        twin.last_entropy = self.last_entropy
        return twin

    def take(self, chunk: Chunk) -> None:
        """Count a chunk's tokens; one without log-probabilities changes nothing."""
        for value in chunk.logprobs:
            self._logprobs.add(value)
        for top in chunk.top_logprobs:
            self._confidence.add(token_confidence(top))
            self.last_entropy = token_entropy(top)
            self._entropy_sum += self.last_entropy

    @property
    def window_confidence(self) -> float | None:
        """Mean over the newest whole window; `None` before there is one."""
        series = self._confidence
        return series.tail(series.window) if len(series) >= series.window else None

    @property
    def lowest_window(self) -> float | None:
        """The lowest whole window so far; `None` before there is one."""
        return self._confidence.lowest

    @property
    def min_confidence(self) -> float | None:
        """The lowest whole window so far, the mean of all tokens before there is one."""
        if not len(self._confidence):
            return None
        lowest = self._confidence.lowest
        return self._confidence.mean() if lowest is None else lowest

    def stats(self) -> TokenStats | None:
        """The figures so far; `None` where no log-probability came."""
        logprobs, confidence = self._logprobs, self._confidence
        if not len(logprobs):
            return None
        measured = len(confidence) > 0
        return TokenStats(
            num_tokens=len(logprobs),
            mean_logprob=logprobs.mean(),
            tail_logprob=logprobs.tail(WINDOW),
            min_window_logprob=logprobs.mean() if logprobs.lowest is None else logprobs.lowest,
            confidence=confidence.mean() if measured else None,
            tail_confidence=confidence.tail(WINDOW) if measured else None,
            bottom_confidence=confidence.bottom(BOTTOM_SHARE) if measured else None,
            min_confidence=self.min_confidence,
            entropy=self._entropy_sum / len(confidence) if measured else None,
        )
