"""`aimo2 trace show`: read saved traces back, on the terminal or as a page."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aimo2.archive import Archive
from aimo2.cli.page import write_page
from aimo2.cli.tree import draw, votes_line
from aimo2.errors import InputError
from aimo2.pages.question import Question
from aimo2.pages.text import one_line, visible
from aimo2.pages.tree import Branch, branch_of, casts, final_votes, forest
from aimo2.problems import read_problems
from aimo2.types import Problem

app = typer.Typer(help="Look at saved traces.", no_args_is_help=True, rich_markup_mode=None)

_PROBLEMS = "problems.jsonl"
"""In a run folder of `aimo2 eval`."""
_VERDICTS = {True: "right", False: "wrong", None: "-"}
_HEADINGS = ("problem", "gold", "answer", "rollouts", "tokens", "code runs", "verdict")


@app.callback()
def _group() -> None:
    """Keep `show` a command of its own, whatever others there are."""


@app.command("show")
def show(
    file: Annotated[
        Path, typer.Argument(help="Traces (.jsonl, .jsonl.gz), or a run folder of `aimo2 eval`.")
    ],
    problem_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Draw this problem's tree and texts.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write one self-contained page instead.")
    ] = None,
    problems: Annotated[
        str | None,
        typer.Option(help="Statements and golds: the .jsonl or .csv that was solved."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Without ID: print one JSON object a problem.")
    ] = False,
) -> None:
    """List the problems of saved traces, or draw one problem's tree with its texts.

    Exit code: 0, or 2 where the traces cannot be read or have no such problem.
    """
    if as_json and (problem_id is not None or html is not None):
        raise InputError("--json lists every problem: leave away the ID and --html")
    known = {each.id: each for each in _known_problems(file, problems)}
    with Archive(file) as archive:
        for note in archive.notes:
            print(f"aimo2: {visible(note)}", file=sys.stderr)
        wanted = archive.ids if problem_id is None else [problem_id]
        if html is not None:
            found = [_question(archive, key, known) for key in wanted]
            write_page(html, found, title=f"{file.name} · aimo2")
        elif problem_id is not None:
            _show_one(_question(archive, problem_id, known))
        else:
            _list(archive, known, as_json=as_json)


def _known_problems(file: Path, problems: str | None) -> list[Problem]:
    """From `--problems`, or from the run folder itself."""
    beside = file / _PROBLEMS
    if problems is None and beside.exists():
        problems = str(beside)
    return [] if problems is None else read_problems(problems)


def _question(archive: Archive, problem_id: str, known: Mapping[str, Problem]) -> Question:
    traces = archive.traces(problem_id)
    outcome = archive.outcomes.get(problem_id)
    problem = known.get(problem_id)
    gold = problem.gold if problem else None
    return Question(
        problem_id,
        traces,
        outcome,
        statement=problem.statement if problem else None,
        gold=outcome.gold if outcome is not None and outcome.gold is not None else gold,
    )


def _list(archive: Archive, known: Mapping[str, Problem], *, as_json: bool) -> None:
    """A line a problem, as it is read: one problem's traces at a time are in memory."""
    console = Console()
    table = Table(*_HEADINGS, box=None, pad_edge=False)
    if not console.is_terminal and not as_json:
        print("\t".join(_HEADINGS))
    for key in archive.ids:
        question = _question(archive, key, known)
        answer = question.answer
        verdict = None if question.gold is None else question.verdict(answer)
        tokens = sum(trace.num_own_tokens for trace in question.traces)
        runs = sum(branch_of(trace).num_code_runs for trace in question.traces)
        if as_json:
            row = {"id": key, "gold": question.gold, "answer": answer}
            counts = {"rollouts": len(question.traces), "tokens": tokens, "code_runs": runs}
            print(json.dumps({**row, **counts, "correct": verdict}))
            continue
        cells = [
            one_line(key, 60),
            one_line(question.gold if question.gold is not None else "-", 24),
            one_line(answer if answer is not None else "-", 24),
            *map(str, (len(question.traces), tokens, runs)),
            _VERDICTS[verdict],
        ]
        if console.is_terminal:
            table.add_row(*map(Text, cells))
        else:
            print("\t".join(cells))
    if console.is_terminal and not as_json:
        console.print(table)


def _show_one(question: Question) -> None:
    console = Console(highlight=False)
    branches = [branch_of(trace) for trace in question.traces]
    title = question.id + (f"  {question.statement}" if question.statement else "")
    console.print(draw(title, branches, verdict=question.verdict))
    votes = question.outcome.votes if question.outcome else final_votes(casts(question.traces))
    console.print(votes_line(votes))
    console.print(_summary(question))
    for root in forest(branches):
        for node in root.walk():
            _print_text(console, node.branch)


def _summary(question: Question) -> Text:
    answer = question.answer
    line = Text("answer ")
    line.append(one_line(answer, 80) if answer is not None else "none", style="bold")
    if question.gold is not None:
        verdict = _VERDICTS[question.verdict(answer)].replace("-", "not graded")
        line.append(f", {verdict} (gold {one_line(question.gold, 80)})")
    return line


def _print_text(console: Console, branch: Branch) -> None:
    """The branch's own text; what was not sampled is set apart by its colour."""
    head = f"rollout {branch.index}, {one_line(branch.opening, 30)}"
    head += f", {branch.state.replace('_', ' ')}"
    if branch.parent is not None:
        head += f", forked from {branch.parent} after turn {branch.num_shared_turns}"
    console.rule(Text(head), align="left")
    whole = Text(visible(branch.prefix), style="dim")
    for turn in branch.turns:
        whole.append(visible(turn.text), style="default")
        whole.append(visible(turn.injected), style="cyan")
    console.print(whole, soft_wrap=True)
