"""The configuration that a command's flags, environment, `--config` and `--preset` come to."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aimo2 import engine, presets, prompts
from aimo2.cli import errors
from aimo2.cli.flags import SolveFlags
from aimo2.config import EngineConfig, OpeningConfig, SolveConfig
from aimo2.errors import ConfigError
from aimo2.presets import Layer
from aimo2.prompts.openings import UserOpenings

FLAGS = {
    "rollouts": "num_rollouts",
    "concurrency": "concurrency",
    "openings": "openings",
    "family": "family",
    "thinking": "thinking",
    "timeout": "timeout",
    "token_budget": "max_tokens",
    "seed": "seed",
    "answer_type": "answer_type",
    "modulus": "modulus",
    "stop": "stop.rule",
    "min_votes": "stop.min_votes",
    "max_votes": "stop.max_votes",
    "equal_votes": "stop.k",
    "certainty": "stop.certainty",
    "weigh": "weigh.rule",
    "keep": "weigh.keep",
    "trivial": "weigh.trivial",
    "branch": "branch.policy",
    "roots": "branch.roots",
    "children": "branch.children",
    "width": "branch.width",
    "scorer": "branch.scorer",
    "reward_url": "branch.reward_url",
    "reward_model": "branch.reward_model",
    "genselect": "verify.comparisons",
    "confirmed": "cut.confirmed",
    "probe": "cut.probe",
    "cut_unsure": "cut.confidence",
    "cut_long": "cut.length",
    "repairs": "rollout.repairs",
    "salvage": "salvage.enabled",
    "salvage_seconds": "salvage.seconds",
    "max_tokens": "rollout.max_tokens",
    "max_code_runs": "rollout.max_code_runs",
    "rollout_timeout": "rollout.timeout",
    "min_thinking_tokens": "rollout.min_thinking_tokens",
    "max_thinking_tokens": "rollout.max_thinking_tokens",
    "cell_timeout": "kernel.cell_timeout",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "min_p": "sampling.min_p",
    "request_seeds": "sampling.request_seeds",
    "logprobs": "sampling.logprobs",
    "token_spans": "sampling.token_spans",
}
"""Flag -> the field that it sets."""
_SOLVERS_OWN = {"stop", "weigh", "branch", "verify", "cut"}
"""Parts of the configuration that act on the attempts of one question together."""


def flag_layer(given: Mapping[str, Any], custom: Sequence[OpeningConfig] = ()) -> Layer:
    """What was given on the command line; `None` is a flag that was not.

    `code`: whether code may be run at all; `openings`: a mix of those built in and `custom`.
    Raises `ConfigError` for an unknown opening.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    asked = {name: value for name, value in given.items() if value is not None}
    if asked.pop("code", True) is False:
        asked["max_code_runs"] = 0
    for name, value in asked.items():
        plain = value.value if isinstance(value, Enum) else value
        if name == "openings" and isinstance(plain, str):
            plain = prompts.parse_mix(plain, custom)
        presets.put(values, FLAGS[name].split("."), plain)
        names[FLAGS[name]] = "--" + name.replace("_", "-")
    return Layer("", values, names)


def chosen(
    engine_config: EngineConfig, flags: SolveFlags, more: Mapping[str, Any] | None = None
) -> SolveConfig:
    """What a command's flags come to: see `choose`. `more`: flags, or their field, beside them."""
    for name in presets.unknown_variables(os.environ, FLAGS):
        line = f"{name} is no setting and is ignored: take a flag's or a field's name"
        errors.stderr_console().print(line, highlight=False, markup=False, soft_wrap=True)
    given = {name: getattr(flags, name) for name in FLAGS if hasattr(flags, name)}
    given |= {"code": flags.code, **(more or {})}
    config = choose(
        engine_config,
        preset=flags.preset,
        config_file=flags.config_file,
        assignments=flags.assignments or (),
        openings_file=flags.openings_file,
        flags=given,
    )
    if engine_config.verifier is not None and not config.verify.comparisons:
        raise ConfigError("--verifier compares nothing without --genselect; add --genselect 8")
    return config


