"""Flags of the two commands that sit an exam: its rules, and how its questions are solved."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aimo2.cli import flags
from aimo2.cli.durations import parse_duration
from aimo2.config import EngineConfig, SolveConfig

if TYPE_CHECKING:  # numpy and what solves take their time to import, and --help needs neither
    from aimo2.exam import ExamConfig
    from aimo2.policy.budget import Lessons

_RULES = "The exam's rules"


class PolicyName(StrEnum):
    """How the seconds are shared out."""

    EVEN = "even"
    BANK = "bank"
    CLAMP = "clamp"
    VALUE = "value"


def _option(*names: str, **rest: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_RULES, **rest)


@dataclass(frozen=True, slots=True)
class ExamFlags:
    """The flags of an exam; `None` is one that was not given. Durations are such as 5h or 4h57m."""

    limit: Annotated[str | None, _option(help="Of the whole exam, such as 5h or 30m.")] = None
    reserve: Annotated[
        str | None, _option(help="Part of the limit that is never planned with.")
    ] = None
    per_question: Annotated[
        str | None, _option(help="Hard limit of a question, such as 30m; never passed.")
    ] = None
    policy: Annotated[PolicyName | None, _option(help="How the time is shared out.")] = None
    lessons: Annotated[
        Path | None,
        _option(help="Of value: a file of `aimo2 exam learn`; else what comes with aimo2."),
    ] = None
    base: Annotated[str | None, _option(help="Of bank and clamp: a question's base.")] = None
    draw: Annotated[str | None, _option(help="Of bank: what a question may draw at the most.")] = (
        None
    )
    high: Annotated[str | None, _option(help="Of clamp: what a question gets at the most.")] = None
    rollouts: flags.Rollouts = None
    concurrency: flags.Concurrency = None

    def rules(
        self, competition: str, *, modulus: int | None, num_problems: int | None, **more: Any
    ) -> "ExamConfig":
        """The competition's rules with what the flags change. Raises `ConfigError`."""
        from aimo2.exam import load_competition

        return load_competition(
            competition,
            num_problems=num_problems,
            limit=seconds(self.limit, "--limit"),
            reserve=seconds(self.reserve, "--reserve"),
            per_question=seconds(self.per_question, "--per-question"),
            modulus=modulus,
            budget={
                "policy": self.policy.value if self.policy else None,
                "base": seconds(self.base, "--base"),
                "draw": seconds(self.draw, "--draw"),
                "high": seconds(self.high, "--high"),
            },
            **more,
        )

    def solving(
        self, engine_config: EngineConfig, solve_flags: flags.SolveFlags, rules: "ExamConfig"
    ) -> SolveConfig:
        """How each question is solved: its answers are the rules'. Raises `ConfigError`."""
        from aimo2.cli import choice

        more = {
            "rollouts": self.rollouts,
            "concurrency": self.concurrency,
            "answer_type": rules.answer_type,
            "modulus": rules.modulus,
        }
        config = choice.chosen(engine_config, solve_flags, more)
        bounds = {"lowest": rules.lowest, "highest": rules.highest}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        return config.model_copy(update=given)

    def learned(self) -> "Lessons | None":
        """The user's own lessons. Raises `InputError`."""
        from aimo2.exam.lessons import read_lessons

        return read_lessons(self.lessons) if self.lessons is not None else None


def seconds(text: str | None, flag: str) -> float | None:
    """A duration of a flag. Raises `ConfigError`, which names the flag."""
    return None if text is None else parse_duration(text, flag)
