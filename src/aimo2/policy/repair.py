"""Decide how a failed cell is answered, and measure how well that works. Pure.

Knows no words; those are in `prompts`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from aimo2.types import ErrorKind, Trace


def repair_step(failures: int, repairs: int) -> Literal["hint", "change"]:
    """What follows the last of `failures` failed cells in a row.

    `repairs` of them are mended by their cause; the next asks for another approach, which then has
    as many repairs of its own.
    """
    if failures < 1:
        raise ValueError(f"{failures} failed cells in a row")
    return "change" if (failures - 1) % (repairs + 1) == repairs else "hint"


@dataclass(frozen=True, slots=True)
class RepairFigures:
    """Failed cells and what came of them.

    `num_followed`: those behind which the model ran another cell at all. `num_repaired`: those
    whose next cell succeeded.
    """

    num_failed: int = 0
    num_followed: int = 0
    num_repaired: int = 0

    @property
    def share_repaired(self) -> float | None:
        """Share of the failed cells that were followed by a good one; `None` without failures."""
        return self.num_repaired / self.num_failed if self.num_failed else None

    def __add__(self, other: "RepairFigures") -> "RepairFigures":
        return RepairFigures(
            self.num_failed + other.num_failed,
            self.num_followed + other.num_followed,
            self.num_repaired + other.num_repaired,
        )


def repair_figures(traces: Iterable[Trace]) -> dict[ErrorKind, RepairFigures]:
    """Figures by cause, most frequent first. A fork's shared turns count for its parent only."""
    return summed(pair for trace in traces for pair in _of_trace(trace))


def summed(
    figures: Iterable[tuple[ErrorKind, RepairFigures]],
) -> dict[ErrorKind, RepairFigures]:
    """The sums by cause, most frequent first."""
    found: dict[ErrorKind, RepairFigures] = {}
    for error, more in figures:
        found[error] = found.get(error, RepairFigures()) + more
    return dict(sorted(found.items(), key=lambda item: (-item[1].num_failed, item[0])))


def total(figures: Mapping[ErrorKind, RepairFigures]) -> RepairFigures:
    """Over all causes."""
    return sum(figures.values(), RepairFigures())


def _of_trace(trace: Trace) -> Iterable[tuple[ErrorKind, RepairFigures]]:
    runs = [turn.run for turn in trace.turns[trace.num_shared_turns :] if turn.run is not None]
    for run, after in zip_longest(runs, runs[1:]):
        if run is not None and run.error is not None:
            followed = after is not None
            repaired = after is not None and after.error is None
            yield run.error, RepairFigures(1, followed, repaired)
