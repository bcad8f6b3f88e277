"""When a question has to do what, counted back from when its answer is due. Never waits."""

from collections.abc import Sequence
from dataclasses import dataclass

from aimo2.config import SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.turns import Pace

_LAST_WORD_SECONDS = 0.3
"""Rollouts are cancelled this long before the deadline, so that the vote is out in time."""
LEAST_WAIT_SECONDS = 0.002
"""A wait that rounding makes too short for the clock to move would be repeated for ever."""
_SETTLE_SECONDS = 0.2
"""Rollouts end by themselves this long before that, and still read their own answer."""
_SALVAGE_SECONDS = 2.0
"""How long before the deadline answers are forced, where no speed was observed yet."""
_LEAST_SALVAGE_SECONDS = 0.3
_MOST_SALVAGE = 0.25
"""Part of the question's time that salvage may take."""
_FIRST_SALVAGE = 0.1
"""The same before any speed was observed."""
_SALVAGE_SAFETY = 1.5
_MOST_VERIFYING = 0.25
"""Part of the question's time that is kept for a verifier, at most."""


@dataclass(slots=True)
class Schedule:
    """The instants of one question; `deadline` may be moved while it runs."""

    config: SolveConfig
    verifies: bool
    """Whether a verifier needs some time behind the vote."""
    began: float = 0.0
    """On the event loop's clock."""
    deadline: Deadline = NEVER

    def last_word(self) -> Deadline:
        """When nothing may change the outcome any more."""
        return self.deadline.earlier(_LAST_WORD_SECONDS)

    def voted_by(self) -> Deadline:
        """When the rollouts' votes have to be in."""
        reserve = 0.0
        if self.verifies and self.deadline.when() is not None:
            whole = self.deadline.at - self.began
            reserve = max(0.0, min(self.config.verify.seconds, _MOST_VERIFYING * whole))
        return self.last_word().earlier(reserve)

    def settled_by(self) -> Deadline:
        """When every rollout should have ended by itself."""
        return self.voted_by().earlier(_SETTLE_SECONDS)

    def wind_down_at(self, paces: Sequence[Pace]) -> Deadline:
        """When answers are forced. `paces`: of the streams that live."""
        if not self.config.salvage.enabled or self.deadline.when() is None:
            return self.settled_by()
        return self.settled_by().earlier(self._salvage_seconds(paces))

    def look_again(self, paces: Sequence[Pace]) -> float:
        """Seconds until `wind_down_at` should be asked anew: it moves as speeds are learned.

        0 where its time has come; `math.inf` where there is no deadline.
        """
        left = self.wind_down_at(paces).remaining()
        if left <= 0:
            return 0.0
        return max(left, LEAST_WAIT_SECONDS) if left < 1 else max(1.0, left / 4)

    def _salvage_seconds(self, paces: Sequence[Pace]) -> float:
        """How long forcing an answer takes: as configured, or by the slowest live stream."""
        salvage = self.config.salvage
        if salvage.seconds is not None:
            return salvage.seconds
        whole = self.deadline.at - self.began
        if not paces:
            return min(_SALVAGE_SECONDS, _FIRST_SALVAGE * whole)
        slowest = max(pace.forecast(salvage.max_tokens) for pace in paces)
        return min(max(_LEAST_SALVAGE_SECONDS, _SALVAGE_SAFETY * slowest), _MOST_SALVAGE * whole)
