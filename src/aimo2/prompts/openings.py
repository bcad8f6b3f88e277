"""How rollouts start, as data: openings, mixes of them, and the lines that a rollout is told.

The built-in ones are in `openings.toml`; a user's file has the same `[[opening]]` tables, and may
name a `mix`. Pure, but for reading the user's file once.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from aimo2.config import AnswerType, OpeningConfig
from aimo2.errors import ConfigError
from aimo2.policy.repair import Step
from aimo2.types import ErrorKind, Opening

_LARGEST_WEIGHT = 100

Line = Literal["last_run", "silent_output", "changed_approach"]


class _Task(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    plain: str
    int: str
    expr: str


class _Data(BaseModel):
    """The built-in file; every language has every line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: dict[str, _Task]
    nudges: dict[str, dict[ErrorKind, str]]
    lines: dict[str, dict[Line, str]]
    opening: tuple[OpeningConfig, ...]


@cache
def _built_in() -> _Data:
    text = (resources.files("aimo2.prompts") / "openings.toml").read_text(encoding="utf-8")
    return _Data.model_validate(tomllib.loads(text))


@dataclass(frozen=True, slots=True)
class UserOpenings:
    """What a user's file says. `mix`: as for `--openings`, where the file gives one."""

    openings: tuple[OpeningConfig, ...]
    mix: str | None


def openings(custom: Sequence[OpeningConfig] = ()) -> Mapping[Opening, OpeningConfig]:
    """All openings by name; a custom one replaces the built-in one of its name."""
    return {each.name: each for each in (*_built_in().opening, *custom)}


def find_opening(name: Opening, custom: Sequence[OpeningConfig] = ()) -> OpeningConfig:
    """The opening of that name. Raises `ConfigError` where there is none."""
    known = openings(custom)
    if name not in known:
        raise ConfigError(f"no opening is called {name!r}: take some of {', '.join(known)}")
    return known[name]


def fitting(name: Opening, custom: Sequence[OpeningConfig] = (), *, code: bool) -> Opening:
    """The opening of that name, or the plain one in its language where it needs code in vain."""
    found = find_opening(name, custom)
    if code or not found.code:
        return name
    return "plain" if found.language == "en" else f"plain-{found.language}"


def read_openings(path: Path) -> UserOpenings:
    """The openings of a TOML file. Raises `ConfigError` with the file and what is wrong in it."""
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    unknown = sorted(set(data) - {"opening", "mix"})
    entries, mix = data.get("opening", []), data.get("mix")
    if unknown or not isinstance(entries, list) or not isinstance(mix, str | None):
        wrong = f"{unknown[0]!r} is unknown; " if unknown else ""
        raise ConfigError(f'{path}: {wrong}write [[opening]] tables and, if wanted, mix = "..."')
    found = tuple(_opening(path, number, entry) for number, entry in enumerate(entries, 1))
    names = [each.name for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two openings are called {twice!r}; rename one")
    if mix is not None:
        parse_mix(mix, found)
    return UserOpenings(found, mix)


def _opening(path: Path, number: int, entry: Any) -> OpeningConfig:
    try:
        return OpeningConfig.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the table"
        raise ConfigError(f"{path}: opening {number}: {field}: {first['msg']}") from error


def parse_mix(text: str, custom: Sequence[OpeningConfig] = ()) -> tuple[Opening, ...]:
    """Openings in the order in which rollouts take them, from `code:3,late` or `code,code,late`.

    Names without weights stand as written. With weights each opening comes as often as its weight
    says, spread out so that the first few rollouts are mixed, too (smooth weighted round robin).
    Raises `ConfigError` for an unknown name or a weight that is no whole number from 1 to 100.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ConfigError("no opening is named; write some, such as code:3,late")
    weights: dict[Opening, int] = {}
    for part in parts:
        name, _, weight = part.partition(":")
        found = find_opening(name.strip(), custom).name
        weights[found] = weights.get(found, 0) + _weight(part, weight.strip() or "1")
    if ":" not in text:
        return tuple(parts)
    return _spread(weights)


def _weight(part: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _LARGEST_WEIGHT:
        raise ConfigError(
            f"{part!r}: the weight of an opening is a whole number from 1 to {_LARGEST_WEIGHT}"
        )
    return int(text)


def _spread(weights: Mapping[Opening, int]) -> tuple[Opening, ...]:
    total = sum(weights.values())
    credit = dict.fromkeys(weights, 0)
    order: list[Opening] = []
    for _ in range(total):
        for name, weight in weights.items():
            credit[name] += weight
        name = max(credit, key=lambda each: credit[each])
        credit[name] -= total
        order.append(name)
    return tuple(order)


def task_text(
    opening: OpeningConfig, wording: str | None, answer_type: AnswerType, *, code: bool
) -> str:
    """The instruction: the opening's own, else the family's `wording`, else the general one."""
    general = _built_in().task[opening.language]
    said = opening.task or wording or (general.code if code else general.plain)
    form = general.int if answer_type == "int" else general.expr
    if "\\boxed" in said and answer_type == "expr":
        return said
    return f"{said} {form}" if opening.language == "en" else f"{said}{form}"


def line(which: Line, opening: OpeningConfig) -> str:
    """One of the fixed lines, in the opening's language."""
    return _built_in().lines[opening.language][which]


def hint(error: ErrorKind, opening: OpeningConfig, step: Step = "hint") -> str:
    """One sentence in the model's own voice that leads from a failed cell to a better one.

    `step`: whether the cell is mended by its cause or another approach is asked for.
    """
    if step == "change":
        return line("changed_approach", opening)
    return opening.nudges.get(error) or _built_in().nudges[opening.language][error]
