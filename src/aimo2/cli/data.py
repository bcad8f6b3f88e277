"""`aimo2 data`: which data sets there are, what is in one, and whether two overlap."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from aimo2.errors import InputError
from aimo2.evals.catalogue import KNOWN_SETS
from aimo2.evals.datasets import Dataset, load, local_copy, parse_columns, rows_of
from aimo2.evals.overlap import LONG, SHORT, SHORT_SHARE, overlaps
from aimo2.serving.hub import pull_dataset_file

app = typer.Typer(
    help="Data sets to evaluate on: list, look, and search for overlaps.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="A name of `aimo2 data list`, or a .jsonl, .csv or .parquet file."
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder with local copies; else AIMO2_DATA, else the hub."),
]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option("--columns", help="Columns with other names: problem=question,answer=final."),
]


@app.command("list")
def list_sets(data_dir: DataDirOption = None) -> None:
    """Show the data sets that are known by name, and which have a local copy."""
    table = Table(
        "name", "problems", "answers", "public since", "from", "revision", "here", box=None
    )
    for known in KNOWN_SETS:
        table.add_row(
            known.name,
            f"{known.num_problems:,}",
            known.answer_type,
            known.published,
            known.repository,
            known.revision[:12],
            str(local_copy(known, data_dir) or ""),
        )
    # Off a terminal, rich would cut the columns to 80 characters.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def show(
    dataset: DatasetArgument,
    number: Annotated[int, typer.Option("--number", "-n", help="Problems to print.")] = 3,
    data_dir: DataDirOption = None,
    columns: ColumnsOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every problem as one JSON object a line.")
    ] = False,
) -> None:
    """Show what a data set holds, and its first problems."""
    loaded = load(dataset, data_dir=data_dir, columns=parse_columns(columns or ()))
    if as_json:
        for item in loaded.items:
            row = {"id": item.problem.id, "problem": item.problem.statement}
            gold = {} if item.problem.gold is None else {"answer": item.problem.gold}
            print(json.dumps({**item.meta, **row, **gold}, ensure_ascii=False))
        return
    print(f"{loaded.name}: {len(loaded.items)} problems, {loaded.num_graded} with a gold answer")
    print(f"answers: {loaded.answer_type}; from {loaded.source}")
    print(f"SHA-256 of ids, statements and golds: {loaded.sha256}")
    for line in _spread(loaded):
        print(line)
    for item in loaded.items[: max(0, number)]:
        print(f"\n[{item.problem.id}] {item.problem.statement}\n  answer: {item.problem.gold}")


def _spread(loaded: Dataset) -> list[str]:
    """How many problems have each value of the metadata that has few values."""
    names = {name: None for item in loaded.items for name in item.meta}
    lines = []
    for name in names:
        counts = Counter(item.meta.get(name, "none") for item in loaded.items)
        if len(counts) <= 12:
            values = sorted(counts.items(), key=lambda pair: str(pair[0]))
            lines.append(f"{name}: " + ", ".join(f"{value} ({count})" for value, count in values))
    return lines


@app.command()
def pull(names: Annotated[list[str], typer.Argument(metavar="NAME...")]) -> None:
    """Fetch data sets from the hub into its cache, so that they can be used without it."""
    chosen = [known for known in KNOWN_SETS if known.name in names]
    unknown = set(names) - {known.name for known in chosen}
    if unknown:
        raise InputError(f"{sorted(unknown)[0]} is no data set: see `aimo2 data list`")
    for known in chosen:
        print(pull_dataset_file(known.repository, known.file, known.revision))


@app.command()
def overlap(
    dataset: DatasetArgument,
    training: Annotated[
        str, typer.Argument(metavar="TRAINING", help="A file, or a data set's name.")
    ],
    data_dir: DataDirOption = None,
    columns: ColumnsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an overlap.")] = False,
) -> None:
    """Find the problems of a data set that stand in a training file, by shared runs of words."""
    items = load(dataset, data_dir=data_dir, columns=parse_columns(columns or ())).items
    if Path(training).is_file():
        rows = rows_of(Path(training))
    else:
        others = load(training, data_dir=data_dir).items
        rows = ((at, {"problem": item.problem.statement}) for at, item in enumerate(others, 1))
    found = overlaps(items, rows)
    if as_json:
        for each in found:
            print(
                json.dumps(
                    {
                        "id": each.problem_id,
                        "row": each.row,
                        "share": round(each.share, 4),
                        "long_runs": each.long_runs,
                    }
                )
            )
        return
    for each in sorted(found, key=lambda one: -one.share):
        print(
            f"{each.problem_id}\trow {each.row}\t{each.share:.0%} of its runs of {SHORT} words,"
            f" {each.long_runs} of {LONG}"
        )
    print(
        f"{len(found)} of {len(items)} problems share a run of {LONG} words, or"
        f" {SHORT_SHARE:.0%} of their runs of {SHORT}, with a row of {training}"
    )
