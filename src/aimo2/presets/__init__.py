"""Named configurations, and how preset, file, environment and flags become one. Knows no terminal.

Later layers beat earlier ones, value by value: preset, `--config` file, environment, flags.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aimo2.config import SolveConfig
from aimo2.errors import ConfigError

DEFAULT = "default"
ENVIRONMENT_PREFIX = "AIMO2_"
_SHORT = {"branch": "policy", "stop": "rule", "weigh": "rule"}
"""Sections that may be given as one word, and what that word is."""
_NO_SUCH = "extra_forbidden"


@dataclass(frozen=True, slots=True)
class Preset:
    """A named configuration. `about`: one line for people. `values`: what it sets."""

    name: str
    about: str
    values: Mapping[str, Any]
    source: str
    """The file as it is, comments and all."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one place. `origin`: how a message names it; empty for flags.

    `names`: dotted path -> what the user wrote, where that is not the path itself.
    """

    origin: str
    values: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)


@cache
def presets() -> Mapping[str, Preset]:
    """Every preset by name."""
    found = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda each: each.name):
        if file.name.endswith(".toml"):
            name, source = file.name.removesuffix(".toml"), file.read_text(encoding="utf-8")
            values = tomllib.loads(source)
            found[name] = Preset(name, values.pop("about"), values, source)
    return found


def find_preset(name: str) -> Preset:
    """Raises `ConfigError` where there is none of that name."""
    try:
        return presets()[name]
    except KeyError:
        raise ConfigError(
            f"no preset is called {name!r}: take one of {', '.join(presets())}"
        ) from None


def load_preset(name: str = DEFAULT) -> SolveConfig:
    """A preset as it is, with our defaults for the rest. Raises `ConfigError`."""
    return resolve([preset_layer(name)])


def preset_layer(name: str) -> Layer:
    """The lowest layer. Raises `ConfigError`."""
    return Layer(f"preset {name}", find_preset(name).values)


def file_layer(path: Path) -> tuple[Layer, str | None]:
    """The layer of a TOML file, and the preset that it names. Raises `ConfigError`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config {path} is no TOML: {error}") from error
    preset = values.pop("preset", None)
    values.pop("about", None)
    if preset is not None and not isinstance(preset, str):
        raise ConfigError(f"{path}: preset must be a name, not {preset!r}")
    return Layer(str(path), values), preset


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """`AIMO2_NUM_ROLLOUTS=8`, `AIMO2_STOP__RULE=never`: fields of the configuration in capitals.

    Other variables of ours, such as `AIMO2_HOME`, are not looked at.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, text in environment.items():
        path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if name.startswith(ENVIRONMENT_PREFIX) and path[0] in SolveConfig.model_fields:
            put(values, path, read_value(text))
            names[".".join(path)] = name
    return Layer("environment", values, names)


def set_layer(assignments: Sequence[str]) -> Layer:
    """`--set branch.entropy=1.2`: any field by its path. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {assignment}: write NAME=VALUE, such as stop.rule=never")
        put(values, path.strip().split("."), read_value(text))
        names[path.strip()] = f"--set {path.strip()}"
    return Layer("", values, names)


def read_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none: a bare word needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value by its path."""
    for part in path[:-1]:
        inner = values.get(part)
        if not isinstance(inner, dict):
            inner = values[part] = {_SHORT[part]: inner} if part in _SHORT and inner else {}
        values = inner
    values[path[-1]] = value


def resolve(layers: Sequence[Layer]) -> SolveConfig:
    """One configuration out of all layers, later ones first. Raises `ConfigError`, which names the
    place of the first value that cannot be used.
    """
    try:
        return SolveConfig.model_validate(merged(layers))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(_spoken(layers, first["loc"], first)) from error


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """The values of all layers, not yet looked at."""
    whole: dict[str, Any] = {}
    for layer in layers:
        _merge(whole, layer.values)
    return whole


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        given = {_SHORT[key]: value} if key in _SHORT and isinstance(value, str) else value
        if isinstance(given, Mapping):
            inner = into.get(key)
            into[key] = dict(inner) if isinstance(inner, Mapping) else {}
            _merge(into[key], given)
        else:
            into[key] = given


def _spoken(layers: Sequence[Layer], loc: Sequence[int | str], error: Mapping[str, Any]) -> str:
    """What is wrong, in the words of the layer that said it."""
    path = [part for part in loc if isinstance(part, str)]
    wrong = str(error["msg"]).removeprefix("Value error, ")
    wrong = "there is no such setting" if error["type"] == _NO_SUCH else _lower(wrong)
    given = "" if isinstance(error["input"], Mapping) else f" {error['input']}"
    for layer in reversed(layers):
        for dotted in _dotted(path):
            if _has(layer.values, dotted.split(".")):
                name = layer.names.get(dotted, dotted)
                where = f"{layer.origin}: " if layer.origin else ""
                return f"{where}{name}{given}: {wrong}"
    return f"{'.'.join(path)}{given}: {wrong}"


def _dotted(path: Sequence[str]) -> Iterator[str]:
    """The path and, where nobody gave it, the section that it is in."""
    for length in range(len(path), 0, -1):
        yield ".".join(path[:length])


def _has(values: Any, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
