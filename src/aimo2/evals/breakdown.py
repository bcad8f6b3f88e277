"""A run's accuracy by parts: by level and subject, by confidence, by what its code did.

Pure; knows no files and no page. Intervals are over problems, as everywhere in `evals`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aimo2.evals.datasets import Item, Scalar
from aimo2.evals.estimators import (
    DIFFERENCE,
    SHARE,
    Estimate,
    mean_interval,
    ratio_interval,
)
from aimo2.evals.figures import ProblemResult
from aimo2.evals.samples import CodeUsed, Sample
from aimo2.evals.within import WithinTest, within_problems
from aimo2.policy.repair import RepairFigures, summed
from aimo2.types import ErrorKind

MOST_GROUPS = 16
"""A field of the data set with more values than this is no grouping, but a description."""
_PREFERRED = ("level", "difficulty", "subject", "type", "category", "topic")
BINS = 10


@dataclass(frozen=True, slots=True)
class Group:
    """Problems that share a value. `pass_1`: mean share of right samples; `answered`: accuracy."""

    name: str
    problems: int
    pass_1: Estimate
    answered: Estimate


def groupings(items: Sequence[Item]) -> list[str]:
    """The fields of a data set that group its problems: level and subject first."""
    values: dict[str, set[Scalar]] = defaultdict(set)
    for item in items:
        for name, value in item.meta.items():
            values[name].add(value)
    fit = [name for name, found in values.items() if 2 <= len(found) <= MOST_GROUPS]
    rank = {name: number for number, name in enumerate(_PREFERRED)}
    return sorted(fit, key=lambda name: (rank.get(name.lower(), len(rank)), name))


def grouped(results: Sequence[ProblemResult], items: Sequence[Item], field: str) -> list[Group]:
    """A run's problems by one field, in the order of its values."""
    meta = {item.problem.id: item.meta for item in items}
    parts: dict[Scalar, list[ProblemResult]] = defaultdict(list)
    for result in results:
        value = meta.get(result.problem_id, {}).get(field)
        if value is not None:
            parts[value].append(result)
    return [
        Group(
            str(value),
            len(part),
            mean_interval([result.share for result in part], within=SHARE),
            mean_interval([float(result.voted) for result in part], within=SHARE),
        )
        for value, part in sorted(parts.items(), key=lambda pair: _order(pair[0]))
    ]


def _order(value: Scalar) -> tuple[int, float, str]:
    """Numbers by size, and before words."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, value


@dataclass(frozen=True, slots=True)
class Bin:
    """Cases of about the same confidence: its mean, and how many of them are right."""

    confidence: float
    right: Estimate
    cases: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far a confidence can be believed.

    `brier`: mean squared difference between confidence and truth (0 or 1); `gap`: mean distance
    between a bin's confidence and its accuracy, weighed by cases (expected calibration error).
    """

    bins: tuple[Bin, ...]
    brier: float
    gap: float


def vote_reliability(results: Sequence[ProblemResult]) -> Reliability | None:
    """The leading answer's share of the samples that answered as the chance that it is right.

    One case a problem. A leader is right to the part of the answers tied for the lead that are.
    `None` where nothing was answered.
    """
    cases = [
        (
            result.problem_id,
            max(count for count, _ in result.answers) / sum(count for count, _ in result.answers),
            result.majority(len(result.samples)),
        )
        for result in results
        if result.answers
    ]
    return _reliability(cases)


def token_reliability(results: Sequence[ProblemResult]) -> Reliability | None:
    """The geometric mean of a sample's token probabilities as the chance that it is right.

    It is no such chance and is not expected to be calibrated: shown is whether it orders samples.
    `None` where no log-probabilities were recorded.
    """
    cases = [
        (result.problem_id, math.exp(sample.mean_logprob), float(bool(sample.correct)))
        for result in results
        for sample in result.samples
        if sample.mean_logprob is not None and sample.answer is not None
    ]
    return _reliability(cases)


def _reliability(cases: Sequence[tuple[str, float, float]]) -> Reliability | None:
    """Bins of about equally many cases; equal confidences stay together."""
    if not cases:
        return None
    ordered = sorted(cases, key=lambda case: case[1])
    size = math.ceil(len(ordered) / BINS)
    parts: list[list[tuple[str, float, float]]] = []
    for case in ordered:
        same_as_last = parts and case[1] == parts[-1][-1][1]
        if not parts or (len(parts[-1]) >= size and not same_as_last):
            parts.append([])
        parts[-1].append(case)
    bins = tuple(_bin(part) for part in parts)
    weighed = sum(abs(one.confidence - one.right.value) * one.cases for one in bins)
    brier = sum((confidence - right) ** 2 for _, confidence, right in ordered) / len(ordered)
    return Reliability(bins, brier, weighed / len(ordered))


