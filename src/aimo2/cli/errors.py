"""Turn what went wrong into one line and an exit code. Knows no commands."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from pydantic import ValidationError
from rich.console import Console

from aimo2.errors import Aimo2Error

EXIT_OK = 0
EXIT_UNANSWERED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_FLAGS = {"num_rollouts": "--rollouts"}
"""Fields whose flag has another name."""


def stderr_console() -> Console:
    """Where everything goes that is not a result."""
    return Console(file=cast(TextIO, Stderr()), soft_wrap=False)


class Stderr:
    """Standard error as it is at each moment, for a console. What it does not take is lost.

    A full disk or a pipe that nobody reads any more must not end what the lines are about.
    """

    @property
    def _file(self) -> TextIO:
        """While a live display is up, rich has put a proxy in front of it, which ends here."""
        return cast(TextIO, getattr(sys.stderr, "rich_proxied_file", sys.stderr))

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":
            raise AttributeError(name)
        return getattr(self._file, name)


def say(text: str) -> None:
    """One line for a person, on standard error; above a live display, where one is up."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def fail(message: str) -> int:
    """Print one line that names what was wrong; returns the exit code for it."""
    say(f"aimo2: {message}")
    return EXIT_BAD_INPUT


def spoken_validation(error: ValidationError) -> str:
    """The first thing wrong with a configuration, as one line that names the flag."""
    first = error.errors()[0]
    name = next((part for part in reversed(first["loc"]) if isinstance(part, str)), "?")
    flag = _FLAGS.get(name, "--" + name.replace("_", "-"))
    return f"{flag} {first['input']}: {first['msg'][0].lower()}{first['msg'][1:]}"


def run_command(command: Callable[..., Any], name: str) -> None:
    """Run a command line; ends the process with the documented exit code."""
    try:
        command(prog_name=name)
    except Aimo2Error as error:
        sys.exit(fail(str(error)))
    except KeyboardInterrupt:
        say("aimo2: interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        silence_stdout()
        sys.exit(EXIT_OK)


def silence_stdout() -> None:
    """After a closed pipe, keep the interpreter's own flush at exit from failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
