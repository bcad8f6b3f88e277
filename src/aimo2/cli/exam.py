"""`aimo2 exam`: a whole exam under one clock. Flags to configuration, one call, the exit code."""

import random
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aimo2.cli import flags, options
from aimo2.cli.errors import say
from aimo2.cli.exam_flags import ExamFlags
from aimo2.cli.grouped import grouped
from aimo2.cli.recordings import GoldOption, TracesArgument
from aimo2.errors import ConfigError, InputError
from aimo2.problems import read_problems

# What solves, draws and reads frames takes its time to import: the commands do it, not --help.

app = typer.Typer(
    help="Run a whole exam under one clock, one problem at a time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class OrderName(StrEnum):
    """In which order problems are asked."""

    GIVEN = "given"
    RANDOM = "random"


@app.command()
@grouped
def run(
    file: Annotated[str, typer.Argument(help="Problems: .csv, .jsonl, or - for standard input.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for everything; must hold no exam.")
    ] = None,
    competition: Annotated[
        str, typer.Option(help="aimo2, aimo3, timing, custom, or a .toml file with the rules.")
    ] = "custom",
    order: Annotated[OrderName, typer.Option(help="Of the problems.")] = OrderName.GIVEN,
    *,
    exam_flags: ExamFlags,
    engine_flags: options.EngineFlags,
    second_flags: options.SecondFlags,
    solve_flags: flags.SolveFlags,
) -> None:
    """Ask the problems of a file one by one under one clock, and answer each.

    Writes the journal, traces, submission.csv, submission.parquet and report.html into the
    folder. Only answers go to standard output. Exit code: 0 all answered, 1 some only guessed,
    2 bad input or set-up, 130 interrupted; `aimo2 exam resume` goes on after that.
    """
    from aimo2.cli.exam_sitting import Setup, conduct
    from aimo2.exam import ExamFolder

    problems = read_problems(file)
    rules = exam_flags.rules(competition, modulus=solve_flags.modulus, num_problems=len(problems))
    engine_config = engine_flags.config(seconds=second_flags)
    solve_config = exam_flags.solving(engine_config, solve_flags, rules)
    if order is OrderName.RANDOM:
        random.Random(solve_config.seed).shuffle(problems)
    path = out or Path(time.strftime("exam-%Y%m%d-%H%M%S"))
    with ExamFolder(path, say) as folder:
        if folder.history.began is not None:
            raise InputError(
                f"{path} holds an exam already; go on with it by `aimo2 exam resume {path}`,"
                " or give another folder"
            )
        learned = exam_flags.learned()
        setup = Setup(rules, solve_config, engine_config, engine_flags.model, problems, learned)
        raise typer.Exit(conduct(setup, folder))


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of the exam, as given with --out.")],
) -> None:
    """Go on with an exam that was killed or interrupted, with the time that is really left.

    Problems that have an answer are not asked again. Exit code as of `run`.
    """
    from aimo2.cli.exam_sitting import Setup, conduct
    from aimo2.exam import ExamFolder, exam_history

    history = exam_history(folder)
    assert history.began is not None
    setup = Setup.of(history.began.config, history.began.setup, folder)
    with ExamFolder(folder, say) as opened:
        for line in opened.repaired:
            say(f"{folder}: {line}")
        raise typer.Exit(conduct(setup, opened))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of the exam.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write it; FOLDER/report.html.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about an exam: time, bank, votes, score.

    The exam may still be running.
    """
    from aimo2.exam import exam_history
    from aimo2.exam.report import write_report

    target = out or folder / "report.html"
    write_report(exam_history(folder), target)
    print(target)


RolloutsOption = Annotated[
    int, typer.Option("--rollouts", help="Rollouts a question, as many as are recorded at most.")
]
ConcurrencyOption = Annotated[
    str, typer.Option("--concurrency", help="Rollouts at the same time; a list such as 4,16.")
]
BenchmarkOption = Annotated[
    Path | None, typer.Option(help="A report of `aimo2 benchmark --json`: how fast a server is.")
]
SeedOption = Annotated[int, typer.Option(help="Of all that is drawn.")]


@app.command()
def learn(
    traces: TracesArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the lessons (JSON).")],
    rollouts: RolloutsOption = 16,
    concurrency: ConcurrencyOption = "1,4,16",
    gold: GoldOption = None,
    benchmark: BenchmarkOption = None,
    seed: SeedOption = 0,
) -> None:
    """Learn from graded traces what a moment more is worth, for the policy `value`.

    The file holds derived figures only: no problem and no text. Use it by `aimo2 exam run
    --lessons FILE`.
    """
    from aimo2.cli import exam_practice

    exam_practice.learned(traces, out, rollouts, concurrency, gold, benchmark, seed)


@app.command()
def simulate(
    traces: TracesArgument,
    policy: Annotated[
        str, typer.Option(help="A list of even, bank, clamp, value.")
    ] = "even,bank,clamp,value",
    time: Annotated[
        str,
        typer.Option(
            help="Parts of the time that the problems need on average if nothing is cut off."
        ),
    ] = "25%,50%,100%",
    orders: Annotated[int, typer.Option(help="Random exams; all policies sit the same.")] = 1000,
    problems: Annotated[int, typer.Option(help="Problems an exam.")] = 50,
    lessons: Annotated[
        str,
        typer.Option(
            help="For value: cross (each half of the problems teaches the exams of the other),"
            " default, or a file of `aimo2 exam learn`."
        ),
    ] = "cross",
    rollouts: RolloutsOption = 16,
    concurrency: ConcurrencyOption = "16",
    gold: GoldOption = None,
    benchmark: BenchmarkOption = None,
    seed: SeedOption = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Sit random exams with recorded samples as the model: policies side by side.

    Prints for each policy and part of the time: score, time used, problems lost and overshoot, and
    how much better or worse `value` is on the same exams, with 95 % intervals over the exams.
    """
    from aimo2.cli import exam_practice

    for name, number in (("--orders", orders), ("--problems", problems), ("--rollouts", rollouts)):
        if number < 1:
            raise ConfigError(f"{name} {number}: must be 1 or more")
    exam_practice.simulated(
        traces,
        policy,
        time,
        orders,
        problems,
        lessons,
        rollouts,
        concurrency,
        gold,
        benchmark,
        seed,
        as_json=as_json,
    )
