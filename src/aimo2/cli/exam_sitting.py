"""A sitting of `aimo2 exam`: the exam, its engine, what it writes and how it ends. Knows no flags.

Apart from the commands, because it needs all that solves, and `--help` does not.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aimo2 import engine
from aimo2.attempt import Observer
from aimo2.cli import errors
from aimo2.cli.durations import clock_text
from aimo2.cli.exam_board import Board, LiveBoard, PlainBoard
from aimo2.cli.models import with_model
from aimo2.cli.running import on_signals, run_async
from aimo2.config import EngineConfig, SolveConfig
from aimo2.deadline import Deadline
from aimo2.errors import Aimo2Error, ConfigError, InputError, ModelError, SetupError
from aimo2.exam import Exam, ExamConfig, ExamFolder
from aimo2.exam.report import write_report
from aimo2.exam.submission import score, submission, write_submission
from aimo2.holder import START_SECONDS, EngineHolder, EngineQuestion, reseeded
from aimo2.policy.budget import Lessons
from aimo2.types import Problem

_PROBLEMS: TypeAdapter[list[Problem]] = TypeAdapter(list[Problem])


@dataclass(frozen=True, slots=True)
class Setup:
    """What an exam is made of; stored with its beginning."""

    rules: ExamConfig
    solve: SolveConfig
    engine: EngineConfig
    model: str | None
    problems: Sequence[Problem]
    """In the order in which they are asked."""
    lessons: Lessons | None = None
    """Those of the user; `None` takes the package's."""

    def dumped(self) -> dict[str, Any]:
        """For the journal. An API key is none of it: only the name of its variable is."""
        return {
            "solve": self.solve.model_dump(mode="json"),
            "engine": self.engine.model_dump(mode="json"),
            "model": self.model,
            "lessons": self.lessons.model_dump(mode="json") if self.lessons else None,
            "problems": _PROBLEMS.dump_python(list(self.problems), mode="json"),
        }

    @classmethod
    def of(cls, rules: ExamConfig, stored: Mapping[str, Any], folder: Path) -> "Setup":
        """Read back. Raises `InputError` where the exam was not one of `aimo2 exam run`."""
        try:
            setup = cls(
                rules,
                SolveConfig.model_validate(stored["solve"]),
                EngineConfig.model_validate(stored["engine"]),
                stored["model"],
                _PROBLEMS.validate_python(stored["problems"]),
                Lessons.model_validate(stored["lessons"]) if stored["lessons"] else None,
            )
        except (KeyError, ValidationError) as error:
            raise InputError(
                f"{folder} is no exam of `aimo2 exam run`, or of another version of aimo2:"
                " its settings cannot be read back"
            ) from error
        for server in (setup.engine.server, setup.engine.reasoner, setup.engine.verifier):
            key = server.api_key_env if server else None
            if key is not None and not os.environ.get(key):
                raise ConfigError(f"the exam's API key is in {key}, which is not set; set it first")
        return setup


def conduct(setup: Setup, folder: ExamFolder) -> int:
    """Sit the exam, or go on with the one in the folder; returns the exit code."""
    console = errors.stderr_console()
    if setup.rules.sleep is None:
        setup = replace(setup, engine=with_model(setup.engine, setup.model, console))
    board: Board = LiveBoard(console) if console.is_terminal else PlainBoard(console)
    sitting = _Sitting(setup, folder, board)
    return run_async(sitting.run)


