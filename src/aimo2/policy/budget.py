"""How many seconds of an exam a question may take. Pure: data in, decision out.

Knows neither clocks nor models: an exam tells it what is left, what each question took and how
the votes of the present one stand, and hears how long the question may go on.

- `even`: what is left, shared evenly over the problems that are left.
- `bank`: a base a question; what one leaves of it is banked, and a later one may draw on the bank
  up to a cap (NVIDIA's AIMO-2 paper: 350 s, up to 210 s drawn).
- `clamp`: as much as leaves every other problem its base, within [base, high] (public AIMO-3
  notebooks: base 240 to 300 s, high 840 to 900 s).
- `value`: goes on while a further second here is worth more than one kept for the problems to
  come; what a second is worth in which situation was learned from past traces (`Lessons`).

Whatever the policy, the last problem may use all that is left, and no question gets more than is
left. An exam that starts late has less left for each problem: bases shrink with it.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from aimo2.types import StopReason, Value

BudgetPolicy = Literal["even", "bank", "clamp", "value"]

_BANK_DRAW = 210 / 350
"""NVIDIA's draw as a part of its base."""
_CLAMP_BASE = 270 / 348
"""Middle of the notebooks' bases, as a part of an even share of 17,400 s over 50 problems."""
_CLAMP_HIGH = 870 / 348
_MOST_SHARES = 2.5
"""`value` gives a question so many even shares of what is left at the most: what was learned may
not fit this exam, and one problem must not cost many others their time."""
_FLOOR = 0.1
"""`value` leaves every later problem at least this part of its even share."""


class BudgetConfig(Value):
    """How the seconds are shared out."""

    policy: BudgetPolicy = "value"
    base: Annotated[float, Field(gt=0)] | None = None
    """Seconds a question of `bank` and `clamp`; `None` derives it from the exam's even share:
    all of it for `bank`, 78 % for `clamp`."""
    draw: Annotated[float, Field(ge=0)] | None = None
    """Seconds that a question may draw from the bank; `None` is 60 % of the base."""
    high: Annotated[float, Field(gt=0)] | None = None
    """The most seconds that `clamp` gives; `None` is 2.5 even shares."""
    patience: Annotated[float, Field(gt=0)] = 1.0
    """`value` only: below 1 gives up sooner than it thinks best, above 1 later."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The exam at the start of a question."""

    total: float
    """Seconds that the whole exam may use."""
    left: float
    """Seconds of them that are left at the question's start."""
    num_problems: int
    """All that will be asked."""
    spent: tuple[float, ...] = ()
    """Seconds that each answered problem took, in order."""
    firsts: tuple["First", ...] = ()
    """What is known of the first votes of the answered problems."""

    @property
    def num_left(self) -> int:
        """Problems left, the present one included; 1 at the least."""
        return max(1, self.num_problems - len(self.spent))

    @property
    def share(self) -> float:
        """An even share of the whole exam, in seconds."""
        return self.total / self.num_problems

    @property
    def share_left(self) -> float:
        """An even share of what is left, in seconds."""
        return max(0.0, self.left) / self.num_left


@dataclass(frozen=True, slots=True)
class First:
    """A problem's first vote: it came after `seconds`, or had not come when the problem ended."""

    seconds: float
    came: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """The present question."""

    seconds: float = 0.0
    """Since its start."""
    weights: tuple[float, ...] = ()
    """Of its answers, the largest first."""
    num_votes: int = 0
    first_vote: float | None = None
    """Seconds until the first vote; `None` while there is none."""

    @property
    def first(self) -> First:
        """The first vote as far as it is known now."""
        known = self.first_vote
        return First(self.seconds, False) if known is None else First(known, True)

    @property
    def share(self) -> float:
        """The leader's part of the votes' weight; 0 where nobody voted."""
        total = sum(self.weights)
        return self.weights[0] / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a question may take. `stop`: why it ends now, `None` while it may go on."""

    seconds: float
    """From the question's start; more may be granted later only by `value`."""
    stop: StopReason | None = None
    worth: float | None = None
    """`value`: what a second here is worth, in right answers a unit of time, see `Lessons`."""
    price: float | None = None
    """`value`: what a second is worth to the problems to come."""