def _bin(part: Sequence[tuple[str, float, float]]) -> Bin:
    right: dict[str, float] = defaultdict(float)
    count: dict[str, float] = defaultdict(float)
    for problem_id, _, good in part:
        right[problem_id] += good
        count[problem_id] += 1
    estimate = ratio_interval(list(right.values()), list(count.values()), within=SHARE)
    assert estimate is not None
    return Bin(sum(case[1] for case in part) / len(part), estimate, len(part))


@dataclass(frozen=True, slots=True)
class CodeGroup:
    """Samples by what their code did, and the share of them that is right."""

    name: str
    samples: int
    right: Estimate


@dataclass(frozen=True, slots=True)
class RepairGroup:
    """Failed cells with one cause, and the share of them whose next cell succeeded."""

    cause: ErrorKind
    figures: RepairFigures
    repaired: Estimate


@dataclass(frozen=True, slots=True)
class CodeUse:
    """Code against accuracy. `within`: accuracy with code minus without, over the `both` problems
    that have samples of either kind; `None` where there is none. `repairs`: failed cells by cause,
    the most frequent first.
    """

    groups: tuple[CodeGroup, ...]
    within: Estimate | None
    both: int
    repairs: tuple[RepairGroup, ...]


_CODE_KINDS: Mapping[CodeUsed, str] = {
    "none": "no code",
    "good": "code, no error",
    "repaired": "errors, some repaired",
    "failed": "errors, none repaired",
}


def code_use(results: Sequence[ProblemResult]) -> CodeUse:
    """How right samples are by what their code did; without those that the solver cut short."""
    groups = []
    for kind, name in _CODE_KINDS.items():
        chosen = [[one for one in result.whole if one.code_used == kind] for result in results]
        right = ratio_interval(
            [sum(bool(one.correct) for one in part) for part in chosen],
            list(map(len, chosen)),
            within=SHARE,
        )
        if right is not None:
            groups.append(CodeGroup(name, sum(map(len, chosen)), right))
    differences = []
    for result in results:
        with_code = [float(bool(one.correct)) for one in result.whole if one.ran_code]
        without = [float(bool(one.correct)) for one in result.whole if not one.ran_code]
        if with_code and without:
            differences.append(_mean(with_code) - _mean(without))
    within = mean_interval(differences, within=DIFFERENCE) if differences else None
    return CodeUse(tuple(groups), within, len(differences), tuple(_repairs(results)))


def _repairs(results: Sequence[ProblemResult]) -> Iterator[RepairGroup]:
    problems = [
        summed(pair for one in result.samples for pair in one.repairs.items()) for result in results
    ]
    for cause, figures in summed(pair for one in problems for pair in one.items()).items():
        parts = [one.get(cause, RepairFigures()) for one in problems]
        repaired = ratio_interval(
            [part.num_repaired for part in parts],
            [part.num_failed for part in parts],
            within=SHARE,
        )
        assert repaired is not None
        yield RepairGroup(cause, figures, repaired)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def lengths(
    results: Iterable[ProblemResult],
) -> tuple[list[float], list[float], WithinTest | None]:
    """Tokens of right and of wrong samples that answered, and the test inside problems.

    Samples without an answer are left out: most of them were cut off at a limit, so that they are
    long because they are wrong. Branches are left out, too: a sample holds a branch's own tokens
    only, and not those of the path that it shares.
    """
    pairs = [_split(result, _whole_length) for result in results]
    right = [value for pair in pairs for value in pair[0]]
    wrong = [value for pair in pairs for value in pair[1]]
    return right, wrong, within_problems(pairs)


def _whole_length(sample: Sample) -> float | None:
    return float(sample.num_tokens) if sample.parent is None else None


def confidence_test(results: Iterable[ProblemResult]) -> WithinTest | None:
    """Mean log-probability of wrong against right samples inside problems."""
    return within_problems(_split(result, lambda sample: sample.mean_logprob) for result in results)


def _split(
    result: ProblemResult, value: Callable[[Sample], float | None]
) -> tuple[list[float], list[float]]:
    right: list[float] = []
    wrong: list[float] = []
    for sample in result.samples:
        found = value(sample)
        if sample.answer is not None and found is not None:
            (right if sample.correct else wrong).append(found)
    return right, wrong
