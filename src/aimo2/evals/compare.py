"""Compare two runs problem by problem. Knows no files; runs may come from another harness."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aimo2.errors import InputError
from aimo2.evals.datasets import Item
from aimo2.evals.estimators import Estimate, McNemar, mcnemar, mean_interval
from aimo2.evals.figures import ProblemResult
from aimo2.evals.overlap import words


@dataclass(frozen=True, slots=True)
class Results:
    """One run's problems and what they came to, whoever ran it."""

    name: str
    items: Sequence[Item]
    problems: Sequence[ProblemResult]


@dataclass(frozen=True, slots=True)
class Changed:
    """A problem whose answer only one run has right. Shares: of right samples, 0 to 1."""

    problem_id: str
    first_right: bool
    first_share: float
    second_share: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Second run minus first, over the problems that both have.

    `pass_1`, `answered`: differences with paired bootstrap intervals; `maj_k`: of the vote of `k`
    samples, `k` the fewer of the two. `mcnemar`: of the runs' own answers. `tokens`: a sample,
    where both runs tell them. `only_first`, `only_second`: problems that the other run lacks.
    """

    first: str
    second: str
    problems: int
    only_first: int
    only_second: int
    first_pass_1: float
    second_pass_1: float
    pass_1: Estimate
    first_answered: float
    second_answered: float
    answered: Estimate
    k: int
    maj_k: Estimate
    tokens: Estimate | None
    mcnemar: McNemar
    changed: tuple[Changed, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare(first: Results, second: Results) -> Comparison:
    """Pair the problems by id, or by their words where the two number them differently.

    Raises `InputError` where they have none in common.
    """
    pairs = _pairs(first, second)
    if not pairs:
        raise InputError(
            f"{first.name} and {second.name} have no finished problem in common: compare two runs"
            " of the same data set"
        )
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    k = min(len(one.samples) for one in (*left, *right))
    return Comparison(
        first=first.name,
        second=second.name,
        problems=len(pairs),
        only_first=len(first.problems) - len(pairs),
        only_second=len(second.problems) - len(pairs),
        first_pass_1=_mean([a.share for a in left]),
        second_pass_1=_mean([b.share for b in right]),
        pass_1=mean_interval([b.share - a.share for a, b in pairs]),
        first_answered=_mean([float(a.voted) for a in left]),
        second_answered=_mean([float(b.voted) for b in right]),
        answered=mean_interval([float(b.voted) - float(a.voted) for a, b in pairs]),
        k=k,
        maj_k=mean_interval([b.majority(k) - a.majority(k) for a, b in pairs]),
        tokens=_more_tokens(left, right),
        mcnemar=mcnemar([a.voted for a in left], [b.voted for b in right]),
        changed=tuple(
            Changed(a.problem_id, a.voted, a.share, b.share) for a, b in pairs if a.voted != b.voted
        ),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _more_tokens(
    first: Sequence[ProblemResult], second: Sequence[ProblemResult]
) -> Estimate | None:
    counts = [[_tokens(result) for result in run] for run in (first, second)]
    if not all(map(any, counts)):
        return None
    return mean_interval([after - before for before, after in zip(*counts, strict=True)])


def _tokens(result: ProblemResult) -> float:
    return _mean([float(sample.num_tokens) for sample in result.samples])


def _pairs(first: Results, second: Results) -> list[tuple[ProblemResult, ProblemResult]]:
    """By their words first: two harnesses may give different problems the same number."""
    by_words = _paired(first, second, _by_words(first), _by_words(second))
    by_id = _paired(
        first,
        second,
        {one.problem_id: one.problem_id for one in first.problems},
        {one.problem_id: one.problem_id for one in second.problems},
    )
    return by_words if len(by_words) >= len(by_id) or _has_words(first, second) else by_id


def _has_words(first: Results, second: Results) -> bool:
    return bool(_by_words(first)) and bool(_by_words(second))


def _by_words(run: Results) -> dict[str, str]:
    """Problem -> its words; those without a statement are left out."""
    texts = {item.problem.id: " ".join(words(item.problem.statement)) for item in run.items}
    return {name: text for name, text in texts.items() if text}


def _paired(
    first: Results, second: Results, keys: dict[str, str], others: dict[str, str]
) -> list[tuple[ProblemResult, ProblemResult]]:
    there = {others[one.problem_id]: one for one in second.problems if one.problem_id in others}
    return [
        (one, there[key])
        for one in first.problems
        if (key := keys.get(one.problem_id)) is not None and key in there
    ]
