"""The lessons of past exams: those that come with the package, and files of one's own."""

from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from aimo2.errors import InputError
from aimo2.policy.budget import Lessons


@cache
def default_lessons() -> Lessons:
    """What was learned from recorded samples of several models; docs/exam.md says how."""
    text = (resources.files("aimo2.exam") / "lessons.json").read_text(encoding="utf-8")
    return Lessons.model_validate_json(text)


def read_lessons(path: Path) -> Lessons:
    """A file that `aimo2 exam learn` wrote. Raises `InputError`."""
    try:
        return Lessons.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    except ValidationError as error:
        raise InputError(
            f"{path} holds no lessons ({error.errors()[0]['msg']});"
            " make them with `aimo2 exam learn`"
        ) from error
