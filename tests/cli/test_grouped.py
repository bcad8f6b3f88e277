"""Flags in groups: one list of them, the same in every command that solves."""

from dataclasses import dataclass, fields
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from aimo2.cli import choice, load
from aimo2.cli.flags import SolveFlags
from aimo2.cli.grouped import grouped
from aimo2.cli.options import EngineFlags, SecondFlags

_PARAMETER_OF = {
    "solve": lambda: load("solve"),
    "eval": lambda: load("eval"),
    "exam run": lambda: load("exam").commands["run"],
    "kaggle serve": lambda: load("kaggle").commands["serve"],
}


@dataclass(frozen=True)
class Colours:
    red: Annotated[int, typer.Option("--red", help="How red.")] = 1
    blue: Annotated[list[str] | None, typer.Option("--blue")] = None


def test_the_fields_of_a_group_are_options_and_arrive_as_one_value() -> None:
    got: list[tuple[str, Colours]] = []

    @grouped
    def paint(wall: str, *, colours: Colours) -> None:
        """Paint a wall."""
        got.append((wall, colours))

    app = typer.Typer(rich_markup_mode=None)
    app.command()(paint)
    runner = CliRunner()
    assert runner.invoke(app, ["north"]).exit_code == 0
    asked = runner.invoke(app, ["south", "--red", "7", "--blue", "a", "--blue", "b"])
    assert asked.exit_code == 0
    assert got == [("north", Colours()), ("south", Colours(7, ["a", "b"]))]
    said = runner.invoke(app, ["--help"]).output
    assert "How red." in said
    assert "Paint a wall." in said
    assert runner.invoke(app, ["north", "--red", "x"]).exit_code == 2


def test_two_groups_cannot_have_a_flag_of_one_name() -> None:
    def twice(*, one: Colours, two: Colours) -> None: ...

    with pytest.raises(AssertionError, match="one name"):
        grouped(twice)


@pytest.mark.parametrize("command", _PARAMETER_OF)
def test_every_command_that_solves_has_every_flag_of_the_groups(command: str) -> None:
    names = {parameter.name for parameter in _PARAMETER_OF[command]().params}
    for group in (EngineFlags, SecondFlags, SolveFlags):
        assert {field.name for field in fields(group)} <= names


def test_every_flag_of_the_group_sets_something() -> None:
    elsewhere = {"preset", "config_file", "openings_file", "code", "assignments"}
    assert {field.name for field in fields(SolveFlags)} <= elsewhere | set(choice.FLAGS)
