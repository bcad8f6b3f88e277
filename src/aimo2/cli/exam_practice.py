"""`aimo2 exam learn` and `aimo2 exam simulate`: exams on recorded samples, on a virtual clock."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aimo2.cli import errors
from aimo2.cli.replay import load_recorded, throughput
from aimo2.errors import ConfigError, DiskFullError, InputError
from aimo2.evals.exams import Course, Exams, courses, hall, learn, simulate
from aimo2.evals.recorded import Recorded
from aimo2.evals.replay import Policy, Throughput
from aimo2.exam.lessons import default_lessons, read_lessons
from aimo2.policy.budget import BudgetConfig, Lessons

_REPEATS = 8
"""Random orders of each problem's samples."""


def learned(
    traces: Sequence[Path],
    out: Path,
    rollouts: int,
    concurrency: str,
    gold: str | None,
    benchmark: Path | None,
    seed: int,
) -> None:
    """What `aimo2 exam learn` does; the arguments are its flags."""
    recorded = load_recorded(traces, gold)
    server, speed = throughput(benchmark, None)
    widths = _widths(concurrency)
    console = errors.stderr_console()
    for line in (*recorded.notes, speed):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    groups = _groups(recorded, server, rollouts, widths, seed)
    source = (
        f"{recorded.num_samples} samples of {len(recorded.problems)} questions; up to {rollouts}"
        f" rollouts, {' and '.join(map(str, widths))} at the same time"
    )
    try:
        lessons = learn(groups, source)
    except ValueError as error:
        raise InputError(f"{', '.join(map(str, traces))}: {error}") from error
    _write(out, lessons)
    print(out)


def _write(path: Path, lessons: Lessons) -> None:
    try:
        path.write_text(lessons.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    except OSError as error:
        raise DiskFullError(f"no room left to write {path}; free some disk space") from error


def simulated(
    traces: Sequence[Path],
    policy: str,
    time: str,
    orders: int,
    problems: int,
    lessons: str,
    rollouts: int,
    concurrency: str,
    gold: str | None,
    benchmark: Path | None,
    seed: int,
    *,
    as_json: bool,
) -> None:
    """What `aimo2 exam simulate` does; the arguments are its flags."""
    configs = [BudgetConfig.model_validate({"policy": name}) for name in _policies(policy)]
    parts = [_part(word) for word in time.split(",")]
    taught = {"cross": None, "default": default_lessons()}.get(lessons, ...)
    if taught is ...:
        taught = read_lessons(Path(lessons))
    recorded = load_recorded(traces, gold)
    server, speed = throughput(benchmark, None)
    groups = _groups(recorded, server, rollouts, _widths(concurrency), seed)
    try:
        drawn = hall(groups, taught, num_exams=orders, num_problems=problems, seed=seed)
    except ValueError as error:
        raise InputError(f"{', '.join(map(str, traces))}: {error}") from error
    console = errors.stderr_console()
    for line in (
        *recorded.notes,
        speed,
        f"{orders} exams of {problems} of {len(groups)} problems; an exam needs"
        f" {drawn.need:.0f} s on average if nothing is cut off",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    results = _sat(console, len(parts) * len(configs) * orders, drawn, configs, parts)
    if as_json:
        print(json.dumps([_as_dict(each, results, drawn.need) for each in results], indent=1))
    else:
        Console().print(_table(results, drawn.need))


def _sat(
    console: Console, total: int, drawn: Any, configs: Sequence[BudgetConfig], parts: list[float]
) -> list[Exams]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("exams", total=total)
        return simulate(
            drawn, configs, parts, notify=lambda done: progress.update(task, completed=done)
        )


def _groups(
    recorded: Recorded, server: Throughput, rollouts: int, widths: Sequence[int], seed: int
) -> list[list[Course]]:
    groups: list[list[Course]] = []
    for width in widths:
        policy = Policy(num_rollouts=rollouts, concurrency=width)
        groups += courses(recorded.problems, policy, server, repeats=_REPEATS, seed=seed)
    random.Random(seed).shuffle(groups)
    return groups


def _widths(text: str) -> list[int]:
    try:
        widths = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--concurrency {text}: give whole numbers, such as 4,16") from error
    if min(widths) < 1:
        raise ConfigError(f"--concurrency {text}: must be 1 or more")
    return widths


def _policies(text: str) -> list[str]:
    known = ("even", "bank", "clamp", "value")
    names = [word.strip() for word in text.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError(f"--policy {name}: give a list of {', '.join(known)}")
    return names


def _part(word: str) -> float:
    try:
        part = float(word.strip().removesuffix("%")) / (100 if "%" in word else 1)
    except ValueError as error:
        raise ConfigError(f"--time {word}: give parts such as 25%,50%,100%") from error
    if not 0 < part < 100:
        raise ConfigError(f"--time {word}: must be above 0, such as 50%")
    return part


def _as_dict(exams: Exams, results: Sequence[Exams], need: float) -> dict[str, Any]:
    value = _value_of(exams, results)
    return {
        "policy": exams.policy,
        "part": exams.part,
        "limit": exams.part * need,
        "exams": len(exams.exams),
        "score": exams.mean(lambda exam: exam.score),
        "used": exams.mean(lambda exam: exam.used),
        "lost": exams.mean(lambda exam: exam.num_lost),
        "given_back": exams.mean(lambda exam: exam.num_given_back),
        "overshoot": max(exam.overshoot for exam in exams.exams),
        "value_minus_this": None if value is None else value.difference(exams),
    }


def _value_of(exams: Exams, results: Sequence[Exams]) -> Exams | None:
    """The exams of `value` with the same part of the time; `None` for itself."""
    if exams.policy == "value":
        return None
    return next((r for r in results if r.part == exams.part and r.policy == "value"), None)


def _table(results: Sequence[Exams], need: float) -> Table:
    table = Table(box=None)
    for heading in ("time", "policy"):
        table.add_column(heading)
    for heading in ("score", "used", "lost", "given back", "overshoot", "value is better by"):
        table.add_column(heading, justify="right")
    for exams in results:
        value = _value_of(exams, results)
        table.add_row(
            f"{exams.part:.0%}",
            exams.policy,
            _spoken(exams.mean(lambda exam: exam.score)),
            f"{exams.mean(lambda exam: exam.used)[0] / (exams.part * need):.0%}",
            f"{exams.mean(lambda exam: exam.num_lost)[0]:.1f}",
            f"{exams.mean(lambda exam: exam.num_given_back)[0]:.1f}",
            f"{max(exam.overshoot for exam in exams.exams):g} s",
            "" if value is None else _spoken(value.difference(exams)),
        )
    return table


def _spoken(figure: tuple[float, float, float]) -> str:
    mean, low, high = figure
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
