"""Whole exams on a virtual clock, with recorded samples as the model; and what they teach.

A question's course (`Course`) is replayed once without a limit; an exam walks along the courses of
its problems, and `policy.budget` decides how far. `learn` makes the `Lessons` of the policy `value`
from such courses. Knows no files and no terminal.

What is not modelled: the start of an engine, forced answers at a deadline, and pauses between
questions.
"""

import bisect
import math
import random
import statistics
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimo2.evals.recorded import ReplayedProblem
from aimo2.evals.replay import DEFAULT_THROUGHPUT, Policy, Throughput, replay
from aimo2.policy.budget import (
    FIRST_EDGES,
    BudgetConfig,
    First,
    Ledger,
    Lessons,
    Pace,
    Standing,
    grant,
    situation,
    situations,
)
from aimo2.policy.vote import Tally

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Mark:
    """The votes from one moment on."""

    seconds: float
    weights: tuple[float, ...]
    """Of the answers, the largest first."""
    num_votes: int
    right: bool
    """Whether the leader is the right answer."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a question goes if nobody ends it before it is decided."""

    problem_id: str
    run: str
    """Of the samples, with the number of rollouts at the same time: equal ones share a pace."""
    marks: tuple[Mark, ...]
    """In order of time, from second 0 without votes."""
    end: float
    """Seconds until it was decided, or every rollout had ended."""

    def at(self, seconds: float) -> Mark:
        """The votes as they stood then."""
        place = bisect.bisect_right(self.marks, seconds, key=lambda mark: mark.seconds)
        return self.marks[max(0, place - 1)]

    @property
    def first_vote(self) -> float | None:
        """Seconds until the first vote; `None` where there is none."""
        return next((mark.seconds for mark in self.marks if mark.num_votes), None)

    def standing(self, seconds: float) -> Standing:
        """As the budget's policy sees the question then."""
        mark = self.at(seconds)
        first = self.first_vote if mark.num_votes else None
        return Standing(seconds, mark.weights, mark.num_votes, first)

    @property
    def num_votes(self) -> int:
        """In the end."""
        return self.marks[-1].num_votes


def course(
    problem: ReplayedProblem,
    policy: Policy,
    server: Throughput = DEFAULT_THROUGHPUT,
    *,
    order: Sequence[int] | None = None,
) -> Course:
    """The course of one question, its rollouts opened in `order`."""
    marks = [Mark(0.0, (), 0, False)]

    def watch(seconds: float, votes: Tally) -> None:
        right = votes.leader is not None and votes.leader == problem.right
        marks.append(Mark(seconds, tuple(votes.weights.values()), votes.num_votes, right))

    decision = replay(problem, policy, server, order=order, watch=watch)
    run = f"{problem.run} x{policy.concurrency}"
    return Course(problem.problem_id, run, tuple(marks), max(decision.seconds, 1e-6))


def courses(
    problems: Iterable[ReplayedProblem],
    policy: Policy,
    server: Throughput = DEFAULT_THROUGHPUT,
    *,
    repeats: int = 8,
    seed: int = 0,
) -> list[list[Course]]:
    """By problem, its course with its samples in `repeats` random orders."""
    chance = random.Random(seed)
    found = []
    for problem in problems:
        orders = []
        for _ in range(repeats):
            places = list(range(len(problem.samples)))
            chance.shuffle(places)
            orders.append(course(problem, policy, server, order=places))
        found.append(orders)
    return found


@dataclass(frozen=True, slots=True)
class SimulatedExam:
    """What one exam came to."""

    score: int
    used: float
    """Seconds of the exam."""
    overshoot: float
    """Seconds beyond its limit, or the largest beyond a question's; 0 is what is wanted."""
    num_lost: int
    """Problems that ended without a vote although their course has votes."""
    num_given_back: int
    """Problems that the policy ended before they were decided, with time left for them."""


