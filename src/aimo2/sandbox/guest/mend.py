"""Make Python of what a notebook takes besides: `!pip`, `%time`, `name?`, `>>>`, code fences.

Only lines at which the parser stops are touched, so that text within strings stays as it is. A
fence that opens inside the cell begins the code anew: what stands before it, if prose, is dropped.
Knows no namespaces; nothing is run.
"""

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["mended"]

_TRIES: Final = 40
"""Lines mended in one cell at most."""

_FENCE: Final = re.compile(r"^\s*```\w*\s*$")
_INNER_FENCE: Final = re.compile(r"^\s*```\s*(?:python3?|py)\s*$", re.IGNORECASE)
_PROMPT: Final = re.compile(r"^\s*(?:>>>|\.\.\.)(?: |$)")

# (what a line looks like, what it becomes)
_COMMANDS: Final = tuple(
    (re.compile(pattern), becomes)
    for pattern, becomes in (
        (r"^(\s*)%%?(?:time|timeit|prun|capture)\s*$", r"\1pass"),
        (r"^(\s*)%(?:time|timeit|prun)\s+(?:-\w+\s*\d*\s+)*(?=\S)", r"\1"),
        (r"^(\s*\w[\w, ]*=\s*)[!%].*$", r"\1None"),
        (r"^(\s*)[!%].*$", r"\1pass"),
        (r"^(\s*)\?{1,2}[\w.]+\s*;?$", r"\1pass"),
        (r"^(\s*)[\w.]+\?{1,2}\s*;?$", r"\1pass"),
        (r"^(\s*)(?:pip3?|conda|apt|apt-get)\s+\w.*$", r"\1pass"),
    )
)


def mended(code: str, parse: Callable[[str], ast.Module]) -> tuple[str, ast.Module]:
    """(the text that was parsed, its tree). Raises the `SyntaxError` of the text as it came."""
    try:
        return code, parse(code)
    except SyntaxError as error:
        first = error
    for text in _readings(_without_prompts(textwrap.dedent(code))):
        if (found := _without_commands(text, parse)) is not None:
            return found
    raise first from None


def _readings(text: str) -> Iterator[str]:
    """The text; where fences open in it, without those lines, and only what is behind the last.

    Dropped lines are left blank, so that the others keep their numbers.
    """
    yield text
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines, 1) if _INNER_FENCE.match(line)]
    if fences:
        yield "\n".join("" if _INNER_FENCE.match(line) else line for line in lines)
        yield "\n" * fences[-1] + textwrap.dedent("\n".join(lines[fences[-1] :]))


def _without_commands(
    text: str, parse: Callable[[str], ast.Module]
) -> tuple[str, ast.Module] | None:
    """The text with its commands made Python, and its tree; `None` where it still is none."""
    for _ in range(_TRIES):
        try:
            return text, parse(text)
        except SyntaxError as error:
            changed = _without_command(text, error.lineno or 0)
        if changed is None:
            return None
        text = changed
    return None


def _without_prompts(text: str) -> str:
    """Without fences at its ends; of a session with prompts, what was typed."""
    lines = text.strip("\n").split("\n")
    if _FENCE.match(lines[0]):
        del lines[0]
        if lines and _FENCE.match(lines[-1]):
            del lines[-1]
    elif not _PROMPT.match(lines[0]):
        return text
    if lines and _PROMPT.match(lines[0]):
        lines = [_PROMPT.sub("", line, count=1) for line in lines if _PROMPT.match(line)]
    return "\n".join(lines)


def _without_command(text: str, number: int) -> str | None:
    """The text with one line made Python; `None` where that line is no command."""
    lines = text.split("\n")
    if not 1 <= number <= len(lines):
        return None
    for pattern, becomes in _COMMANDS:
        line, count = pattern.subn(becomes, lines[number - 1], count=1)
        if count:
            # A command may go on in the next lines.
            while lines[number - 1].endswith("\\") and number < len(lines):
                lines[number - 1] = lines.pop(number)
            lines[number - 1] = line
            return "\n".join(lines)
    return None