class Lessons(Value):
    """What past traces say a moment more is worth, by situation. Derived figures only.

    Time is counted in units: the median time until a problem's first vote. So what was learned at
    one pace holds at another; an exam's own pace is learned as it goes, see `Pace`.
    """

    version: Literal[1] = 1
    source: str
    """From what traces, with what settings."""
    edges: tuple[float, ...]
    """Where the bins of time begin, in units, ascending from 0."""
    worth: dict[str, tuple[float, ...]]
    """Situation (`situation`) -> by bin of time: the best rate at which the chance of a right
    answer grows from here on, over all horizons: gain of chance a unit of time. It counts changes
    of the leader from wrong to right, less those from right to wrong."""
    prices: tuple[float, ...]
    """A grid of worths, ascending."""
    usage: tuple[float, ...]
    """By price: mean units that a problem takes if it goes on only while it is worth the price."""
    score: tuple[float, ...]
    """By price: mean chance of a right answer then."""
    survival: tuple[float, ...]
    """By bin of time: part of the problems that are undecided at its beginning."""
    hazard: tuple[float, ...]
    """By bin of `FIRST_EDGES`: rate of the first vote where there was none before, a unit."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        bins = {len(self.edges), len(self.survival), *map(len, self.worth.values())}
        if len(bins) > 1 or set(self.worth) != set(situations()):
            raise ValueError("the table of worths does not have a row a situation, all as long")
        if not len(self.prices) == len(self.usage) == len(self.score) > 1:
            raise ValueError("prices, usage and score must be of one length")
        if len(self.hazard) != len(FIRST_EDGES) or min(self.hazard) <= 0:
            raise ValueError(f"the hazard needs {len(FIRST_EDGES)} rates above 0")
        return self

    def worth_of(self, standing: Standing, unit_seconds: float) -> float:
        """The gain of chance a unit of time in this situation."""
        column = bisect.bisect_right(self.edges, standing.seconds / unit_seconds) - 1
        return self.worth[situation(standing)][max(0, column)]

    @property
    def top_price(self) -> float:
        """The highest price at which a fresh problem is still begun."""
        begun = [price for price, used in zip(self.prices, self.usage, strict=True) if used > 0]
        return begun[-1] if begun else 0.0

    def price_for(self, units: float) -> float:
        """The price at which a problem takes `units` of time on average; 0 where there is plenty.

        Interpolated: usage falls as the price rises.
        """
        if units >= self.usage[0]:
            return 0.0
        for index in range(1, len(self.prices)):
            low, high = self.usage[index], self.usage[index - 1]
            if units >= low:
                part = (high - units) / (high - low) if high > low else 0.0
                return self.prices[index - 1] + part * (self.prices[index] - self.prices[index - 1])
        return self.prices[-1]


_COUNTS = (1, 2, 4, 8)
"""Classes of the number of votes: 1, 2 to 3, 4 to 7, 8 and more."""
_SHARES = (0.0, 0.34, 0.51, 0.76)
"""Classes of the leader's share: a scatter, a plurality, a majority, nearly all."""


def situation(standing: Standing) -> str:
    """The class of a question's votes, such as `4+ 0.51`."""
    if not standing.num_votes:
        return "0"
    count = _COUNTS[bisect.bisect_right(_COUNTS, standing.num_votes) - 1]
    if count == 1:
        return "1"
    return f"{count}+ {_SHARES[bisect.bisect_right(_SHARES, standing.share) - 1]:g}"


def situations() -> tuple[str, ...]:
    """Every class that `situation` names."""
    several = tuple(f"{count}+ {share:g}" for count in _COUNTS[1:] for share in _SHARES)
    return ("0", "1", *several)


_Array = np.ndarray[Any, np.dtype[np.float64]]
FIRST_EDGES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 40.0)
"""Bins of the time of first votes, in units; the last one has no end."""
_UNITS = np.exp(np.linspace(-4.0, 4.0, 65))
"""Paces that are thought possible, as multiples of the assumed one."""
_UNIT_SPREAD = 1.5
"""Standard deviation of the assumed pace's logarithm: it is off by a factor of 4, quite likely."""


