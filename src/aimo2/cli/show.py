"""What is shown while a solve works: `--show`, and the display that it means. Knows no solver."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console
from typer.core import TyperCommand

from aimo2.cli.display import Display, LiveDisplay, PlainDisplay, ShowDisplay
from aimo2.cli.tree import LiveTreeDisplay, TreeDisplay


class ShowName(StrEnum):
    """What is shown while it works."""

    TEXT = "text"
    TREE = "tree"


class ShowCommand(TyperCommand):
    """Lets `--show` stand alone: the words behind it are the problem's, unless they are its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--show` its value before the flags are read."""
        return super().parse_args(ctx, show_with_value(args))


def show_with_value(args: Sequence[str]) -> list[str]:
    """The arguments, with `--show` as `--show=text` or `--show=tree`."""
    found: list[str] = []
    waiting = list(args)
    while waiting:
        arg = waiting.pop(0)
        if arg == "--":
            return [*found, arg, *waiting]
        if arg == "--show":
            named = bool(waiting) and waiting[0] in list(ShowName)
            arg = f"--show={waiting.pop(0) if named else ShowName.TEXT.value}"
        found.append(arg)
    return found


def display_for(show: ShowName | None, console: Console, total: int) -> Display:
    """The display for `total` questions: live on a terminal, lines elsewhere."""
    if show is ShowName.TEXT:
        return ShowDisplay(console, total)
    if show is ShowName.TREE:
        return (LiveTreeDisplay if console.is_terminal else TreeDisplay)(console, total)
    return (LiveDisplay if console.is_terminal else PlainDisplay)(console, total)
