"""Everything that a report says of runs, as values: figures, parts, tests, comparisons.

Knows no page: `report_page` and `report_markdown` write it down.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aimo2.errors import InputError
from aimo2.evals.breakdown import (
    CodeUse,
    Group,
    Reliability,
    code_use,
    confidence_test,
    grouped,
    groupings,
    lengths,
    token_reliability,
    vote_reliability,
)
from aimo2.evals.compare import Comparison, Results, compare
from aimo2.evals.estimators import Estimate
from aimo2.evals.figures import Figures, ProblemResult, figures_of, results_of
from aimo2.evals.store import LoadedRun, read_run
from aimo2.evals.within import WithinTest

MOST_FIELDS = 4
"""Fields of the data set by which accuracy is broken down."""
LEAST_PROBLEMS = 10
"""From which a claim about them is called confirmed, or not."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run. `figures` is `None` while no problem with a gold answer is done."""

    name: str
    run: LoadedRun
    figures: Figures | None
    results: Sequence[ProblemResult]
    groups: Mapping[str, Sequence[Group]]
    """Field of the data set -> its values."""
    votes: Reliability | None
    tokens: Reliability | None
    code: CodeUse
    right_lengths: Sequence[float]
    """Tokens of each right sample."""
    wrong_lengths: Sequence[float]
    """Tokens of each wrong sample that has an answer."""
    length_test: WithinTest | None
    confidence_test: WithinTest | None


@dataclass(frozen=True, slots=True)
class Report:
    """Runs side by side, and each later one against the first."""

    runs: Sequence[RunReport]
    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    """What could not be compared."""


def make_report(folders: Sequence[Path]) -> Report:
    """Read the runs and work everything out. Raises `InputError` where a run cannot be read."""
    names = run_names(folders)
    runs = [_run_report(name, folder) for name, folder in zip(names, folders, strict=True)]
    first, *others = [
        Results(one.name, one.run.items, one.results, one.run.record.config.mode) for one in runs
    ]
    comparisons, notes = [], []
    for other in others:
        try:
            comparisons.append(compare(first, other))
        except InputError as error:
            notes.append(str(error))
    return Report(runs, comparisons, notes)


def run_names(folders: Sequence[Path]) -> list[str]:
    """Short names that tell the folders apart: the last part of each, or as many as are needed.

    Raises `InputError` where a folder is given twice.
    """
    whole = [folder.resolve() for folder in folders]
    twice = [folder for folder in whole if whole.count(folder) > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice; give each run once")
    for parts in range(1, max(len(folder.parts) for folder in whole) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in whole]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in whole]


def _run_report(name: str, folder: Path) -> RunReport:
    run = read_run(folder)
    results = results_of(run)
    right, wrong, length_test = lengths(results)
    fields = groupings(run.items)[:MOST_FIELDS]
    return RunReport(
        name=name,
        run=run,
        figures=figures_of(run),
        results=results,
        groups={field: grouped(results, run.items, field) for field in fields},
        votes=vote_reliability(results),
        tokens=token_reliability(results),
        code=code_use(results),
        right_lengths=right,
        wrong_lengths=wrong,
        length_test=length_test,
        confidence_test=confidence_test(results),
    )


def percent(value: Estimate | None) -> str:
    """`62.0 % [55.1, 68.7]`; the interval is left out where it is not known."""
    if value is None:
        return "–"
    shown = f"{100 * value.value:.1f} %"
    if math.isnan(value.low):
        return shown
    return f"{shown} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def points(value: Estimate) -> str:
    """A difference of percentages: `+7.2 points [+1.1, +13.4]`."""
    shown = f"{100 * value.value:+.1f} points"
    if math.isnan(value.low):
        return shown
    return f"{shown} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


def number(value: Estimate, *, signed: bool = False) -> str:
    """`1,234 [1,100, 1,400]`, with as many digits as say something."""
    sign = "+" if signed else ""
    digits = 0 if abs(value.value) >= 100 else 1 if abs(value.value) >= 10 else 2
    shown = f"{value.value:{sign},.{digits}f}"
    if math.isnan(value.low):
        return shown
    return f"{shown} [{value.low:{sign},.{digits}f}, {value.high:{sign},.{digits}f}]"


def summary_rows(report: Report) -> list[tuple[str, list[str]]]:
    """(figure, its value in each run); runs without figures have dashes."""
    runs = [one.figures for one in report.runs]

    def row(name: str, *values: str | None) -> tuple[str, list[str]]:
        return name, [value if value is not None else "–" for value in values]

    def each(write: Callable[[Figures], str]) -> list[str | None]:
        return [None if figures is None else write(figures) for figures in runs]

    most = max((max(figures.maj_k, default=0) for figures in runs if figures), default=0)
    rows = [
        row("data set", *each(lambda one: one.dataset)),
        row("problems with a gold answer, done", *each(lambda one: f"{one.problems}")),
        row("samples a problem", *each(_samples)),
        row("accuracy of one sample (pass@1)", *each(_one_sample)),
        row("accuracy of the run's answers", *each(lambda one: percent(one.answered))),
    ]
    if most > 1:
        rows += [
            row("vote of all samples (maj@K)", *each(lambda one: percent(_last(one.maj_k)))),
            row("any sample right (pass@K)", *each(lambda one: percent(_last(one.pass_k)))),
        ]
    rows += [
        row("tokens", *each(lambda one: f"{number(one.tokens)} a {_unit(one)}")),
        row("seconds", *each(lambda one: f"{number(one.seconds)} a {_unit(one)}")),
        row("tokens in all", *each(lambda one: f"{one.total_tokens:,}")),
        *_cut_short_row(runs),
        row("samples without an answer", *each(lambda one: percent(one.blank))),
        row("samples that ran code", *each(lambda one: percent(one.code_use))),
        row("code runs a sample", *each(lambda one: number(one.code_runs))),
        row("failed cells", *each(lambda one: percent(one.failed))),
        row("failed cells repaired by the next", *each(lambda one: percent(one.repaired))),
    ]
    return rows


