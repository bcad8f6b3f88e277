"""The `aimo2` command: flags to configuration to one call. The only place that prints or exits.

A command's module is imported when the command is asked for: together they load libraries for
seconds, of which `aimo2 solve` needs few, and its clock runs from the process's start.
"""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

import aimo2
from aimo2.cli import errors

COMMANDS = {
    "solve": "solve:solve",
    "presets": "presets:presets",
    "openings": "openings:openings",
    "serve": "serve:serve",
    "eval": "evaluate:evaluate",
    "compare": "compare:compare",
    "export": "compare:export",
    "benchmark": "benchmark:app",
    "exam": "exam:app",
    "data": "data:app",
    "models": "models:app",
    "kaggle": "kaggle:app",
    "sandbox": "sandbox:app",
    "trace": "trace:app",
    "report": "report:report",
    "doctor": "doctor:doctor",
    "replay": "replay:replay",
    "calibrate": "calibrate:calibrate",
}
"""Name -> module of `aimo2.cli` and what it defines there: a function, or an app of subcommands."""


class LazyGroup(TyperGroup):
    """Loads a command when it is asked for; `--help` and completion load them all."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; `None` where there is none."""
        return load(cmd_name) if cmd_name in COMMANDS else None


def load(name: str) -> Any:
    """Import the command of that name, as the object that the command line runs."""
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(f"aimo2.cli.{module}"), attribute)
    command: Any
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
    else:
        holder = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
        )
        holder.command(name, cls=_class_of(name))(found)
        command = typer.main.get_command(holder)
    command.name = name
    return command


def _class_of(name: str) -> Any:
    if name != "solve":
        return None
    from aimo2.cli.show import ShowCommand  # its flag --show may stand without a word

    return ShowCommand


app = typer.Typer(
    name="aimo2",
    cls=LazyGroup,
    help="Solve olympiad mathematics with open language models, under an exam clock.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"aimo2 {aimo2.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Hold the options of `aimo2` itself."""


def main() -> None:
    """Run the command line; ends the process with the documented exit code."""
    errors.run_command(app, "aimo2")
