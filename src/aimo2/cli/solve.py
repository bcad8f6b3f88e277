"""`aimo2 solve`: problems in, answers out. Flags to configuration, one call, and the exit code."""

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from aimo2 import engine
from aimo2.cli import choice, errors, flags, options
from aimo2.cli.display import Display
from aimo2.cli.grouped import grouped
from aimo2.cli.models import with_model
from aimo2.cli.page import SolvePage
from aimo2.cli.running import on_signals, run_async
from aimo2.cli.show import ShowName, display_for
from aimo2.config import EngineConfig, SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.errors import InputError, ServerError
from aimo2.journal import AnswerFile, TraceFile
from aimo2.problems import read_problems
from aimo2.runrecord import beside, run_record, write_run_record
from aimo2.solver import Solved, Solver, Tools
from aimo2.types import Outcome, Problem


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go."""

    answers: AnswerFile | None
    traces: TraceFile | None
    as_json: bool
    with_ids: bool
    """Whether a plain result line starts with the problem's id."""
    page: SolvePage | None = None

    def add(self, solved: Solved) -> None:
        """Print a question's result first, then store it; a full disk cannot lose the answer."""
        outcome = solved.outcome
        print(self._line(outcome), flush=True)
        if self.answers is not None:
            self.answers.add(outcome)
        if self.traces is not None:
            for trace in solved.traces:
                self.traces.add(trace)
        if self.page is not None:
            self.page.add(solved)

    def _line(self, outcome: Outcome) -> str:
        if self.as_json:
            optional = {"note", "gold", "correct"}
            absent = {name for name in optional if getattr(outcome, name) is None}
            return outcome.model_dump_json(exclude=absent)
        answer = outcome.answer or ""
        return f"{outcome.id}\t{answer}" if self.with_ids else answer


@grouped
def solve(
    text: Annotated[list[str] | None, typer.Argument(help="The problem, in words.")] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="Problems: .jsonl, .csv, or - for standard input."),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", help="Write id,answer as CSV.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a problem on standard output.")
    ] = False,
    traces: Annotated[
        Path | None,
        typer.Option(
            help="Write whole traces as JSON lines; the run's configuration goes beside them."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write one self-contained page of trees, texts and votes."),
    ] = None,
    show: Annotated[
        ShowName | None,
        typer.Option(
            "--show",
            metavar="[text|tree]",
            help="Stream the first attempt's text (text, also where nothing is named), or draw the"
            " tree of attempts (tree).",
        ),
    ] = None,
    rollouts: flags.Rollouts = None,
    concurrency: flags.Concurrency = None,
    answer_type: flags.AnswerType = None,
    timeout: flags.Timeout = None,
    *,
    engine_flags: options.EngineFlags,
    second_flags: options.SecondFlags,
    solve_flags: flags.SolveFlags,
) -> None:
    """Solve one problem given in words, or every problem of a file.

    Only answers go to standard output. Exit code: 0 all answered, 1 some without an answer,
    2 bad input or set-up, 130 interrupted.
    """
    problems = _problems(text, file)
    engine_config = engine_flags.config(seconds=second_flags)
    more = {
        "rollouts": rollouts,
        "concurrency": concurrency,
        "answer_type": answer_type,
        "timeout": timeout,
        "token_spans": solve_flags.logprobs,
    }
    config = choice.chosen(engine_config, solve_flags, more)
    console = errors.stderr_console()
    with contextlib.ExitStack() as files:
        output = Output(
            answers=files.enter_context(AnswerFile(out)) if out else None,
            traces=files.enter_context(TraceFile(traces)) if traces else None,
            as_json=as_json,
            with_ids=file is not None and len(problems) > 1,
            page=files.enter_context(SolvePage(html, problems)) if html else None,
        )
        asked = time.monotonic()
        engine_config = with_model(engine_config, engine_flags.model, console)
        fetching = time.monotonic() - asked
        display = display_for(show, console, len(problems))
        session = _Session(problems, config, engine_config, output, display, fetching, traces)
        exit_code = run_async(session.run)
    raise typer.Exit(exit_code)


