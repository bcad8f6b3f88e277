"""Flags that several commands share: types, help, names. Knows no defaults of a command."""

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from aimo2.config import ServerConfig
from aimo2.errors import ConfigError


class AnswerTypeName(StrEnum):
    """What an answer may be."""

    INT = "int"
    EXPR = "expr"


class StopRuleName(StrEnum):
    """When a question is decided."""

    MAJORITY = "majority"
    NEVER = "never"


class SandboxLevelName(StrEnum):
    """What the sandbox must be able to close off."""

    AUTO = "auto"
    STRICT = "strict"


ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Model name or .gguf file; with --base-url, the served name."),
]
BaseUrlOption = Annotated[
    list[str] | None,
    typer.Option(
        "--base-url",
        help="Use this OpenAI-compatible server, such as http://host/v1. May be given again:"
        " replicas of one model.",
    ),
]
ApiKeyEnvOption = Annotated[
    str | None,
    typer.Option("--api-key-env", help="Name of the environment variable with the API key."),
]
ChatTemplateOption = Annotated[
    str | None,
    typer.Option(
        "--chat-template",
        help="With --base-url: a Jinja file, or chatml, where the server has none.",
    ),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--concurrency", help="Attempts that run at the same time.")
]
OpeningsOption = Annotated[
    str, typer.Option("--openings", help="How attempts start, in turn: code, plain.")
]
CodeOption = Annotated[
    bool, typer.Option("--code/--no-code", help="Whether the model may run code.")
]
MaxTokensOption = Annotated[
    int, typer.Option("--max-tokens", help="Sampled tokens an attempt, at most.")
]
MaxCodeRunsOption = Annotated[
    int, typer.Option("--max-code-runs", help="Code runs an attempt, at most.")
]
CellTimeoutOption = Annotated[
    float, typer.Option("--cell-timeout", help="Seconds a code run may take.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", help="Seconds a problem may take; never passed by over 1 s."),
]
StopOption = Annotated[StopRuleName, typer.Option("--stop", help="When the vote is decided early.")]
AnswerTypeOption = Annotated[
    AnswerTypeName, typer.Option("--answer-type", help="Integers, or any expression.")
]
ModulusOption = Annotated[
    int | None,
    typer.Option("--modulus", help="Reduce integer answers modulo this (1000 for AIMO-2)."),
]
TemperatureOption = Annotated[float, typer.Option("--temperature", help="Sampling temperature.")]
TopPOption = Annotated[float, typer.Option("--top-p", help="Nucleus sampling.")]
MinPOption = Annotated[
    float, typer.Option("--min-p", help="Least probability, relative to the best.")
]
LogprobsOption = Annotated[
    bool, typer.Option("--logprobs/--no-logprobs", help="Record log-probabilities.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Same seed, same requests.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="Threads of the local engine.")
]
ContextOption = Annotated[int, typer.Option("--context", help="Tokens of context an attempt has.")]
SandboxOption = Annotated[
    SandboxLevelName,
    typer.Option(
        "--sandbox", help="strict: refuse to run code where network or files stay open to it."
    ),
]


_SECOND = "A second model"
ReasonerOption = Annotated[
    str | None,
    typer.Option(
        "--reasoner",
        metavar="URL",
        rich_help_panel=_SECOND,
        help="A server whose model reasons first; ours goes on from its reasoning.",
    ),
]
ReasonerModelOption = Annotated[
    str | None,
    typer.Option(
        "--reasoner-model",
        rich_help_panel=_SECOND,
        help="Its name; the first it has, if not given.",
    ),
]
ReasonerKeyOption = Annotated[
    str | None,
    typer.Option(
        "--reasoner-key-env", rich_help_panel=_SECOND, help="Name of the variable with its key."
    ),
]
VerifierOption = Annotated[
    str | None,
    typer.Option(
        "--verifier",
        metavar="URL",
        rich_help_panel=_SECOND,
        help="A server whose model compares the solutions, for --genselect.",
    ),
]
VerifierModelOption = Annotated[
    str | None,
    typer.Option(
        "--verifier-model",
        rich_help_panel=_SECOND,
        help="Its name; the first it has, if not given.",
    ),
]
VerifierKeyOption = Annotated[
    str | None,
    typer.Option(
        "--verifier-key-env", rich_help_panel=_SECOND, help="Name of the variable with its key."
    ),
]


def second_server(
    flag: str, url: str | None, model: str | None, key_env: str | None
) -> ServerConfig | None:
    """What the flags say of a second model's server. `flag`: such as `--reasoner`.

    Raises `ConfigError`.
    """
    if url is None:
        for given, name in ((model, f"{flag}-model"), (key_env, f"{flag}-key-env")):
            if given is not None:
                raise ConfigError(f"{name} needs {flag}: give the server's URL")
        return None
    if key_env is not None and not os.environ.get(key_env):
        raise ConfigError(f"{flag}-key-env {key_env}: that environment variable is not set")
    return ServerConfig(base_url=url, model=model, api_key_env=key_env)


def server_config(
    base_urls: Sequence[str] | None, model: str | None, key_env: str | None, template: str | None
) -> ServerConfig | None:
    """What the flags say of somebody's server; `None` without one. Raises `ConfigError`."""
    if not base_urls:
        if template is not None:
            raise ConfigError("--chat-template needs --base-url: the local engine has its own")
        if key_env is not None:
            raise ConfigError("--api-key-env needs --base-url: the local engine has no key")
        return None
    if key_env is not None and not os.environ.get(key_env):
        raise ConfigError(f"--api-key-env {key_env}: that environment variable is not set")
    return ServerConfig(
        base_url=base_urls[0],
        more_urls=tuple(base_urls[1:]),
        model=model,
        api_key_env=key_env,
        chat_template=template,
    )
