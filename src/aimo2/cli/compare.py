"""`aimo2 compare` and `aimo2 export`: two runs side by side; samples for other harnesses."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from aimo2.cli.progress import cells

if TYPE_CHECKING:  # It brings numpy: not for those who only solve.
    from aimo2.evals.compare import Comparison

RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run's folder, samples_*.jsonl of lm-evaluation-harness, or a log of inspect_ai.",
    ),
]


class FormatName(StrEnum):
    """Whose format."""

    LM_EVAL = "lm-eval"
    INSPECT = "inspect"


def compare(
    first: RunArgument,
    second: RunArgument,
    metric: Annotated[
        str | None,
        typer.Option(help="Of another harness: the metric or scorer that says what is right."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two runs problem by problem: differences with intervals, and what changed.

    Differences are second minus first. Intervals: paired bootstrap over problems; the p-value:
    McNemar's exact test of the runs' own answers.
    """
    from aimo2.evals.compare import compare as paired
    from aimo2.evals.peers import read_results

    found = paired(read_results(first, metric=metric), read_results(second, metric=metric))
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        _print(found)


def _print(found: "Comparison") -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    first, second = found.first, found.second
    if first == second:
        first, second = f"{first} (first)", f"{second} (second)"
    table = Table("", first, second, "difference", "95 % interval", box=None, pad_edge=False)
    votes = found.votes
    if votes is not None:
        shares = _percent(votes.first_pass_1), _percent(votes.second_pass_1)
        table.add_row("pass@1", *shares, *cells(votes.pass_1, "points"))
    table.add_row(
        "answers that are right",
        _percent(found.first_answered),
        _percent(found.second_answered),
        *cells(found.answered, "points"),
    )
    if votes is not None:
        table.add_row(f"maj@{votes.k}", "", "", *cells(votes.maj_k, "points"))
    if found.tokens is not None:
        table.add_row(f"tokens a {found.unit}", "", "", *cells(found.tokens, "signed"))
    if found.seconds is not None:
        table.add_row(f"seconds a {found.unit}", "", "", *cells(found.seconds, "signed decimal"))
    console.print(f"{found.problems} problems in common", highlight=False)
    console.print(table)
    test = found.mcnemar
    console.print(
        f"only {first} right: {test.only_first}, only {second} right: {test.only_second};"
        f" McNemar's exact p = {test.p:.3g}",
        highlight=False,
        markup=False,
    )
    for change in found.changed:
        who = first if change.first_right else second
        told = ""
        if change.first_share is not None and change.second_share is not None:
            told = f" ({change.first_share:.0%} and {change.second_share:.0%} of the samples right)"
        console.print(f"- {change.problem_id}: only {who}{told}", highlight=False, markup=False)
    for line in found.notes():
        console.print(f"- {line}", highlight=False, markup=False)
    console.print("- grading is each run's own; equal settings are for you to see to")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file; inspect: .json or .eval.")],
    to: Annotated[FormatName, typer.Option("--to", help="Whose format.")],
) -> None:
    """Write a run's samples in the format of another harness."""
    from aimo2.evals.peers import export as write

    number = write(run, to.value, out)
    print(f"{number} samples are in {out}")
