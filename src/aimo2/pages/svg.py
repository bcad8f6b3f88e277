"""Charts as inline SVG that keep their letters' size at any width. Knows no data but numbers.

Everything is placed in percent of the plot's width, so that a phone gets a narrower plot and not
a smaller one. Colours are classes (`s0` ... `s5`), which the page's stylesheet resolves for light
and dark.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SERIES = 6
"""Colours there are; more series start again from the first."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers from `low` to `high` as 0 to 100 %; with `log`, by their logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.high > self.low or (self.log and self.low <= 0):
            raise ValueError(f"no scale from {self.low} to {self.high}")

    def at(self, value: float) -> float:
        """Percent; values outside are put on the edge."""
        if self.log:
            return _clamped(math.log(max(value, self.low) / self.low) / self._decades())
        return _clamped((value - self.low) / (self.high - self.low))

    def _decades(self) -> float:
        return math.log(self.high / self.low)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers inside the scale, about as many as wanted; on a short logarithmic scale,
        evenly spread ones.
        """
        if self.log:
            steps = [base * 10.0**power for power in range(-6, 13) for base in (1, 2, 5)]
            inside = [step for step in steps if self.low <= step <= self.high]
            if len(inside) > 2:
                return inside[:: math.ceil(len(inside) / wanted)]
        rough = (self.high - self.low) / max(1, wanted)
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * base for base in (1, 2, 2.5, 5, 10) if unit * base >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


def _clamped(part: float) -> float:
    return 100 * min(1.0, max(0.0, part))


def figure_of(value: float) -> str:
    """A number for an axis or a table: short, without a tail of zeros."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
    return f"{value:.4g}"


def percent(value: float) -> str:
    """0.5 -> `50`, for an axis in percent."""
    return f"{100 * value:.3g}"


def scale_over(values: Sequence[float], *, from_zero: bool = True) -> Scale:
    """A scale that holds the values with a little room; never an empty one."""
    low = 0.0 if from_zero else min(values, default=0.0)
    high = max(values, default=1.0)
    if high <= low:
        high = low + 1.0
    return Scale(low, low + (high - low) * 1.04)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def series(number: int) -> str:
    """The colour class of a series."""
    return f"s{number % SERIES}"


def path(points: Sequence[tuple[float, float]], kind: str, *, closed: bool = False) -> str:
    """A line through points in percent (0, 0 is below on the left), or the area that it closes."""
    if not points:
        return ""
    steps = " L".join(f"{_number(10 * x)} {_number(1000 - 10 * y)}" for x, y in points)
    shape = f'<path class="{kind}" d="M{steps}{"Z" if closed else ""}"/>'
    return (
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">'
        f"{shape}</svg>"
    )


def steps(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line of horizontal steps: each value holds until the next."""
    corners: list[tuple[float, float]] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return path(corners, kind)


def dot(x: float, y: float, kind: str, title: str = "", radius: float = 4) -> str:
    """A point, at percent."""
    hint = f"<title>{html.escape(title)}</title>" if title else ""
    place = f'cx="{_number(x)}%" cy="{_number(100 - y)}%" r="{_number(radius)}"'
    return f'<circle class="{kind}" {place}>{hint}</circle>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line, at percent."""
    ends = (
        f'x1="{_number(x1)}%" y1="{_number(100 - y1)}%"'
        f' x2="{_number(x2)}%" y2="{_number(100 - y2)}%"'
    )
    return f'<line class="{kind}" {ends}/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    """Words at percent, `anchor`ed at their start, middle or end."""
    return (
        f'<text class="{kind}" x="{_number(x)}%" y="{_number(100 - y)}%"'
        f' text-anchor="{anchor}">{html.escape(words)}</text>'
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale with its name, and how its numbers are written."""

    scale: Scale
    name: str
    write: Callable[[float], str] = figure_of
    ticks: tuple[float, ...] | None = None

    def marks(self, wanted: int) -> list[tuple[float, str]]:
        """(percent, words) of each tick."""
        values = self.scale.ticks(wanted) if self.ticks is None else self.ticks
        return [(self.scale.at(value), self.write(value)) for value in values]


def chart(x: Axis, y: Axis, marks: Sequence[str], *, title: str, height: int = 230) -> str:
    """A plot with a grid. `title` is read out where nothing is seen; `height`: pixels."""
    grid = []
    for place, words in y.marks(5):
        grid.append(line(0, place, 100, place, "grid"))
        grid.append(
            f'<text class="tick" x="-7" y="{_number(100 - place)}%" dy="4"'
            f' text-anchor="end">{html.escape(words)}</text>'
        )
    for place, words in x.marks(6):
        grid.append(
            f'<text class="tick" x="{_number(place)}%" y="100%" dy="17"'
            f' text-anchor="middle">{html.escape(words)}</text>'
        )
    grid.append(line(0, 0, 100, 0, "axis"))
    return (
        f'<div class="chart"><div class="yname">{html.escape(y.name)}</div>'
        f'<svg class="plot" role="img" aria-label="{html.escape(title, quote=True)}"'
        f' height="{height}">{"".join(grid)}{"".join(marks)}</svg>'
        f'<div class="xname">{html.escape(x.name)}</div></div>'
    )


def legend(names: Sequence[str]) -> str:
    """What each colour stands for."""
    items = "".join(
        f'<li><svg width="14" height="14"><circle class="dot {series(number)}" cx="7" cy="7"'
        f' r="5"/></svg>{html.escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def interval_bar(
    scale: Scale, value: float, low: float, high: float, kind: str = "s0", title: str = ""
) -> str:
    """A bar up to `value` with its interval drawn over it; as wide as its table cell."""
    x, x1, x2 = scale.at(value), scale.at(low), scale.at(high)
    hint = f"<title>{html.escape(title)}</title>" if title else ""
    return (
        f'<svg class="bar" height="16">{hint}'
        '<rect class="track" x="0" y="2" width="100%" height="12" rx="2"/>'
        f'<rect class="fill {kind}" x="0" y="2" width="{_number(x)}%" height="12" rx="2"/>'
        f'<line class="whisker" x1="{_number(x1)}%" x2="{_number(x2)}%" y1="8" y2="8"/>'
        f'<line class="whisker" x1="{_number(x1)}%" x2="{_number(x1)}%" y1="4" y2="12"/>'
        f'<line class="whisker" x1="{_number(x2)}%" x2="{_number(x2)}%" y1="4" y2="12"/></svg>'
    )
