"""Decide how a failed cell is answered, and measure how well that works. Pure.

Knows no words; those are in `prompts`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from aimo2.types import CodeRun, ErrorKind, Trace

Step = Literal["hint", "change"]
"""A repair by its cause, or another approach."""

_SILENT: frozenset[ErrorKind] = frozenset(
    {"timeout", "output", "memory", "recursion", "input", "died"}
)
"""Kinds whose error line is the same whatever caused it."""


def repair_step(failed: Sequence[CodeRun], repairs: int) -> Step:
    """What follows the last of the cells that failed in a row, given oldest first.

    `repairs` of them are mended by their cause; the next asks for another approach, which then has
    as many repairs of its own. A failure that comes again asks for it at once: of those, 1 % were
    mended by a hint (docs/measurements.md).
    """
    if not failed:
        raise ValueError("no failed cell to answer")
    step: Step = "hint"
    count = 0
    for before, run in zip((None, *failed), failed, strict=False):
        count += 1
        comes_again = before is not None and is_same_failure(before, run)
        step = "change" if comes_again or count > repairs else "hint"
        if step == "change":
            count = 0
    return step


def is_same_failure(one: CodeRun, other: CodeRun) -> bool:
    """Whether two failed cells failed alike: the same code, or the same error in the same words."""
    if one.error != other.error:
        return False
    if one.code.strip() == other.code.strip():
        return True
    said = _error_line(other)
    return ":" in said and said == _error_line(one) and one.error not in _SILENT


def _error_line(run: CodeRun) -> str:
    """The last line of its output, where a traceback names the error."""
    return run.output.rstrip().rpartition("\n")[2].strip()


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
