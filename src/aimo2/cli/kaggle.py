"""`aimo2 kaggle serve` and `gateway`: both ends of a competition's protocol. Flags, one call."""

import os
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimo2.cli import errors, flags, options
from aimo2.cli.bundle import bundle, dry_run
from aimo2.cli.durations import clock_text, parse_duration
from aimo2.cli.exam_flags import ExamFlags, seconds
from aimo2.cli.grouped import grouped
from aimo2.cli.running import run_async
from aimo2.errors import ConfigError, GatewayError
from aimo2.problems import read_problems
from aimo2.types import Problem

if TYPE_CHECKING:  # gRPC, polars and what solves take their time: the commands import them
    from aimo2.kaggle.gateway import Reply, Score

app = typer.Typer(
    help="A competition's protocol: answer its gateway, be its gateway, make a submission.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("bundle")(bundle)
app.command("dry-run")(dry_run)

# gRPC's own log lines say nothing that we do not.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class LoadName(StrEnum):
    """When the model is loaded."""

    FIRST = "first"
    BEFORE = "before"


class OrderName(StrEnum):
    """In which order problems are asked."""

    RANDOM = "random"
    FILE = "file"


class ColumnName(StrEnum):
    """What the column with the statements is called."""

    PROBLEM = "problem"
    QUESTION = "question"


class SeriesName(StrEnum):
    """How polars series travel."""

    PARQUET = "parquet"
    IPC = "ipc"


PortOption = Annotated[int, typer.Option("--port", help="Of the inference server.")]


@app.command()
@grouped
def serve(
    competition: Annotated[
        str, typer.Option(help="Its rules: aimo2, aimo3, timing, custom, or a .toml file.")
    ] = "aimo3",
    num_problems: Annotated[
        int | None, typer.Option("--problems", help="How many there will be.")
    ] = None,
    sleep: Annotated[
        str | None, typer.Option(help="Sleep so long and answer 0, instead of solving.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The exam's folder; one with an exam in it goes on."),
    ] = None,
    elapsed: Annotated[
        float | None,
        typer.Option(
            help="Seconds of the exam that are gone; the clock starts at once then, and otherwise"
            " with the first question."
        ),
    ] = None,
    load: Annotated[
        LoadName, typer.Option(help="Load the model at the first question, or before it.")
    ] = LoadName.BEFORE,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; all where the real gateway calls, else local."),
    ] = None,
    port: PortOption = 50051,
    *,
    exam_flags: ExamFlags,
    engine_flags: options.EngineFlags,
    second_flags: options.SecondFlags,
    solve_flags: flags.SolveFlags,
) -> None:
    """Answer a competition's gateway, until Ctrl-C. Prints its address once it listens.

    Whatever happens, every problem gets an answer within its limit: the best guess at the worst.
    """
    from aimo2.cli.models import with_model
    from aimo2.cli.service import Service

    rules = exam_flags.rules(
        competition,
        modulus=solve_flags.modulus,
        num_problems=num_problems,
        sleep=seconds(sleep, "--sleep"),
    )
    if elapsed is not None and elapsed < 0:
        raise ConfigError(f"--elapsed {elapsed:g}: give 0 or more seconds")
    engine_config = engine_flags.config(seconds=second_flags)
    config = exam_flags.solving(engine_config, solve_flags, rules)
    learned = exam_flags.learned()
    if rules.sleep is None:
        engine_config = with_model(engine_config, engine_flags.model, errors.stderr_console())
    first = load is LoadName.BEFORE
    service = Service(rules, engine_config, config, out, elapsed, first, host, port, learned)
    raise typer.Exit(run_async(service.run))