def sit(
    paths: Sequence[Course],
    total: float,
    config: BudgetConfig,
    lessons: Lessons | None = None,
    *,
    per_question: float | None = None,
) -> SimulatedExam:
    """One exam of `total` seconds over the courses, in their order."""
    used = 0.0
    spent: list[float] = []
    firsts: list[First] = []
    score = lost = given_back = 0
    overshoot = 0.0
    for path in paths:
        ledger = Ledger(total, max(0.0, total - used), len(paths), tuple(spent), tuple(firsts))
        seconds, early = _taken(path, config, ledger, lessons, per_question)
        mark = path.at(seconds)
        score += mark.right
        firsts.append(path.standing(seconds).first)
        lost += not mark.num_votes and path.num_votes > 0
        given_back += early
        used += seconds
        spent.append(seconds)
        if per_question is not None:
            overshoot = max(overshoot, seconds - per_question)
    return SimulatedExam(score, used, max(0.0, overshoot, used - total), lost, given_back)


_SLICES = 20
"""How often a question is looked at in an even share of the exam, besides at each vote."""


def _taken(
    path: Course,
    config: BudgetConfig,
    ledger: Ledger,
    lessons: Lessons | None,
    most: float | None,
) -> tuple[float, bool]:
    """Seconds that the question gets, and whether it was ended early by the policy's choice."""
    pace = None
    if config.policy == "value" and lessons is not None:
        pace = Pace(lessons, ledger.share, ledger.firsts)
    first = grant(config, ledger, Standing(), lessons, pace, most=most)
    if config.policy != "value":
        return min(path.end, first.seconds), False
    given = first
    for seconds in _moments(path, ledger.share / _SLICES):
        if given.stop is not None:
            break
        if seconds >= given.seconds:
            return min(path.end, given.seconds), False
        given = grant(config, ledger, path.standing(seconds), lessons, pace, most=most)
        if given.stop is not None:
            return seconds, True
    if given.stop is not None:
        return 0.0, True
    return min(path.end, given.seconds), False


def _moments(path: Course, slice_seconds: float) -> list[float]:
    """When the policy looks: at each vote, and at even slices; all before the course's end."""
    count = min(2_000, math.ceil(path.end / slice_seconds))
    moments = {number * slice_seconds for number in range(1, count + 1)}
    moments |= {mark.seconds for mark in path.marks}
    return sorted(moment for moment in moments if 0 < moment < path.end)


EDGES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
"""Bins of time in units, see `Lessons`."""
_STEP = 0.125
_LONGEST = 40.0
"""Units after which a course teaches nothing new."""
_PRIOR = 40.0
"""Moments that a situation's mean weighs in each of its bins of time."""
PRICES = (0.0, *(round(10 ** (power / 8), 6) for power in range(-32, 7)))


def learn(groups: Sequence[Sequence[Course]], source: str) -> Lessons:
    """The lessons of courses, a sequence for each problem; problems of one run share a unit.

    Raises `ValueError` where no course has a vote.
    """
    units = _units(groups)
    flat = [(path, units[path.run]) for group in groups for path in group if path.run in units]
    if not flat:
        raise ValueError("no course has a vote: nothing can be learned")
    worth = _Chain(flat).worth()
    draft = Lessons(
        source=source,
        edges=EDGES,
        worth=worth,
        prices=PRICES,
        usage=(1.0,) * len(PRICES),
        score=(0.0,) * len(PRICES),
        survival=_survival(flat),
        hazard=_hazard(flat),
    )
    usage, score = _by_price(flat, draft)
    return draft.model_copy(update={"usage": usage, "score": score})


def _units(groups: Sequence[Sequence[Course]]) -> dict[str, float]:
    """Run -> median seconds until the first vote, of the courses that have one."""
    firsts: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for path in group:
            if path.first_vote is not None:
                firsts[path.run].append(path.first_vote)
    return {run: max(1e-6, statistics.median(seconds)) for run, seconds in firsts.items()}


def _bin(units: float) -> int:
    return bisect.bisect_right(EDGES, units) - 1


