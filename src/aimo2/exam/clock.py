"""The exam's clock: how many of its seconds are gone. Knows no problems and no policies.

Two clocks of the machine are read. The monotonic one runs evenly but stands still while a laptop
sleeps, and starts anew with each process; the wall clock knows of the sleep, but people and time
servers set it. The exam ends at an instant of the world, so the rule is: time passes as the
monotonic clock says, a jump of the wall clock forward costs time, and one backward gives none.
"""

import time
from typing import Protocol

_JUMP_SECONDS = 0.25
"""The two clocks may drift apart by this much before it counts as a jump."""


class Clock(Protocol):
    """Where time is read from; a test moves it by hand."""

    def now(self) -> float:
        """The wall clock, in seconds since the epoch. May jump both ways."""
        ...

    def monotonic(self) -> float:
        """Seconds since some instant. Never goes back; may stand still while the machine sleeps."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """The wall clock."""
        return time.time()

    def monotonic(self) -> float:
        """The monotonic clock, which asyncio's deadlines use, too."""
        return time.monotonic()


class Stopwatch:
    """Counts exam seconds from two clocks of which neither can be trusted alone."""

    def __init__(self, clock: Clock, elapsed: float = 0.0) -> None:
        """`elapsed`: seconds that were gone already; it runs from now on."""
        self._clock = clock
        self._began = clock.monotonic() - elapsed
        self._skew = clock.now() - clock.monotonic()
        self.slept = 0.0
        """Seconds that only the wall clock has seen."""

    def elapsed(self) -> float:
        """Exam seconds gone; never less than at an earlier call."""
        monotonic = self._clock.monotonic()
        skew = self._clock.now() - monotonic
        jump = skew - self._skew
        if abs(jump) > _JUMP_SECONDS:
            self.slept += max(0.0, jump)
            self._skew = skew
        return monotonic - self._began + self.slept


def elapsed_since(at: float, elapsed: float, now: float) -> float:
    """Exam seconds gone at the wall-clock instant `now`, where `elapsed` were gone at `at`.

    For a process that goes on with another one's exam: the time between them is the wall clock's,
    and a clock that was set back meanwhile gives none.
    """
    return elapsed + max(0.0, now - at)
