"""Compare two runs problem by problem. Knows no files; runs may come from another harness."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from aimo2.errors import InputError
from aimo2.evals.datasets import Item
from aimo2.evals.estimators import DIFFERENCE, Estimate, McNemar, mcnemar, mean_interval
from aimo2.evals.figures import ProblemResult, plain, seconds_of, tokens_of
from aimo2.evals.overlap import words
from aimo2.evals.store import Mode

_Pair = tuple[ProblemResult, ProblemResult]
"""A problem's results in the first run and in the second."""


@dataclass(frozen=True, slots=True)
class Results:
    """One run's problems and what they came to, whoever ran it."""

    name: str
    items: Sequence[Item]
    problems: Sequence[ProblemResult]
    mode: Mode = "samples"


@dataclass(frozen=True, slots=True)
class Changed:
    """A problem whose answer only one run has right. Shares: of right samples, 0 to 1, of that
    run's samples; `None` where they are a solver's rollouts, which it cuts short as it likes.
    """

    problem_id: str
    first_right: bool
    first_share: float | None
    second_share: float | None


@dataclass(frozen=True, slots=True)
class Votes:
    """Independent samples of both runs. `first`, `second`: samples a problem, at most.

    `pass_1`: of a sample, with the runs' own values; `maj_k`: of the vote of `k` samples drawn from
    those of a problem, `k` being the fewest that any problem has in either run.
    """

    first: int
    second: int
    k: int
    first_pass_1: float
    second_pass_1: float
    pass_1: Estimate
    maj_k: Estimate

    @property
    def even(self) -> bool:
        """Whether both runs have the same number of samples of every problem."""
        return self.first == self.second == self.k


@dataclass(frozen=True, slots=True)
class Comparison:
    """Second run minus first, over the problems that both have; intervals are paired bootstrap.

    `answered`: accuracy of the runs' answers, as for `mcnemar`: a solver's, or the vote of a
    problem's first `votes.k` samples. `votes`: `None` where either run is a solver's. `unit`: what
    `tokens` and `seconds` are of: a problem where the solver ran in either, else a sample; `None`
    where a run does not tell them, and seconds also where only one run is a solver's.
    `only_first`, `only_second`: problems that the other run lacks.
    """

    first: str
    second: str
    problems: int
    only_first: int
    only_second: int
    first_answered: float
    second_answered: float
    answered: Estimate
    votes: Votes | None
    unit: Literal["sample", "problem"]
    tokens: Estimate | None
    seconds: Estimate | None
    mcnemar: McNemar
    changed: tuple[Changed, ...]

    def notes(self) -> list[str]:
        """What a reader of the differences must know, a line each."""
        lines = []
        if self.votes is not None and not self.votes.even:
            lines.append(
                f"samples a problem: up to {self.votes.first} in the first run,"
                f" {self.votes.second} in the second; answers are compared as the votes of the"
                f" first {self.votes.k}"
            )
        if self.votes is None:
            lines.append(
                "a solver ends its attempts when its vote is decided: its answers and its cost"
                " count, single attempts do not"
            )
        if self.only_first or self.only_second:
            lines.append(
                f"left out: {self.only_first} problems that only the first run has,"
                f" {self.only_second} that only the second has"
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        """Plain values; an end that is not known is null."""
        return dict(plain(asdict(self)))


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
    solves = [run.mode == "solve" for run in (first, second)]
    mode: Mode = "solve" if any(solves) else "samples"
    votes = None if any(solves) else _votes(left, right)
    ours, theirs = _verdicts(left, votes), _verdicts(right, votes)
    return Comparison(
        first=first.name,
        second=second.name,
        problems=len(pairs),
        only_first=len(first.problems) - len(pairs),
        only_second=len(second.problems) - len(pairs),
        first_answered=fmean(ours),
        second_answered=fmean(theirs),
        answered=_share_more(ours, theirs),
        votes=votes,
        unit="problem" if any(solves) else "sample",
        tokens=_more(pairs, lambda one: tokens_of(one, mode)),
        seconds=(
            _more(pairs, lambda one: seconds_of(one, mode)) if solves[0] == solves[1] else None
        ),
        mcnemar=mcnemar(ours, theirs),
        changed=tuple(
            _changed(pair, right_first, votes)
            for pair, right_first, right_second in zip(pairs, ours, theirs, strict=True)
            if right_first != right_second
        ),
    )


def _votes(left: Sequence[ProblemResult], right: Sequence[ProblemResult]) -> Votes:
    sizes = [[len(one.samples) for one in run] for run in (left, right)]
    k = min(map(min, sizes))
    shares = [[one.share for one in run] for run in (left, right)]
    majorities = [[one.majority(k) for one in run] for run in (left, right)]
    return Votes(
        first=max(sizes[0]),
        second=max(sizes[1]),
        k=k,
        first_pass_1=fmean(shares[0]),
        second_pass_1=fmean(shares[1]),
        pass_1=_share_more(*shares),
        maj_k=_share_more(*majorities),
    )


def _verdicts(run: Sequence[ProblemResult], votes: Votes | None) -> list[bool]:
    """Whether each answer is right; of as many samples in either run."""
    return [one.voted if votes is None else one.voted_of(votes.k) for one in run]


def _changed(pair: _Pair, right_first: bool, votes: Votes | None) -> Changed:
    first, second = pair
    shares = (first.share, second.share) if votes else (None, None)
    return Changed(first.problem_id, right_first, *shares)


def _share_more(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Of shares, second minus first."""
    return mean_interval(
        [after - before for before, after in zip(first, second, strict=True)], within=DIFFERENCE
    )


def _more(pairs: Sequence[_Pair], cost: Callable[[ProblemResult], float]) -> Estimate | None:
    """Of a cost, second minus first; `None` where a run tells none at all."""
    costs = [(cost(first), cost(second)) for first, second in pairs]
    if not all(map(any, zip(*costs, strict=True))):
        return None
    return mean_interval([after - before for before, after in costs])


def _pairs(first: Results, second: Results) -> list[_Pair]:
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
) -> list[_Pair]:
    there = {others[one.problem_id]: one for one in second.problems if one.problem_id in others}
    return [
        (one, there[key])
        for one in first.problems
        if (key := keys.get(one.problem_id)) is not None and key in there
    ]
