"""An exam's answers as the files that a competition takes, and their score. Knows no clock."""

import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from aimo2.answers import canonical, same
from aimo2.errors import DiskFullError, InputError
from aimo2.exam.config import ExamConfig
from aimo2.exam.records import ExamAnswer
from aimo2.types import Problem

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_TEXT = re.compile("no space left|file too large|quota exceeded", re.IGNORECASE)
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


def submission(problems: Iterable[Problem], answers: Mapping[str, ExamAnswer]) -> pl.DataFrame:
    """A row of `id` and `answer` for each problem that has an answer, in the problems' order.

    The column is of whole numbers where all answers are, and of text otherwise.
    """
    rows = [(each.id, answers[each.id].answer) for each in problems if each.id in answers]
    texts = [answer for _, answer in rows]
    whole = all(_WHOLE.fullmatch(text) for text in texts)
    return pl.DataFrame(
        {
            "id": pl.Series([key for key, _ in rows], dtype=pl.String),
            "answer": pl.Series(
                [int(text) for text in texts] if whole else texts,
                dtype=pl.Int64 if whole else pl.String,
            ),
        }
    )


def write_submission(folder: Path, frame: pl.DataFrame) -> None:
    """`submission.csv` and `submission.parquet`, each replaced whole.

    Raises `DiskFullError` or `InputError`; the older files then still stand.
    """
    for name, write in (("csv", frame.write_csv), ("parquet", frame.write_parquet)):
        target = folder / f"submission.{name}"
        draft = folder / f".submission.{name}.part"
        try:
            write(draft)
            draft.replace(target)
        except (OSError, pl.exceptions.ComputeError) as error:
            draft.unlink(missing_ok=True)
            # Polars passes some of the system's errors on as text only.
            if getattr(error, "errno", None) in _NO_ROOM or _NO_ROOM_TEXT.search(str(error)):
                raise DiskFullError(
                    f"no room left to write {target}; free some disk space"
                ) from error
            raise InputError(f"cannot write {target}: {error}") from error


def is_correct(config: ExamConfig, answer: str, gold: str) -> bool:
    """Whether an answer equals the gold one, the exam's modulus applied to both."""
    wanted = canonical(gold, config.answer_type, config.modulus).value or gold
    return answer == wanted or same(answer, wanted) is True


def score(
    config: ExamConfig, problems: Sequence[Problem], answers: Mapping[str, ExamAnswer]
) -> tuple[int, int]:
    """Right answers, and problems that have a gold answer; an unanswered one is wrong."""
    graded = [each for each in problems if each.gold is not None]
    right = sum(
        is_correct(config, answers[each.id].answer, each.gold or "")
        for each in graded
        if each.id in answers
    )
    return right, len(graded)