def _problems(text: Sequence[str] | None, file: str | None) -> list[Problem]:
    if text and file:
        raise InputError("both a problem and --file were given; give one of them")
    if file is not None:
        return read_problems(file)
    statement = " ".join(text or ()).strip()
    if not statement:
        raise InputError("no problem given; write it behind `solve`, or use --file F")
    return [Problem(id="1", statement=statement)]


@dataclass(slots=True)
class _Session:
    """One run of the command: every problem in turn, with one engine."""

    problems: Sequence[Problem]
    config: SolveConfig
    engine: EngineConfig
    output: Output
    display: Display
    fetching: float
    """Seconds that the model's download took; no question's clock runs meanwhile."""
    traces: Path | None = None
    """Where traces go, and beside them the run's record."""
    solver: Solver | None = None
    interrupted: bool = False
    main: "asyncio.Task[Any] | None" = None
    outcomes: list[Outcome] | None = None

    async def run(self) -> int:
        """Solve everything; returns the exit code."""
        self.main = asyncio.current_task()
        self.outcomes = []
        on_signals(self.interrupt)
        with self.display:
            try:
                await self._all(self._first_deadline())
            except asyncio.CancelledError:
                if not self.interrupted:
                    raise
        return self._exit_code()

    def _first_deadline(self) -> Deadline:
        """The first question's clock starts with the process: imports and engine belong to it."""
        if self.config.timeout is None:
            return NEVER
        spent = time.time() - psutil.Process().create_time() - self.fetching
        return Deadline.after(max(0.0, self.config.timeout - max(0.0, spent)))

    async def _all(self, first_deadline: Deadline) -> None:
        """The first question's clock has run since before the engine was started."""
        deadline = first_deadline
        async with engine.open_engine(
            self.engine, self.config, self.display.notice, first_deadline
        ) as opened:
            if self.traces is not None:
                record = run_record(self.config, self.engine, opened.tools.model_name)
                write_run_record(beside(self.traces), record)
            for number, problem in enumerate(self.problems, 1):
                await self._one(problem, number, opened.tools, deadline)
                if self.interrupted:
                    return
                if (failure := opened.failure()) is not None:
                    raise ServerError(failure)
                deadline = Deadline.after(self.config.timeout)

    async def _one(self, problem: Problem, number: int, tools: Tools, deadline: Deadline) -> None:
        self.solver = Solver(problem, self.config, tools, self.display)
        solver = self.solver
        self.display.started(problem, number, solver)
        solved = await solver.solve(deadline)
        assert self.outcomes is not None
        if solved.outcome.stop_reason == "interrupted" and solved.outcome.answer is None:
            return  # Not finished: a later run should find it unanswered, not answered by nothing.
        self.outcomes.append(solved.outcome)
        self.display.ended(solved.outcome)
        self.output.add(solved)

    def interrupt(self) -> None:
        """Ctrl-C: the first ends the question with the votes so far, the second ends everything."""
        if self.interrupted:
            os._exit(errors.EXIT_INTERRUPTED)
        self.interrupted = True
        if self.solver is not None:
            self.solver.interrupt()
        elif self.main is not None:
            self.main.cancel()

    def _exit_code(self) -> int:
        outcomes = self.outcomes or []
        graded = [outcome.correct for outcome in outcomes if outcome.correct is not None]
        if len(graded) > 1:
            self.display.notice(f"{sum(graded)} of {len(graded)} with a gold answer are correct")
        if self.interrupted:
            left = len(self.problems) - len(outcomes)
            self.display.notice(f"interrupted; {len(outcomes)} problems done, {left} left")
            return errors.EXIT_INTERRUPTED
        unanswered = any(outcome.answer is None for outcome in outcomes)
        return errors.EXIT_UNANSWERED if unanswered else errors.EXIT_OK
