"""`aimo2 replay`: what other stopping rules and weights would have done with recorded samples."""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aimo2.benchmark.report import load_report
from aimo2.cli import errors
from aimo2.cli.recordings import GoldOption, TracesArgument
from aimo2.config import Calibration
from aimo2.errors import ConfigError, InputError
from aimo2.evals.calibration import cross_fit, fit, read_calibration
from aimo2.evals.figures import plain
from aimo2.evals.recorded import Recorded, ReplayedProblem, read_samples
from aimo2.evals.replay import DEFAULT_THROUGHPUT, Throughput, fit_throughput
from aimo2.evals.replay_measure import Replayed, Summary, choose, measure, split, summarise
from aimo2.evals.replay_policies import (
    BASELINE,
    STOP_GRID,
    Candidate,
    most_samples,
    parse_policy,
    policy_grid,
    weight_grid,
)
from aimo2.evals.replay_report import as_json as policy_json
from aimo2.evals.replay_report import plain_lines, plot, table
from aimo2.problems import read_problems

_LINE_SECONDS = 5.0


def replay(
    traces: TracesArgument,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="STOP[:k=v][+WEIGHTS[:k=v]][@N[xC]], such as k_equal:k=5+short_first@16x8, or"
            " preset:NAME. May be given again; without it, every rule and weighting is replayed."
        ),
    ] = None,
    grid: Annotated[
        bool,
        typer.Option("--grid", help="Search rules x weights x N on half of the problems."),
    ] = False,
    margin: Annotated[
        float, typer.Option(help="With --grid: points of accuracy that the cheapest may lose.")
    ] = 0.5,
    rollouts: Annotated[
        int | None, typer.Option(help="Rollouts a question; all that are recorded by default.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Rollouts at the same time; all of them by default.")
    ] = None,
    gold: GoldOption = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="For weights of `calibrated`; else fitted on other problems each time."),
    ] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(help="A report of `aimo2 benchmark --json`: how fast a server is."),
    ] = None,
    workload: Annotated[
        str | None, typer.Option(help="Of the report; its first one by default.")
    ] = None,
    orders: Annotated[int, typer.Option(help="Random orders of each question's samples.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the orders and of the split.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Accuracy against tokens: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Replay recorded samples: which rule and which weights would have done how well."""
    if orders < 1:
        raise ConfigError(f"--orders {orders}: must be 1 or more")
    if grid and policy:
        raise ConfigError("--grid and --policy are both given: take one of them")
    if margin < 0:
        raise ConfigError(f"--margin {margin}: must be 0 or more")
    for name, number in (("--rollouts", rollouts), ("--concurrency", concurrency)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} {number}: must be 1 or more")
    check_writable("--plot", plot_file, (".png", ".svg", ".pdf"))
    server, speed = throughput(benchmark, workload)
    recorded = load_recorded(traces, gold)
    run = _Run(recorded, server, rollouts, concurrency, orders, seed)
    console = errors.stderr_console()
    for line in (*recorded.notes, run.described(), speed):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    given = (read_calibration(calibration),) if calibration else ()
    with Screen(console) as screen:
        report = (
            _search(run, given, margin / 100, screen)
            if grid
            else _compare(run, policy or [], given, screen)
        )
    report |= {"throughput": asdict(server), "speed": speed, "notes": recorded.notes}
    _show(report, as_json, plot_file)
    if screen.interrupted:
        raise typer.Exit(errors.EXIT_INTERRUPTED)


def load_recorded(traces: Sequence[Path], gold: str | None) -> Recorded:
    """The samples of files and folders, graded by the golds of a file of problems."""
    golds = {p.id: p.gold for p in read_problems(gold) if p.gold is not None} if gold else {}
    return read_samples(traces, golds)


def throughput(path: Path | None, workload: str | None) -> tuple[Throughput, str]:
    """The server's speed from a benchmark report, or the default one; and a line that says which.

    Raises `InputError`.
    """
    if path is None:
        if workload is not None:
            raise ConfigError(f"--workload {workload} needs --benchmark FILE")
        return DEFAULT_THROUGHPUT, f"assumed speed, not measured: {_speed(DEFAULT_THROUGHPUT)}"
    results = load_report(path).results
    names = list(dict.fromkeys(figures.workload for figures in results))
    wanted = workload or (names[0] if names else "")
    points = [
        (figures.concurrent, figures.useful_per_second)
        for figures in results
        if figures.workload == wanted and figures.useful_per_second > 0
    ]
    if not points:
        raise InputError(f"{path} has no workload {wanted!r}; it has {', '.join(names) or 'none'}")
    fitted = fit_throughput(points)
    worst = max(abs(fitted.rate(streams) / rate - 1) for streams, rate in points)
    return fitted, (
        f"speed of {path.name} {wanted}: {_speed(fitted)}; off by {worst:.0%} at most at"
        f" {len(points)} measured points"
    )


def _speed(server: Throughput) -> str:
    return ", ".join(f"{server.rate(n):,.0f} tokens/s x{n}" for n in (1, 16, 64))


class _Run:
    """What every replay of one call shares."""

    def __init__(
        self,
        recorded: Recorded,
        server: Throughput,
        rollouts: int | None,
        concurrency: int | None,
        orders: int,
        seed: int,
    ) -> None:
        self.recorded = recorded
        self.problems = recorded.problems
        self.rollouts = rollouts or most_samples(recorded.problems)
        self.concurrency = concurrency
        self.orders = orders
        self.seed = seed
        self._server = server

    def described(self) -> str:
        """One line on what is replayed."""
        ids = len({problem.problem_id for problem in self.problems})
        fewest = min(len(problem.samples) for problem in self.problems)
        return (
            f"{ids} problems, {len(self.problems)} questions, {self.recorded.num_samples} samples"
            f" ({fewest} to {most_samples(self.problems)} a question), {self.orders} orders each"
        )

    def parse(self, names: Sequence[str], fitted: Sequence[Calibration]) -> list[Candidate]:
        """Policies of names, with this run's defaults."""
        return [
            parse_policy(
                name,
                num_rollouts=self.rollouts,
                concurrency=self.concurrency,
                calibrations=fitted,
            )
            for name in names
        ]

    def measure(
        self, problems: Sequence[ReplayedProblem], candidates: Sequence[Candidate], screen: "Screen"
    ) -> list[Replayed]:
        """Replay them, with progress."""
        screen.begin("replay")
        return measure(
            problems,
            candidates,
            self._server,
            orders=self.orders,
            seed=self.seed,
            progress=screen.progress,
        )


def _compare(
    run: _Run, names: Sequence[str], given: Sequence[Calibration], screen: "Screen"
) -> dict[str, Any]:
    """The named policies, or every rule and every weighting, against all rollouts' plain vote."""
    wanted = list(names) or _everything(run, screen, fitted=bool(given))
    fitted = given or (cross_fit(run.problems) if any("calibrated" in n for n in wanted) else ())
    candidates = run.parse([BASELINE, *(name for name in wanted if name != BASELINE)], fitted)
    results = run.measure(run.problems, candidates, screen)
    summaries = [summarise(each, results[0]) for each in results]
    return {"policies": _rows(summaries, results), "_tables": [("", summaries)], "_all": results}


def _everything(run: _Run, screen: "Screen", *, fitted: bool) -> list[str]:
    """Each stopping rule with plain votes, and each weighting of all votes."""
    weights = weight_grid(run.problems, calibrated=True)
    if not fitted:
        try:
            cross_fit(run.problems)
        except InputError as error:
            screen.notice(f"without `calibrated`: {error}")
            weights.remove("calibrated")
    return [BASELINE, *STOP_GRID[1:], *(f"never+{name}" for name in weights[1:])]


def _search(
    run: _Run, given: Sequence[Calibration], margin: float, screen: "Screen"
) -> dict[str, Any]:
    """Choose on one half of the problems, and say what the choice is worth on the other.

    A policy of `calibrated` is chosen by models that were fitted, for each problem, without it;
    what is then judged on the other half is the model of the whole first half.
    """
    train, held_out = split(run.problems, run.seed)
    if not train or not held_out:
        raise InputError("--grid needs more problems: one half is empty")
    choosing, judged = list(given), list(given)
    if not given:
        try:
            choosing, judged = cross_fit(train), [fit(train)]
        except InputError as error:
            screen.notice(f"without `calibrated`: {error}")
    candidates = policy_grid(train, concurrency=run.concurrency, calibrations=choosing)
    size = most_samples(train)
    base = run.parse([f"{BASELINE}@{size}x{min(size, run.concurrency or size)}"], ())
    screen.notice(f"{len(candidates)} policies, chosen on {len(train)} questions")
    results = run.measure(train, [*base, *candidates], screen)
    best, cheap = choose(results[1:], results[0], margin)
    picked = {each.name: each for each in (best, cheap)}
    tested = run.measure(held_out, [*base, *run.parse(list(picked), judged)], screen)
    trained = [summarise(each, results[0]) for each in (results[0], *picked.values())]
    summaries = [summarise(each, tested[0]) for each in tested]
    return {
        "train": _rows(trained, [results[0], *picked.values()]),
        "held_out": _rows(summaries, tested),
        "most_accurate": best.name,
        "cheapest": cheap.name,
        "margin": margin,
        "grid": [{"name": e.name, "accuracy": e.accuracy, "tokens": e.tokens} for e in results[1:]],
        "_tables": [
            ("chosen on these problems", trained),
            ("held out: what the choice is worth", summaries),
        ],
        "_all": results,
    }


def _rows(summaries: Sequence[Summary], results: Sequence[Replayed]) -> list[dict[str, Any]]:
    return [policy_json(s, r) for s, r in zip(summaries, results, strict=True)]


def _show(report: dict[str, Any], as_json: bool, plot_file: Path | None) -> None:
    tables, results = report.pop("_tables"), report.pop("_all")
    if plot_file is not None:
        shown = tables[0][1]
        plot(results, shown if len(shown) <= 6 else shown[:1], plot_file)
    if as_json:
        print(json.dumps(plain(report), indent=1))
        return
    console = Console(soft_wrap=False)
    for title, summaries in tables:
        if title:
            print(title)
        if console.is_terminal:
            console.print(table(summaries))
        else:
            print("\n".join(plain_lines(summaries)))


def check_writable(flag: str, path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Before the work, not after it. Raises `ConfigError`."""
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigError(f"{flag} {path}: give a file with one of {', '.join(suffixes)}")
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir():
        raise ConfigError(f"{flag} {path}: no such folder, or a folder; give a file name")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"{flag} {path}: permission denied; choose another place")


class Screen:
    """A bar with an end estimate on a terminal, plain lines elsewhere. The first Ctrl-C ends the
    replay after the question at hand; the second one at once.
    """

    def __init__(self, console: Console) -> None:
        self.interrupted = False
        self._console = console
        self._bar: Progress | None = None
        self._task: Any = None
        self._title = ""
        self._started = self._shown = time.monotonic()
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self._bar is not None:
            self._bar.stop()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def notice(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def begin(self, title: str) -> None:
        """Start a new bar."""
        self._title = title
        self._started = self._shown = time.monotonic()
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(title, total=None)

    def progress(self, done: int, total: int) -> bool:
        """Count; whether to go on."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif now - self._shown >= _LINE_SECONDS:
            self._shown = now
            left = (now - self._started) / done * (total - done)
            self.notice(f"{self._title}: {done} of {total} questions, about {left:.0f} s left")
        if self.interrupted:
            self.notice(f"interrupted: figures are over {done} of {total} questions")
        return not self.interrupted
