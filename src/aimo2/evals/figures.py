"""The figures of a run, with intervals and caveats. Knows no models; reads what a run stored."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aimo2.evals.estimators import (
    EXACT_SAMPLES,
    SHARE,
    Estimate,
    majority_at_k,
    mean_interval,
    pass_at_k,
    ratio_interval,
)
from aimo2.evals.samples import Classes, Key, Sample
from aimo2.evals.store import LoadedRun, Mode, RunRecord, RunStore
from aimo2.types import Outcome


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """What one problem's samples came to.

    `samples`: in the order of their rollouts. `names`: rollout -> a name of its answer, the same
    for equal ones. `answers`: samples with each distinct answer, and whether it is right; `blank`:
    without one.
    """

    outcome: Outcome
    samples: Sequence[Sample]
    names: Mapping[int, str | int]
    answers: Sequence[tuple[int, bool]]
    blank: int

    @property
    def problem_id(self) -> str:
        """The problem's."""
        return self.outcome.id

    @property
    def voted(self) -> bool:
        """Whether the run's own answer is right."""
        return bool(self.outcome.correct)

    @property
    def right(self) -> int:
        """Samples that are right."""
        return sum(bool(sample.correct) for sample in self.samples)

    @property
    def share(self) -> float:
        """Of the samples that are right, 0 to 1."""
        return self.right / len(self.samples)

    @property
    def whole(self) -> Sequence[Sample]:
        """The samples that came to their own end."""
        return [sample for sample in self.samples if not sample.cut_short]

    @property
    def independent(self) -> bool:
        """Whether the samples are whole attempts, none of which another one ended or began."""
        return self.outcome.stop_reason == "exhausted" and all(
            not sample.cut_short and sample.parent is None for sample in self.samples
        )

    def mean(self, value: Callable[[Sample], float]) -> float:
        """Of a value of the samples."""
        return math.fsum(map(value, self.samples)) / len(self.samples)

    def majority(self, k: int) -> float:
        """The chance that the vote of k of the samples is right."""
        counts = [count for count, _ in self.answers]
        return majority_at_k(counts, [good for _, good in self.answers], self.blank, k)

    def voted_of(self, k: int) -> bool:
        """Whether the vote of the first k samples is right; ties go to the earliest."""
        if k >= len(self.samples):
            return self.voted
        first = self.samples[:k]
        votes = Counter(self.names[one.rollout] for one in first if one.rollout in self.names)
        if not votes:
            return k == 1 and bool(first[0].correct)  # A log may give a verdict without an answer.
        leader = max(votes, key=votes.__getitem__)
        return any(one.correct for one in first if self.names.get(one.rollout) == leader)


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a run. Means are over problems; a sample is one rollout.

    `problems`: those that are done and have a gold; `left_out`: the others. `samples`: rollouts a
    problem, in mode `solve` at most. `pass_1`: mean share of right samples. `answered`: accuracy of
    the run's own answers: the solver's, or the vote over all samples with ties to the earliest.
    `pass_k`, `maj_k`: by k; none where the solver cut a sample short, or forked one: `pass_1` then
    says nothing of single attempts. `exact`: whether `maj_k` counts every subset. `tokens`,
    `seconds`: a sample, in mode `solve` a problem. `cut_short`: samples that the solver ended
    without an answer; `blank`, `code_use`: of the others, the share without an answer, and the
    share whose path ran code. `code_runs`: cells of a sample, each counted where it ran and not in
    its branches. `failed`: of all cells; `repaired`: of the failed ones, those whose next cell
    succeeded.
    `undecided`: answers that could not be compared in time and count as wrong. `broken`: samples
    that ended with an error of server or sandbox.
    """

    dataset: str
    mode: Mode
    problems: int
    left_out: int
    samples: int
    pass_1: Estimate
    answered: Estimate
    pass_k: Mapping[int, Estimate]
    maj_k: Mapping[int, Estimate]
    exact: bool
    tokens: Estimate
    seconds: Estimate
    blank: Estimate
    code_use: Estimate
    code_runs: Estimate
    failed: Estimate | None
    repaired: Estimate | None
    total_tokens: int
    cut_short: int
    undecided: int
    broken: int
    caveats: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values; an end that is not known is null."""
        return dict(plain(asdict(self)))


def plain(value: Any) -> Any:
    """Dictionaries, lists and scalars for JSON, which has no `nan`."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def results_of(run: LoadedRun | RunStore) -> list[ProblemResult]:
    """The problems of a run that are done and have a gold, in the set's order."""
    by_problem = _by_problem(run.samples)
    return [
        problem_result(
            run.outcomes[item.problem.id],
            by_problem[item.problem.id],
            run.classes.get(item.problem.id),
        )
        for item in run.items
        if item.problem.gold is not None
        and item.problem.id in run.outcomes
        and by_problem[item.problem.id]
    ]