def solving_flags(flags: SolveFlags) -> list[str]:
    """Those given, `--set` included, that decide what a solver does with several attempts."""
    given = [
        "--" + name.replace("_", "-")
        for name, field in FLAGS.items()
        if getattr(flags, name, None) is not None and _of_solver(field)
    ]
    fields = [one.partition("=")[0].strip() for one in flags.assignments or ()]
    return given + [f"--set {field}" for field in fields if _of_solver(field)]


def _of_solver(field: str) -> bool:
    return field == "max_tokens" or field.partition(".")[0] in _SOLVERS_OWN


def choose(
    engine_config: EngineConfig,
    *,
    preset: str | None,
    config_file: Path | None,
    assignments: Sequence[str] = (),
    openings_file: Path | None = None,
    flags: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
) -> SolveConfig:
    """The configuration; flags beat `--set`, then the environment, the file and the preset.

    What none of them says about the number of attempts is sized to the engine. Raises
    `ConfigError`, which names the flag, the file's entry or the variable that cannot be used.
    """
    own = prompts.read_openings(openings_file) if openings_file else UserOpenings((), None)
    layers = _layers(preset, config_file, assignments, own, flags, environment)
    config = presets.resolve([_sized(engine_config, presets.merged(layers)), *layers])
    if config.modulus is not None and config.answer_type != "int":
        where = presets.place(layers, "modulus")
        raise ConfigError(
            f"{where} {config.modulus} needs integer answers: take --answer-type int, or take the "
            "modulus back with --set modulus=none"
        )
    for name in config.openings:
        prompts.find_opening(name, config.custom_openings)
    prompts.find_family(None, config.family)
    return config


def _layers(
    preset: str | None,
    config_file: Path | None,
    assignments: Sequence[str],
    own: UserOpenings,
    flags: Mapping[str, Any],
    environment: Mapping[str, str] | None,
) -> list[Layer]:
    upper = [
        presets.environment_layer(os.environ if environment is None else environment, FLAGS),
        presets.set_layer(assignments),
        *_own_openings(own),
    ]
    if config_file is not None:
        from_file, named = presets.file_layer(config_file)
        upper.insert(0, from_file)
        preset = preset or named
    below = [presets.preset_layer(preset or presets.DEFAULT), *upper]
    custom = _custom(presets.merged(below))
    return [*(_mixed(layer, custom) for layer in below), flag_layer(flags, custom)]


def _mixed(layer: Layer, custom: Sequence[OpeningConfig]) -> Layer:
    """The layer with a mix that it names, such as `code:3,late`, as its openings."""
    mix = layer.values.get("openings")
    if not isinstance(mix, str):
        return layer
    try:
        named = prompts.parse_mix(mix, custom)
    except ConfigError as error:
        raise ConfigError(f"{presets.place([layer], 'openings')}: {error}") from error
    return replace(layer, values={**layer.values, "openings": named})


def _own_openings(own: UserOpenings) -> list[Layer]:
    """The layer of an openings file."""
    if not own.openings:
        return []
    values: dict[str, Any] = {"custom_openings": own.openings}
    if own.mix is not None:
        values["openings"] = prompts.parse_mix(own.mix, own.openings)
    return [Layer("--openings-file", values)]


def _custom(asked: Mapping[str, Any]) -> list[OpeningConfig]:
    """The user's openings that a mix may name; what is wrong with the others is said later."""
    found = []
    for entry in asked.get("custom_openings") or ():
        try:
            found.append(OpeningConfig.model_validate(entry))
        except ValidationError:
            continue
    return found


def _sized(engine_config: EngineConfig, asked: Mapping[str, Any]) -> Layer:
    """The lowest layer: how many attempts the engine can bear."""
    wanted, at_once = asked.get("num_rollouts"), asked.get("concurrency")
    if isinstance(at_once, int) and at_once >= 1:
        engine_config = engine_config.model_copy(update={"concurrency": at_once})
    sizes = engine.sizes(engine_config, wanted if isinstance(wanted, int) else None)
    return Layer(
        "the engine's size",
        {"num_rollouts": sizes.num_rollouts, "concurrency": max(1, sizes.concurrency)},
    )
