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
_UNSET = "none"
"""Takes a setting back to none in every layer; TOML has no word for it."""
_LIMIT, _THINKING_LIMIT = "max_tokens", "max_tokens_thinking"
"""Who sets the first alone means every model: what a lower layer said of thinking is void."""
_OWN_VARIABLES = frozenset({"BUNDLE", "CONFIG", "DATA", "HOME", "PRESET", "VLLM_PYTHON", "WORK"})
"""Variables of ours that are no settings."""
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


def environment_layer(environment: Mapping[str, str], flags: Mapping[str, str]) -> Layer:
    """`AIMO2_TEMPERATURE=0`, `AIMO2_STOP__K=3`: flags or fields of the configuration in capitals.

    `flags`: the dotted field of each flag; a flag's name means what the flag does, also where a
    field has that name, too. Other variables are left to `unknown_variables`.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, text in environment.items():
        path = _variable_path(name, flags)
        if path is not None:
            _give(values, names, path, text, name)
    return Layer("environment", values, names)


def unknown_variables(environment: Mapping[str, str], flags: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that set nothing and are nothing else of ours."""
    return sorted(
        name
        for name in environment
        if name.startswith(ENVIRONMENT_PREFIX)
        and name.removeprefix(ENVIRONMENT_PREFIX) not in _OWN_VARIABLES
        and _variable_path(name, flags) is None
    )


def _variable_path(name: str, flags: Mapping[str, str]) -> list[str] | None:
    """The field that a variable sets; `None` where it sets none."""
    if not name.startswith(ENVIRONMENT_PREFIX):
        return None
    word = name.removeprefix(ENVIRONMENT_PREFIX).lower()
    if word in flags:
        return flags[word].split(".")
    path = word.split("__")
    return path if path[0] in SolveConfig.model_fields else None


def set_layer(assignments: Sequence[str]) -> Layer:
    """`--set branch.entropy=1.2`: any field by its path. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {assignment}: write NAME=VALUE, such as stop.rule=never")
        _give(values, names, path.strip().split("."), text, f"--set {path.strip()}")
    return Layer("", values, names)


def _give(
    values: dict[str, Any], names: dict[str, str], path: Sequence[str], text: str, written: str
) -> None:
    """Put a value in its place and note how the user wrote it; a short word goes to its rule."""
    value = read_value(text)
    if len(path) == 1 and path[0] in _SHORT and isinstance(value, str):
        path = [path[0], _SHORT[path[0]]]
    put(values, path, value)
    names[".".join(path)] = written


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
    if _LIMIT in values:
        into.pop(_THINKING_LIMIT, None)
    for key, value in values.items():
        given = {_SHORT[key]: value} if key in _SHORT and isinstance(value, str) else value
        if isinstance(given, Mapping):
            inner = into.get(key)
            into[key] = dict(inner) if isinstance(inner, Mapping) else {}
            _merge(into[key], given)
        else:
            into[key] = None if given == _UNSET else given


def _spoken(layers: Sequence[Layer], loc: Sequence[int | str], error: Mapping[str, Any]) -> str:
    """What is wrong, in the words of the layer that said it."""
    path = ".".join(part for part in loc if isinstance(part, str))
    wrong = str(error["msg"]).removeprefix("Value error, ")
    wrong = "there is no such setting" if error["type"] == _NO_SUCH else _lower(wrong)
    given = "" if isinstance(error["input"], Mapping) else f" {error['input']}"
    return f"{place(layers, path)}{given}: {wrong}"


def place(layers: Sequence[Layer], field: str) -> str:
    """Who said last what a field is to be, and in which words. `field`: dotted."""
    for layer in reversed(layers):
        for dotted in _dotted(field):
            if _has(layer.values, dotted.split(".")):
                name = layer.names.get(dotted, dotted)
                return f"{layer.origin}: {name}" if layer.origin else name
    return field


def _dotted(field: str) -> Iterator[str]:
    """The field and, where nobody gave it, the section that it is in."""
    while field:
        yield field
        field = field.rpartition(".")[0]


def _has(values: Any, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
