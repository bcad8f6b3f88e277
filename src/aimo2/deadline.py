"""Absolute instants on the event loop's clock. Knows nothing of what is waited for.

Everything that waits takes a `Deadline`, computed once at the top. The clock is the running event
loop's `time()`, so that a test's virtual loop moves it without sleeping.
"""

import asyncio
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """An instant, or never.

    `at`: seconds on the event loop's clock; `math.inf` means no deadline.
    """

    at: float

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """The instant `seconds` from now; `None` is never. Needs a running event loop.

        Raises `ValueError` where `seconds` is negative or not a number.
        """
        if seconds is None:
            return NEVER
        if not seconds >= 0:
            raise ValueError(f"a timeout must be 0 or more seconds, not {seconds!r}")
        return cls(asyncio.get_running_loop().time() + seconds)

    def remaining(self) -> float:
        """Seconds left, never below 0; `math.inf` where there is no deadline."""
        return max(0.0, self.at - asyncio.get_running_loop().time())

    def passed(self) -> bool:
        """Whether the instant has come."""
        return self.remaining() <= 0

    def earlier(self, seconds: float) -> "Deadline":
        """The instant `seconds` before this one."""
        return Deadline(self.at - seconds)

    def within(self, seconds: float | None) -> "Deadline":
        """The nearer of this deadline and `seconds` from now."""
        return min(self, Deadline.after(seconds))

    def when(self) -> float | None:
        """The instant as `asyncio.timeout_at` takes it: `None` where there is no deadline."""
        return None if math.isinf(self.at) else self.at


NEVER = Deadline(math.inf)
