"""`aimo2 kaggle serve` and `gateway`: both ends of a competition's protocol. Flags, one call."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimo2 import engine
from aimo2.attempt import Observer
from aimo2.cli import errors, flags, options
from aimo2.cli.bundle import bundle, dry_run
from aimo2.cli.durations import clock_text, parse_duration
from aimo2.cli.exam_board import Board, LiveBoard, PlainBoard
from aimo2.cli.exam_flags import ExamFlags, seconds
from aimo2.cli.grouped import grouped
from aimo2.cli.models import with_model
from aimo2.cli.running import run_async
from aimo2.config import EngineConfig, SolveConfig
from aimo2.errors import Aimo2Error, ConfigError, GatewayError
from aimo2.exam import Exam, ExamConfig, ExamFolder
from aimo2.holder import EngineHolder, EngineQuestion, reseeded
from aimo2.policy.budget import Lessons
from aimo2.problems import read_problems
from aimo2.types import Problem

if TYPE_CHECKING:  # gRPC, Arrow and polars take their time to import: only these commands need them
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
    service = _Service(rules, engine_config, config, out, elapsed, load, host, port, learned)
    raise typer.Exit(run_async(service.run))


@dataclass(slots=True)
class _Service:
    """One run of `serve`."""

    rules: ExamConfig
    engine: EngineConfig
    config: SolveConfig
    out: Path | None
    elapsed: float | None
    load: LoadName
    host: str | None
    port: int
    lessons: Lessons | None = None
    """For the policy `value`; `None` takes the package's."""
    interrupted: bool = False
    given_up: Aimo2Error | None = None
    """What the user has to mend before there can be a model at all."""

    async def run(self) -> int:
        """Serve until a signal; returns the exit code."""
        console = errors.stderr_console()
        board: Board = LiveBoard(console) if console.is_terminal else PlainBoard(console)
        async with contextlib.AsyncExitStack() as stack:
            folder = None
            if self.out is not None:
                folder = stack.enter_context(ExamFolder(self.out, board.notice))
                for line in folder.repaired:
                    board.notice(f"{self.out}: {line}")
            stopped = asyncio.Event()
            holder = await stack.enter_async_context(
                self._holder(board.notice, lambda error: self._give_up(error, exam, stopped))
            )
            exam = self._exam(folder, holder, board)
            stack.push_async_callback(exam.close)
            board.show(lambda: exam.status, holder.health)
            stack.enter_context(board)
            await self._serve(exam, holder, board, stack, stopped)
        if self.given_up is not None:
            raise self.given_up
        return errors.EXIT_INTERRUPTED if self.interrupted else errors.EXIT_OK

    @contextlib.asynccontextmanager
    async def _holder(
        self, notify: Callable[[str], None], hopeless: Callable[[Aimo2Error], None]
    ) -> AsyncIterator[EngineHolder]:
        holder = EngineHolder(
            lambda deadline: engine.open_engine(self.engine, self.config, notify, deadline),
            notify,
            hopeless=hopeless,
        )
        try:
            yield holder
        finally:
            await holder.close()

    def _exam(self, folder: ExamFolder | None, holder: EngineHolder, board: Board) -> Exam:
        def ask(problem: Problem, observer: Observer) -> EngineQuestion:
            return EngineQuestion(
                problem, observer, reseeded(self.config, exam.num_resumed), holder
            )

        exam = Exam(
            self.rules,
            ask,
            folder,
            watcher=board,
            lessons=self.lessons,
            setup={
                "command": "kaggle serve",
                "solve": self.config.model_dump(mode="json"),
                "engine": self.engine.model_dump(mode="json"),
            },
        )
        return exam

    async def _serve(
        self,
        exam: Exam,
        holder: EngineHolder,
        board: Board,
        stack: contextlib.AsyncExitStack,
        stopped: asyncio.Event,
    ) -> None:
        from aimo2.kaggle.calls import PREDICT
        from aimo2.kaggle.candidate import ExamPredictor
        from aimo2.kaggle.predict import PredictEndpoint
        from aimo2.kaggle.server import InferenceServer

        self._listen_for_signals(exam, stopped, board.notice)
        endpoint = PredictEndpoint(
            ExamPredictor(exam),
            board.notice,
            limit=self.rules.per_question,
            integers=self.rules.answer_type == "int",
        )
        stack.push_async_callback(endpoint.close)
        server = InferenceServer({PREDICT: endpoint}, board.notice, host=self.host, port=self.port)
        await stack.enter_async_context(server)
        print(f"{server.host}:{server.port}", flush=True)
        board.notice(
            f"serving {self.rules.competition}: {self.rules.num_problems} problems in"
            f" {clock_text(self.rules.limit)}; Ctrl-C ends it"
        )
        if self.elapsed is not None:
            exam.start(self.elapsed)
        if self.load is LoadName.BEFORE and self.rules.sleep is None:
            holder.start()
        await stopped.wait()

    def _give_up(self, error: Aimo2Error, exam: Exam, stopped: asyncio.Event) -> None:
        """Give the running question back unanswered: guesses would be final, and all it had."""
        self.given_up = error
        exam.interrupt()
        stopped.set()

    def _listen_for_signals(
        self, exam: Exam, stopped: asyncio.Event, notify: Callable[[str], None]
    ) -> None:
        """The first signal answers the running question with its votes; the second ends at once."""

        def interrupted() -> None:
            if stopped.is_set():
                os._exit(errors.EXIT_INTERRUPTED)
            self.interrupted = True
            notify("ending: the running question is answered with the votes so far")
            exam.interrupt()
            stopped.set()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, interrupted)
        loop.add_signal_handler(signal.SIGTERM, stopped.set)


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
