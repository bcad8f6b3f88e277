"""Write pages of questions to files. Knows no solver and no traces' files."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from aimo2.errors import Aimo2Error
from aimo2.journal import RecordFile
from aimo2.pages.question import Question, questions_page
from aimo2.solver import Solved
from aimo2.types import Problem

_LARGE_BYTES = 20_000_000


def write_page(path: Path, questions: Sequence[Question], title: str) -> None:
    """Write one page. Raises `InputError` or `DiskFullError`."""
    with RecordFile(path) as file:
        file.append(questions_page(questions, title))
    size = path.stat().st_size
    is_large = size > _LARGE_BYTES and len(questions) > 1
    advice = "; large for a browser: `aimo2 trace show FILE ID --html` has one problem"
    print(f"aimo2: wrote {path} ({size / 1e6:.1f} MB){advice * is_large}", file=sys.stderr)


class SolvePage:
    """The page of `aimo2 solve --html`: written when all has ended, however it ended."""

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        """Raises `InputError` where the file could not be written later."""
        RecordFile(path)
        self._path = path
        self._statements = {problem.id: problem.statement for problem in problems}
        self._questions: list[Question] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._questions:
            return
        try:
            write_page(self._path, self._questions, "aimo2 solve")
        except Aimo2Error:
            if kind is None:
                raise

    def add(self, solved: Solved) -> None:
        """A question has ended."""
        outcome = solved.outcome
        self._questions.append(
            Question(
                outcome.id,
                tuple(solved.traces),
                outcome,
                self._statements.get(outcome.id),
                outcome.gold,
            )
        )
