"""Turn what went wrong into one line and an exit code. Knows no commands."""

import os
import sys

from pydantic import ValidationError
from rich.console import Console

EXIT_OK = 0
EXIT_UNANSWERED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_FLAGS = {"num_rollouts": "--rollouts"}
"""Fields whose flag has another name."""


def stderr_console() -> Console:
    """Where everything goes that is not a result."""
    return Console(stderr=True, soft_wrap=False)


def fail(message: str) -> int:
    """Print one line that names what was wrong; returns the exit code for it."""
    print(f"aimo2: {message}", file=sys.stderr)
    return EXIT_BAD_INPUT


def spoken_validation(error: ValidationError) -> str:
    """The first thing wrong with a configuration, as one line that names the flag."""
    first = error.errors()[0]
    name = next((part for part in reversed(first["loc"]) if isinstance(part, str)), "?")
    flag = _FLAGS.get(name, "--" + name.replace("_", "-"))
    return f"{flag} {first['input']}: {first['msg'][0].lower()}{first['msg'][1:]}"


def silence_stdout() -> None:
    """After a closed pipe, keep the interpreter's own flush at exit from failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