class Pace:
    """How long a unit of time is in this exam: what its own problems have shown so far.

    The learned hazard of the first vote, with the time stretched by an unknown factor, has a
    likelihood for each problem, whether its first vote came or was not waited for (right-censored).
    The factor's prior is log-normal around the assumption that an even share of the exam lasts as
    long as the traces' mean problem.
    """

    def __init__(self, lessons: Lessons, share: float, firsts: Sequence[First]) -> None:
        self._hazard = np.log(np.asarray(lessons.hazard))
        lengths = np.diff(FIRST_EDGES)
        sums = np.cumsum(np.asarray(lessons.hazard[:-1]) * lengths)
        self._cumulated = np.concatenate(([0.0], sums))
        self._last = lessons.hazard[-1]
        self._units = _UNITS * max(share, 1e-9) / max(lessons.usage[0], 1e-9)
        self._log_units = np.log(self._units)
        self._weights = -0.5 * (np.log(_UNITS) / _UNIT_SPREAD) ** 2
        for first in firsts:
            self._weights = self._weights + self._likelihood(first)
        self._known: tuple[First, float] | None = None

    def unit(self, first: First) -> float:
        """Seconds a unit, with what the present problem shows: the posterior's geometric mean."""
        if self._known is None or self._known[0] != first:
            self._known = first, self._posterior(first)
        return self._known[1]

    def _posterior(self, first: First) -> float:
        weights = self._weights + self._likelihood(first)
        parts = np.exp(weights - weights.max())
        return float(np.exp((parts * self._log_units).sum() / parts.sum()))

    def _likelihood(self, first: First) -> _Array:
        """Of the problem, by pace; its logarithm."""
        units = first.seconds / self._units
        beyond = np.maximum(0.0, units - FIRST_EDGES[-1]) * self._last
        survived = np.interp(units, FIRST_EDGES, self._cumulated) + beyond
        likelihood: _Array = -survived
        if first.came:
            places = np.searchsorted(FIRST_EDGES, units, side="right") - 1
            likelihood = likelihood + self._hazard[places] - self._log_units
        return likelihood


def bank(base: float, spent: Sequence[float]) -> float:
    """Seconds in the bank after questions that took `spent`; an overdraft is forgiven."""
    saved = 0.0
    for seconds in spent:
        saved = max(0.0, saved + base - seconds)
    return saved


def banked(config: BudgetConfig, ledger: Ledger) -> float:
    """Seconds saved against the policy's base, or against an even share where it has none."""
    return bank(config.base or ledger.share, ledger.spent)


def grant(
    config: BudgetConfig,
    ledger: Ledger,
    standing: Standing,
    lessons: Lessons | None = None,
    pace: Pace | None = None,
    *,
    most: float | None = None,
) -> Grant:
    """How long the question may go on, and whether it should end now.

    `pace`: of the exam up to this question, computed from the ledger where it is `None`. `most`:
    seconds that no question may pass, whatever is left. Raises `ValueError` for `value` without
    lessons.
    """
    cap = max(0.0, ledger.left if most is None else min(ledger.left, most))
    if ledger.num_left == 1:
        return Grant(cap)
    if config.policy == "value":
        if lessons is None:
            raise ValueError("the policy `value` needs lessons")
        if pace is None:
            pace = Pace(lessons, ledger.share, ledger.firsts)
        return _value(config, ledger, standing, lessons, pace, cap)
    return Grant(min(cap, _fixed(config, ledger)))


def _fixed(config: BudgetConfig, ledger: Ledger) -> float:
    """Seconds of a question, known at its start."""
    if config.policy == "even":
        return ledger.share_left
    if config.policy == "bank":
        wanted = config.base or ledger.share
        drawn = _BANK_DRAW * wanted if config.draw is None else config.draw
        return min(wanted, ledger.share_left) + min(bank(wanted, ledger.spent), drawn)
    wanted = _CLAMP_BASE * ledger.share if config.base is None else config.base
    base = min(wanted, ledger.share_left)
    high = _CLAMP_HIGH * ledger.share if config.high is None else config.high
    return min(max(ledger.left - base * (ledger.num_left - 1), base), max(base, high))


def _value(
    config: BudgetConfig,
    ledger: Ledger,
    standing: Standing,
    lessons: Lessons,
    pace: Pace,
    cap: float,
) -> Grant:
    """Go on while a unit here is worth more than what it buys later.

    The price of a unit is that at which the problems to come would on average use exactly what is
    left now: a Lagrange multiplier, found on the learned curve of use by price. It never rises
    above what a fresh problem is worth: a problem that is skipped at its start gains nothing that
    the next one would not.
    """
    others = ledger.num_left - 1
    unit = pace.unit(standing.first)
    left = max(0.0, ledger.left - standing.seconds)
    floor = _FLOOR * min(ledger.share, ledger.share_left) * others
    most = max(0.0, min(cap, ledger.left - floor, _MOST_SHARES * ledger.share_left))
    price = min(lessons.price_for(left / others / unit), lessons.top_price) / config.patience
    worth = lessons.worth_of(standing, unit)
    stop: StopReason | None = "no_progress" if worth < price else None
    return Grant(most, stop, worth, price)