def _by_problem(samples: Mapping[Key, Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for (problem_id, _), sample in sorted(samples.items()):
        found[problem_id].append(sample)
    return found


def problem_result(
    outcome: Outcome, samples: Sequence[Sample], classes: Classes | None
) -> ProblemResult:
    """Count the answers of a problem; without classes, equal texts are equal answers."""
    first_of = classes.classes if classes else {}
    names: dict[int, str | int] = {}
    good: dict[str | int, bool] = {}
    for sample in samples:
        if sample.answer is None:
            continue
        name = names[sample.rollout] = first_of.get(sample.rollout, sample.answer)
        good.setdefault(name, bool(sample.correct))
    return ProblemResult(
        outcome,
        samples,
        names,
        [(count, good[name]) for name, count in Counter(names.values()).items()],
        sum(sample.answer is None for sample in samples),
    )


def figures_of(run: LoadedRun | RunStore) -> Figures | None:
    """Every figure of a run; `None` while no problem with a gold is done."""
    results = results_of(run)
    if not results:
        return None
    config = run.record.config
    curves = config.mode == "samples" or all(
        one.independent and len(one.samples) == config.samples for one in results
    )
    ks = range(1, config.samples + 1) if curves else range(0)
    cells = [
        (
            sum(sample.num_code_runs for sample in result.samples),
            sum(sample.num_code_errors for sample in result.samples),
            sum(sample.num_repaired for sample in result.samples),
        )
        for result in results
    ]
    samples = [sample for result in results for sample in result.samples]
    return Figures(
        dataset=config.dataset,
        mode=config.mode,
        problems=len(results),
        left_out=len(run.items) - len(results),
        samples=config.samples,
        pass_1=_share(result.share for result in results),
        answered=_share(result.voted for result in results),
        pass_k={
            k: _share(pass_at_k(len(one.samples), one.right, k) for one in results) for k in ks
        },
        maj_k={k: _share(one.majority(k) for one in results) for k in ks},
        exact=config.samples <= EXACT_SAMPLES,
        tokens=mean_interval([tokens_of(one, config.mode) for one in results]),
        seconds=mean_interval([seconds_of(one, config.mode) for one in results]),
        blank=_share_of_whole(results, lambda sample: sample.answer is None),
        code_use=_share_of_whole(results, lambda sample: sample.ran_code),
        code_runs=mean_interval(
            [result.mean(lambda sample: sample.num_code_runs) for result in results]
        ),
        failed=ratio_interval(
            [bad for _, bad, _ in cells], [ran for ran, _, _ in cells], within=SHARE
        ),
        repaired=ratio_interval(
            [fixed for *_, fixed in cells], [bad for _, bad, _ in cells], within=SHARE
        ),
        total_tokens=total_tokens(run),
        cut_short=sum(sample.cut_short for sample in samples),
        undecided=sum(sample.note is not None for sample in samples),
        broken=sum(one.stop_reason in ("model_error", "sandbox_error") for one in samples),
        caveats=(*_missing(run, results), *caveats_of(run.record, samples, len(run.items))),
    )


def _share(values: Iterable[float]) -> Estimate:
    return mean_interval(list(values), within=SHARE)


def _share_of_whole(results: Sequence[ProblemResult], true: Callable[[Sample], bool]) -> Estimate:
    """Mean over the problems that have whole samples; 0 of unknown width where none has."""
    parts = [part for one in results if (part := one.whole)]
    shares = [sum(map(true, part)) / len(part) for part in parts]
    return _share(shares) if shares else Estimate(0.0, math.nan, math.nan)


def _missing(run: LoadedRun | RunStore, results: Sequence[ProblemResult]) -> Iterator[str]:
    """What of the run is not in its figures, a line for each reason."""
    ended = {item.problem.id for item in run.items if item.problem.id in run.outcomes}
    if waiting := len(run.items) - len(ended):
        begun = sum(problem_id not in ended for problem_id, _ in run.samples)
        begun_too = f", with the {begun} samples that they have so far" if begun else ""
        yield (
            f"a part of a run: {waiting} of {len(run.items)} problems are not finished and are left"
            f" out{begun_too}; hard problems take longer, so the others may be the easier ones"
        )
    if without := len(ended) - len(results):
        yield f"{without} problems have no gold answer: left out"


def tokens_of(result: ProblemResult, mode: Mode) -> float:
    """Sampled tokens: a sample's, or where the whole solver ran, all that the question cost."""
    if mode == "solve":
        return result.outcome.num_sampled_tokens
    return result.mean(lambda sample: sample.num_sampled_tokens)


def seconds_of(result: ProblemResult, mode: Mode) -> float:
    """A sample's, or where the whole solver ran, the question's."""
    if mode == "solve":
        return result.outcome.seconds
    return result.mean(lambda sample: sample.seconds)


def total_tokens(run: LoadedRun | RunStore) -> int:
    """Sampled in all, by everything that is done; a verifier's and probes' included."""
    if run.record.config.mode == "solve":
        return sum(outcome.num_sampled_tokens for outcome in run.outcomes.values())
    return sum(sample.num_sampled_tokens for sample in run.samples.values())


def caveats_of(record: RunRecord, samples: Sequence[Sample], items: int) -> tuple[str, ...]:
    """What a reader of the figures must know. `items`: problems of the run."""
    lines = []
    if record.published:
        lines.append(
            f"contamination: these problems have been public since {record.published}; a model"
            " trained later may have seen them (`aimo2 data overlap` checks a training file)"
        )
    else:
        lines.append("contamination: whether the model has seen these problems is not known here")
    undecided = sum(sample.note is not None for sample in samples)
    lines.append(
        "grading: exact arithmetic, then math-verify with a time limit; what is not decided counts"
        f" as wrong ({undecided} of {len(samples)} samples here)"
    )
    if cut_short := sum(sample.cut_short for sample in samples):
        lines.append(
            f"the solver ended {cut_short} of {len(samples)} rollouts before they had answered:"
            " figures of single samples leave them out, and those that are left are the quick ones"
        )
    if record.config.limit is not None and items >= record.config.limit:
        how = "drawn by the seed" if record.config.draw else "the first of the set"
        lines.append(f"a subset: {items} problems, {how}")
    return tuple(lines)