class _Chain:
    """The courses as a Markov chain over (situation, bin of time), in steps of `_STEP` units.

    `follow`: bins x situations x situations, the chance to be there a step later. `end`: bins x
    situations, the chance that the question is decided in the step. `right` and `right_end`: the
    chance that the leader is right in a situation, and where the question ends out of it. Bins with
    few moments lean on the situation's mean over all bins.
    """

    def __init__(self, flat: Sequence[tuple[Course, float]]) -> None:
        self._names = {name: number for number, name in enumerate(situations())}
        size = len(self._names)
        follow = np.zeros((len(EDGES), size, size))
        seen, right, end, right_end = (np.zeros((len(EDGES), size)) for _ in range(4))
        for path, unit in flat:
            states = self._states(path, unit)
            for number, (state, is_right) in enumerate(states):
                column = _bin(number * _STEP)
                seen[column, state] += 1
                right[column, state] += is_right
                if number + 1 < len(states):
                    follow[column, state, states[number + 1][0]] += 1
                else:
                    end[column, state] += 1
                    right_end[column, state] += path.marks[-1].right
        self.follow = _leaning(follow, seen)
        self.end = _leaning(end, seen)
        self.right = _leaning(right, seen)
        self.right_end = _leaning(right_end, end, 5.0)

    def _states(self, path: Course, unit: float) -> list[tuple[int, bool]]:
        """Situation and whether its leader is right, step by step up to the end."""
        count = max(1, math.ceil(min(path.end / unit, _LONGEST) / _STEP))
        moments = (number * _STEP * unit for number in range(count))
        return [
            (self._names[situation(path.standing(moment))], path.at(moment).right)
            for moment in moments
        ]

    def worth(self) -> dict[str, tuple[float, ...]]:
        """By situation and bin: the highest price a unit at which going on is best.

        Optimal stopping by backward induction: to stop is worth the chance that the leader is
        right; to go on costs the price, and is worth what follows.
        """
        highest = np.zeros((len(EDGES), len(self._names)))
        for price in PRICES[1:]:
            going = self._going(price)
            highest[going] = price
        return {
            name: tuple(round(float(each), 6) for each in highest[:, number])
            for name, number in self._names.items()
        }

    def _going(self, price: float) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """By bin and situation: whether going on is best in the bin's first step."""
        value = self.right[-1]
        going = np.zeros(self.right.shape, dtype=bool)
        for number in reversed(range(round(_LONGEST / _STEP))):
            column = _bin(number * _STEP)
            on = self.follow[column] @ value + self.end[column] * self.right_end[column]
            on = on - price * _STEP
            going[column] = on > self.right[column]
            value = np.maximum(on, self.right[column])
        return going


def _leaning(sums: Array, counts: Array, prior: float = _PRIOR) -> Array:
    """Sums over counts by bin (axis 0), with `prior` moments of the mean over all bins."""
    wide = counts if sums.ndim == counts.ndim else counts[..., np.newaxis]
    mean = sums.sum(axis=0) / np.maximum(wide.sum(axis=0), 1e-9)
    result: Array = (sums + prior * mean) / (wide + prior)
    return result


def _survival(flat: Sequence[tuple[Course, float]]) -> tuple[float, ...]:
    return tuple(
        round(sum(path.end / unit > edge for path, unit in flat) / len(flat), 4) for edge in EDGES
    )


def _hazard(flat: Sequence[tuple[Course, float]]) -> tuple[float, ...]:
    """Rate of first votes by bin; each bin has a tenth of a vote at the mean rate beforehand."""
    firsts = [(path.first_vote, path.end, unit) for path, unit in flat]
    came = [0.0] * len(FIRST_EDGES)
    waited = [0.0] * len(FIRST_EDGES)
    for first, end, unit in firsts:
        units = (end if first is None else first) / unit
        for number, low in enumerate(FIRST_EDGES):
            high = FIRST_EDGES[number + 1] if number + 1 < len(FIRST_EDGES) else math.inf
            waited[number] += max(0.0, min(high, units) - low)
            came[number] += first is not None and low <= units < high
    mean = sum(came) / max(sum(waited), 1e-9)
    return tuple(
        round((votes + 0.1) / (units + 0.1 / mean), 6)
        for votes, units in zip(came, waited, strict=True)
    )