@app.command()
def gateway(
    file: Annotated[str, typer.Argument(help="Problems: .jsonl or .csv, or - for stdin.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the answers; a run in it goes on.")
    ] = Path("gateway"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget a run that the folder holds.")
    ] = False,
    host: Annotated[str, typer.Option(help="Where the inference server is.")] = "localhost",
    port: PortOption = 50051,
    order: Annotated[OrderName, typer.Option(help="Of the questions.")] = OrderName.RANDOM,
    seed: Annotated[
        int | None, typer.Option(help="Of the random order; without it, another every time.")
    ] = None,
    start_limit: Annotated[
        str, typer.Option(help="How long the server may take to come up.")
    ] = "15m",
    per_question: Annotated[str, typer.Option(help="How long an answer may take.")] = "30m",
    reconnect: Annotated[
        str, typer.Option(help="How long a server that hung up may take to come back.")
    ] = "5s",
    column: Annotated[
        ColumnName, typer.Option(help="Name of the column with the statements.")
    ] = ColumnName.PROBLEM,
    series: Annotated[
        SeriesName, typer.Option(help="Form of series; ipc for servers of newer competitions.")
    ] = SeriesName.PARQUET,
    modulus: Annotated[
        int | None, typer.Option(help="Reduce golds and answers modulo this for the score.")
    ] = None,
) -> None:
    """Ask an inference server every problem of a file, as the competition's gateway does.

    Prints `id<TAB>answer` lines; writes submission.parquet, submission.csv and, where golds are
    known, tells the score. Exit code: 0 done, 2 bad input or a server that failed, 130
    interrupted; the same command then goes on where it was.
    """
    from aimo2.exam.submission import write_submission
    from aimo2.kaggle import gateway as gateways
    from aimo2.kaggle.client import Client, Patience

    problems = read_problems(file)
    if modulus is not None and modulus < 1:
        raise ConfigError(f"--modulus {modulus}: give 1 or more")
    if fresh:
        for name in (gateways.RECORD_NAME, *gateways.SUBMISSION_NAMES):
            (out / name).unlink(missing_ok=True)
    patience = Patience(
        start=parse_duration(start_limit, "--start-limit"),
        response=parse_duration(per_question, "--per-question"),
        reconnect=parse_duration(reconnect, "--reconnect"),
    )
    lines = _GatewayLines(problems)
    with gateways.GatewayRecord(out, problems) as record:
        lines.resumed(record.repaired, len(record.replies))
        with Client(host, port, patience, series=series.value, waiting=lines.waiting) as client:
            try:
                gateways.run(
                    gateways.ordered(problems, order.value, seed),
                    client,
                    record,
                    lines,
                    column=column.value,
                )
            except (GatewayError, KeyboardInterrupt) as error:
                lines.broken_off(error, len(record.replies), out)
                raise
        write_submission(out, gateways.submission(problems, record.replies))
        lines.ended(gateways.score(problems, record.replies, modulus), out)


class _GatewayLines:
    """The gateway's run: answers on standard output, progress on standard error."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._console = errors.stderr_console()
        self._golds = {problem.id: problem.gold for problem in problems}
        self._begun = time.monotonic()
        self._taken = 0
        self._waited = 0.0

    def asked(self, problem: Problem, number: int, total: int) -> None:
        self._tell(f"{number}/{total} [{problem.id}] asked")

    def answered(self, reply: "Reply", number: int, total: int) -> None:
        print(f"{reply.id}\t{reply.answer}", flush=True)
        self._taken += 1
        pace = (time.monotonic() - self._begun) / self._taken
        left = f", about {clock_text(pace * (total - number))} left" if number < total else ""
        self._tell(
            f"{number}/{total} [{reply.id}] {reply.answer} after {reply.seconds:.1f} s{left}"
        )

    def waiting(self, seconds: float) -> None:
        """A line at once, then every half minute."""
        if seconds == 0 or seconds - self._waited >= 30:
            self._waited = seconds
            self._tell(f"waiting for the inference server ({clock_text(seconds)})")

    def resumed(self, repaired: Sequence[str], num_replies: int) -> None:
        for line in repaired:
            self._tell(line)
        if num_replies:
            self._tell(f"going on: {num_replies} of {len(self._golds)} are answered")

    def broken_off(self, error: BaseException, num_replies: int, out: Path) -> None:
        kind = f"{error.kind}; " if isinstance(error, GatewayError) else ""
        self._tell(
            f"{kind}{num_replies} of {len(self._golds)} answers are kept in {out};"
            " the same command goes on with the rest"
        )

    def ended(self, score: "Score", out: Path) -> None:
        if score.num_graded:
            self._tell(f"{score.num_correct} of {score.num_graded} with a gold answer are correct")
        self._tell(f"wrote {out / 'submission.parquet'} and {out / 'submission.csv'}")

    def _tell(self, text: str) -> None:
        sys.stdout.flush()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
