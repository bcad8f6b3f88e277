"""Votes that a display is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from aimo2.policy.vote import Tally, tally
from aimo2.types import Vote


@dataclass(frozen=True)
class Polled:
    """What a solver tells of its votes."""

    votes: Sequence[Vote]

    @property
    def tally(self) -> Tally:
        """Their sum."""
        return tally(self.votes)


def voted(*votes: Vote) -> Polled:
    """A question with these votes."""
    return Polled(votes)