def _by_price(
    flat: Sequence[tuple[Course, float]], lessons: Lessons
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean units and mean chance of a right answer, if questions go on while worth the price."""
    usage = [0.0] * len(PRICES)
    score = [0.0] * len(PRICES)
    for path, unit in flat:
        # The lowest worth so far decides at which prices the question still goes on.
        lowest = math.inf
        ended = [path.end] * len(PRICES)
        left = len(PRICES)
        for now in (0.0, *_moments(path, _STEP * unit)):
            lowest = min(lowest, lessons.worth_of(path.standing(now), unit))
            going = bisect.bisect_right(PRICES, lowest)
            for index in range(going, left):
                ended[index] = now
            left = min(left, going)
        for index, seconds in enumerate(ended):
            usage[index] += seconds / unit
            score[index] += path.at(seconds).right
    number = len(flat)
    falling: list[float] = []
    for units in usage:
        falling.append(round(min(units / number, falling[-1] if falling else math.inf), 4))
    return tuple(falling), tuple(round(each / number, 4) for each in score)


@dataclass(frozen=True, slots=True)
class Exams:
    """Many exams under one policy."""

    policy: str
    part: float
    """Of the time that is needed on average where nothing is cut off."""
    exams: tuple[SimulatedExam, ...]

    def mean(self, figure: Callable[[SimulatedExam], float]) -> tuple[float, float, float]:
        """Of a figure of the exams, with its 95 % interval."""
        return interval([figure(exam) for exam in self.exams])

    def difference(self, other: "Exams") -> tuple[float, float, float]:
        """Mean of this score minus the other's on the same exams, with its 95 % interval."""
        pairs = zip(self.exams, other.exams, strict=True)
        return interval([mine.score - theirs.score for mine, theirs in pairs])


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and its normal 95 % interval.

    Over random exams: it says how sure the figure is for these traces, not for other problems.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, mean, mean
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


@dataclass(frozen=True, slots=True)
class Hall:
    """The exams that all policies sit: the courses of each, and the lessons for `value`."""

    exams: tuple[tuple[Course, ...], ...]
    lessons: tuple[Lessons, ...]
    """By exam."""
    need: float
    """Seconds that an exam takes on average if no question is ended before it is decided."""


def hall(
    groups: Sequence[Sequence[Course]],
    lessons: Lessons | None,
    *,
    num_exams: int = 1000,
    num_problems: int = 50,
    seed: int = 0,
) -> Hall:
    """Draw random exams of the problems, a sequence of courses for each.

    An exam draws `num_problems` of the problems without repetition, with repetition where there are
    fewer; of each, a random course. Without `lessons` they are learned from one half of the
    problems for exams of the other half, and the other way round. Raises `ValueError` without
    problems, or where a half has none.
    """
    if not groups:
        raise ValueError("no problems to draw exams of")
    sides = [(list(groups), lessons)] if lessons is not None else _crossed(groups)
    chance = random.Random(seed)
    exams, taught = [], []
    for number in range(num_exams):
        mine, learned = sides[number % len(sides)]
        enough = len(mine) >= num_problems
        chosen = (
            chance.sample(mine, num_problems) if enough else chance.choices(mine, k=num_problems)
        )
        exams.append(tuple(chance.choice(group) for group in chosen))
        assert learned is not None
        taught.append(learned)
    need = statistics.fmean(path.end for group in groups for path in group) * num_problems
    return Hall(tuple(exams), tuple(taught), need)


def _crossed(
    groups: Sequence[Sequence[Course]],
) -> list[tuple[list[Sequence[Course]], Lessons | None]]:
    """Halves of the problems by their ids, each with what the other one teaches."""
    halves: tuple[list[Sequence[Course]], ...] = ([], [])
    for group in groups:
        halves[zlib.crc32(group[0].problem_id.encode()) % 2].append(group)
    if not all(halves):
        raise ValueError("too few problems for two halves; give more, or lessons")
    return [(halves[side], learn(halves[1 - side], "the other half")) for side in (0, 1)]


def simulate(
    sat: Hall,
    configs: Sequence[BudgetConfig],
    parts: Sequence[float],
    *,
    notify: Callable[[int], None] = lambda done: None,
) -> list[Exams]:
    """Every exam under every policy and with every part of the time it needs.

    `notify` hears after each exam how many were sat.
    """
    done = 0
    results = []
    for part in parts:
        for config in configs:
            exams = []
            for paths, lessons in zip(sat.exams, sat.lessons, strict=True):
                exams.append(sit(paths, part * sat.need, config, lessons))
                done += 1
                notify(done)
            results.append(Exams(config.policy, part, tuple(exams)))
    return results
