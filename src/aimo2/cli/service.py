"""One run of `aimo2 kaggle serve`: an exam behind a competition's protocol. Knows no flags.

Apart from the commands, because it needs all that solves, and `--help` does not.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from aimo2 import engine
from aimo2.attempt import Observer
from aimo2.cli import errors
from aimo2.cli.durations import clock_text
from aimo2.cli.exam_board import Board, LiveBoard, PlainBoard
from aimo2.config import EngineConfig, SolveConfig
from aimo2.errors import Aimo2Error
from aimo2.exam import Exam, ExamConfig, ExamFolder
from aimo2.holder import EngineHolder, EngineQuestion, reseeded
from aimo2.kaggle.calls import PREDICT
from aimo2.kaggle.candidate import ExamPredictor
from aimo2.kaggle.predict import PredictEndpoint
from aimo2.kaggle.server import InferenceServer
from aimo2.policy.budget import Lessons
from aimo2.types import Problem


@dataclass(slots=True)
class Service:
    """One run of `serve`."""

    rules: ExamConfig
    engine: EngineConfig
    config: SolveConfig
    out: Path | None
    elapsed: float | None
    load_first: bool
    """Load the model before the first question is there."""
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
        if self.load_first and self.rules.sleep is None:
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