@dataclass(slots=True)
class _Sitting:
    """One run of the command."""

    setup: Setup
    folder: ExamFolder
    board: Board
    exam: Exam | None = None
    holder: EngineHolder | None = None
    interrupted: bool = False
    given_up: Aimo2Error | None = None
    """What the user has to mend before the exam can go on."""
    main: "asyncio.Task[Any] | None" = None

    async def run(self) -> int:
        """Ask every problem that has no answer; returns the exit code."""
        self.main = asyncio.current_task()
        on_signals(self.interrupt)
        self.holder = EngineHolder(
            self._open_engine,
            self.board.notice,
            seconds=min(START_SECONDS, self.setup.rules.usable),
            hopeless=self._give_up,
        )
        exam = self.exam = Exam(
            self.setup.rules,
            self._ask,
            self.folder,
            lessons=self.setup.lessons,
            watcher=self.board,
            setup=self.setup.dumped(),
        )
        self.board.show(lambda: exam.status, self._health)
        with self.board:
            try:
                await self._all(exam)
            except asyncio.CancelledError:
                if not self.interrupted:
                    raise
            finally:
                await exam.close()
                await self.holder.close()
        return self._ended(exam)

    def _open_engine(self, deadline: Deadline) -> AbstractAsyncContextManager[engine.Engine]:
        config, solve = self.setup.engine, self.setup.solve
        return engine.open_engine(config, solve, self.board.notice, deadline)

    def _ask(self, problem: Problem, observer: Observer) -> EngineQuestion:
        assert self.exam is not None
        assert self.holder is not None
        config = reseeded(self.setup.solve, self.exam.num_resumed)
        return EngineQuestion(problem, observer, config, self.holder)

    def _health(self) -> str | None:
        assert self.holder is not None
        return None if self.setup.rules.sleep is not None else self.holder.health()

    async def _all(self, exam: Exam) -> None:
        problems = [problem for problem in self.setup.problems if problem.id not in exam.answers]
        if not problems:
            return
        await self._begin(exam)
        for problem in problems:
            answer = await exam.answer(problem)
            if self.given_up is not None:
                raise self.given_up
            if self.interrupted:
                if problem.id in exam.answers:
                    self._said(exam, problem.id, answer.answer)
                return
            self._said(exam, problem.id, answer.answer)

    async def _begin(self, exam: Exam) -> None:
        """Start the clock and the engine. Without one the first time, there is no exam."""
        assert self.holder is not None
        if self.folder.history.began is not None:
            exam.start()
        began = time.monotonic()
        if self.setup.rules.sleep is None:
            try:
                await self.holder.tools()
            except (SetupError, ModelError) as error:
                if self.given_up is not None or not exam.answers:
                    raise
                exam.note(f"no engine: {error}")
        # The engine's start belongs to the exam; one that cannot start at all begins none.
        exam.start(elapsed=time.monotonic() - began)

    def _give_up(self, error: Aimo2Error) -> None:
        """No question is spent on what only the user can mend: it is asked when it is resumed."""
        self.given_up = error
        if self.exam is not None:
            self.exam.interrupt()

    def _said(self, exam: Exam, identity: str, answer: str) -> None:
        try:
            print(f"{identity}\t{answer}", flush=True)
        except OSError as error:
            self.board.notice(f"the answer cannot be printed ({error.strerror}); the exam goes on")
        try:
            write_submission(self.folder.path, submission(self.setup.problems, exam.answers))
        except Aimo2Error as error:
            self.board.notice(str(error))

    def interrupt(self) -> None:
        """Ctrl-C: the first ends the question with the votes so far, the second ends everything."""
        if self.interrupted:
            os._exit(errors.EXIT_INTERRUPTED)
        self.interrupted = True
        if self.exam is not None and self.exam.status.current is not None:
            self.exam.interrupt()
        elif self.main is not None:
            self.main.cancel()

    def _ended(self, exam: Exam) -> int:
        if self.folder.history.began is None:
            self.board.notice("interrupted before the exam began; the same command begins it")
            return errors.EXIT_INTERRUPTED
        problems, answers, path = self.setup.problems, exam.answers, self.folder.path
        writers: tuple[Callable[[], None], ...] = (
            lambda: write_submission(path, submission(problems, answers)),
            lambda: write_report(self.folder.history, path / "report.html"),
        )
        for write in writers:
            try:
                write()
            except Aimo2Error as error:
                self.board.notice(str(error))
        right, graded = score(self.setup.rules, problems, answers)
        if graded:
            self.board.notice(f"score: {right} of {graded}")
        status = exam.status
        self.board.notice(
            f"{len(answers)} of {len(problems)} problems answered in {clock_text(status.elapsed)}"
            f" of {clock_text(status.total)}; everything is in {path}"
        )
        if self.interrupted:
            self.board.notice(f"interrupted; go on with `aimo2 exam resume {path}`")
            return errors.EXIT_INTERRUPTED
        guessed = any(answer.guessed for answer in answers.values())
        return errors.EXIT_UNANSWERED if guessed else errors.EXIT_OK
