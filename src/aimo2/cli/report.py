"""`aimo2 report`: run folders to a page, with a page a problem beside it, and to Markdown."""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aimo2.archive import Archive
from aimo2.cli import errors
from aimo2.errors import InputError
from aimo2.evals.report import Report, make_report
from aimo2.evals.report_markdown import report_markdown
from aimo2.evals.report_page import report_page
from aimo2.evals.samples import Sample
from aimo2.evals.store import read_record
from aimo2.journal import RecordFile
from aimo2.pages.question import Question, question_page
from aimo2.pages.text import visible
from aimo2.types import Outcome, Problem, Trace

_DEFAULT_PAGES = 1_000
_PLAIN_STEP = 100
"""Where there is no terminal: pages between two lines of progress."""


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Run folders of `aimo2 eval`.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="The page; otherwise report.html in the run's folder, or, for several runs, here.",
        ),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--md", help="Write the tables as Markdown, too.")
    ] = None,
    pages: Annotated[
        int,
        typer.Option(min=0, help="Pages of single problems, at most; wrong answers come first."),
    ] = _DEFAULT_PAGES,
    title: Annotated[str | None, typer.Option(help="The page's title.")] = None,
) -> None:
    """Write one page on one run, or on several side by side, each compared with the first.

    Exit code: 0, 2 where a run cannot be read, 130 interrupted: the report is written all the
    same, with the problems' pages that were done.
    """
    for folder in folders:
        read_record(folder)
    target = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    for path in (target, markdown):
        if path is not None:
            RecordFile(path)
    made = make_report(folders)
    title = title or _title(made)
    links: dict[tuple[int, str], str] = {}
    interrupted = False
    if pages:
        interrupted = _write_pages(made, target, pages, links)
    _write(target, report_page(made, links, title))
    if markdown is not None:
        _write(markdown, report_markdown(made, title))
    print(f"aimo2: wrote {target}" + (f" and {len(links)} pages" if links else ""), file=sys.stderr)
    if interrupted:
        raise typer.Exit(errors.EXIT_INTERRUPTED)


def _title(made: Report) -> str:
    sets = dict.fromkeys(run.run.record.config.dataset for run in made.runs)
    return f"{', '.join(sets)}: {', '.join(run.name for run in made.runs)}"


def _write(path: Path, text: str) -> None:
    with RecordFile(path) as file:
        file.append(text)


def _write_quickly(path: Path, text: str) -> None:
    """Without waiting for the disk, unlike a record: hundreds of pages can be made again."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _write_pages(made: Report, target: Path, most: int, links: dict[tuple[int, str], str]) -> bool:
    """Write the problems' pages into a folder beside the report; whether it was interrupted.

    `links` gets the address of each page that is done.
    """
    folder = target.with_name(f"{target.stem}-problems")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    chosen = _chosen(made, most)
    try:
        for run, problem_id, name, question in _followed(made, chosen):
            _write_quickly(folder / name, question_page(question, (f"../{target.name}", "back")))
            links[run, problem_id] = f"{folder.name}/{name}"
    except KeyboardInterrupt:
        return True
    left_out = sum(len(one.run.outcomes) for one in made.runs) - len(chosen)
    if left_out > 0:
        print(f"aimo2: {left_out} problems have no page (--pages {most})", file=sys.stderr)
    return False


def _chosen(made: Report, most: int) -> list[tuple[int, str]]:
    """(number of the run, problem) of the pages to write, in the order of runs and problems."""
    every = [
        (at, item.problem.id, bool(outcome.correct))
        for at, run in enumerate(made.runs)
        for item in run.run.items
        if (outcome := run.run.outcomes.get(item.problem.id)) is not None
    ]
    kept = sorted(range(len(every)), key=lambda index: (every[index][2], index))[:most]
    return [every[index][:2] for index in sorted(kept)]


def _followed(
    made: Report, chosen: Sequence[tuple[int, str]]
) -> Iterator[tuple[int, str, str, Question]]:
    """The questions one after the other, with progress on standard error."""
    console = errors.stderr_console()
    columns = (
        TextColumn("pages"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("pages", total=len(chosen))
        done = 0
        for at, run in enumerate(made.runs):
            wanted = [problem_id for number, problem_id in chosen if number == at]
            if not wanted:
                continue
            with Archive(run.run.folder) as archive:
                for note in archive.notes:
                    print(f"aimo2: {visible(note)}", file=sys.stderr)
                items = {item.problem.id: item.problem for item in run.run.items}
                samples = {result.problem_id: result.samples for result in run.results}
                stored = set(archive.ids)
                for number, problem_id in enumerate(wanted, 1):
                    traces = archive.traces(problem_id) if problem_id in stored else ()
                    outcome = run.run.outcomes[problem_id]
                    question = _question(
                        items[problem_id], traces, outcome, samples.get(problem_id, ())
                    )
                    yield at, problem_id, _file_name(at, number, problem_id), question
                    done += 1
                    bar.update(task, completed=done)
                    if not console.is_terminal and done % _PLAIN_STEP == 0:
                        print(f"aimo2: {done}/{len(chosen)} pages", file=sys.stderr)


def _file_name(run: int, number: int, problem_id: str) -> str:
    """Unique by its numbers, whatever the id has in it."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", problem_id).strip("-")[:40]
    return f"{run + 1}-{number:04}-{slug}.html"


def _question(
    problem: Problem, traces: Sequence[Trace], outcome: Outcome | None, samples: Sequence[Sample]
) -> Question:
    verdicts = {
        one.answer: one.correct
        for one in samples
        if one.answer is not None and one.correct is not None
    }
    return Question(problem.id, tuple(traces), outcome, problem.statement, problem.gold, verdicts)