def comparison_rows(one: Comparison) -> list[tuple[str, str]]:
    """(what, second run minus first)."""
    rows = [("accuracy of the run's answers", points(one.answered))]
    if one.votes is not None:
        rows += [
            ("accuracy of one sample", points(one.votes.pass_1)),
            (f"vote of {one.votes.k} samples", points(one.votes.maj_k)),
        ]
    for name, more in (("tokens", one.tokens), ("seconds", one.seconds)):
        told = "not known" if more is None else number(more, signed=True)
        rows.append((f"{name} a {one.unit}", told))
    return [
        *rows,
        (f"right only in {one.first}", str(one.mcnemar.only_first)),
        (f"right only in {one.second}", str(one.mcnemar.only_second)),
        ("McNemar's exact test", f"p {spoken_p(one.mcnemar.p)}"),
    ]


def _cut_short_row(runs: Sequence[Figures | None]) -> list[tuple[str, list[str]]]:
    """Only where it happened; the rows below it are about the other samples."""
    if not any(one.cut_short for one in runs if one):
        return []
    cells = ["–" if one is None else f"{one.cut_short:,}" for one in runs]
    return [("samples that the solver cut short", cells)]


def by_answers(report: Report) -> bool:
    """Whether parts are told by the runs' answers: where a solver has cut samples short in any run,
    the share of right samples would be that of its quick ones.
    """
    return any(not one.figures.pass_k for one in report.runs if one.figures)


def group_heading(report: Report) -> str:
    """What `of_group` is a share of."""
    return "right answers" if by_answers(report) else "right samples"


def of_group(group: Group, report: Report) -> Estimate:
    """The accuracy to show, as `by_answers` says."""
    return group.answered if by_answers(report) else group.pass_1


def _one_sample(figures: Figures) -> str:
    """Rollouts of a solver that cuts them short are no samples."""
    return percent(figures.pass_1 if figures.pass_k else None)


def _samples(figures: Figures) -> str:
    return f"{'' if figures.pass_k else 'up to '}{figures.samples}"


def _unit(figures: Figures) -> str:
    return "problem" if figures.mode == "solve" else "sample"


def _last(curve: Mapping[int, Estimate]) -> Estimate | None:
    return curve[max(curve)] if curve else None


def size_of_effect(delta: float) -> str:
    """Cliff's delta in words, by the bounds of Romano et al. 2006: 0.147, 0.33, 0.474."""
    size = abs(delta)
    bounds = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"))
    return next((word for bound, word in bounds if size < bound), "large")


def length_verdict(test: WithinTest) -> str:
    """What the data say of "wrong answers have longer reasoning", in one sentence.

    The test asks whether there is a difference in these problems, the interval how it would be in
    others: the claim is about others, so both must say it, and of enough problems.
    """
    delta = test.delta
    chance = f"{50 * (1 + delta.value):.0f} %"
    evidence = (
        f"(Cliff's delta {delta.value:+.2f}{_interval(delta)}, {size_of_effect(delta.value)};"
        f" p {spoken_p(test.p)}, permutation inside {_counted(test.problems, 'problem')})"
    )
    effect = (
        "a wrong answer is longer than a right one to the same problem with a chance of"
        f" {chance} {evidence}"
    )
    if test.problems < LEAST_PROBLEMS:
        return (
            f"too few problems to say: in the {_counted(test.problems, 'problem')} that"
            f" {'has' if test.problems == 1 else 'have'} both, a wrong answer is longer than a"
            f" right one with a chance of {chance} {evidence}"
        )
    significant, excluded = test.p < 0.05, delta.low > 0 or delta.high < 0
    if significant and excluded:
        return f"{'confirmed' if delta.value > 0 else 'the opposite holds'}: {effect}"
    if significant:
        return f"not settled, since the interval includes 0: {effect}"
    if excluded:
        return f"not settled, since the test finds no difference: {effect}"
    return f"not shown: {effect}"


def cut_short_note(run: RunReport) -> str:
    """What is missing from a comparison of lengths; empty where nothing is."""
    missing = 0 if run.figures is None else run.figures.cut_short
    if not missing:
        return ""
    return (
        f"{missing:,} samples that the solver cut short are not in it: most would have become the"
        " longest, so this compares the quick answers only."
    )


def _counted(number_: int, noun: str) -> str:
    return f"{number_} {noun}{'' if number_ == 1 else 's'}"


def pooled_note(test: WithinTest) -> str:
    """What the pooled samples would have said, and why that is no evidence."""
    pooled = "" if test.pooled is None else f"{test.pooled:+.2f} ({size_of_effect(test.pooled)})"
    return (
        f"Pooled over all problems Cliff's delta would be {pooled}: that mixes in how hard the"
        f" problems are. The wrong answers' median is longer in {100 * test.larger:.0f} % of the"
        " problems that have both."
    )


def _interval(value: Estimate) -> str:
    return "" if math.isnan(value.low) else f", 95 % {value.low:+.2f} to {value.high:+.2f}"


def spoken_p(p: float) -> str:
    """`= 0.03` or `< 0.001`, with no more digits than it has."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
