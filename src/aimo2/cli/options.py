"""Flags that say which model runs, and where: of every command that runs one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from pydantic import ValidationError

from aimo2.cli.errors import spoken_validation
from aimo2.config import EngineConfig, ServerConfig
from aimo2.errors import ConfigError


class RoutingName(StrEnum):
    """Which of several servers a request goes to."""

    PREFIX = "prefix"
    LOAD = "load"


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
RoutingOption = Annotated[
    RoutingName,
    typer.Option(
        "--routing",
        help="With several --base-url: to the server that has the prefix, or by load alone.",
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


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """The flags of every command that runs a model: which one, and what it may take."""

    model: ModelOption = None
    base_url: BaseUrlOption = None
    routing: RoutingOption = RoutingName.PREFIX
    api_key_env: ApiKeyEnvOption = None
    chat_template: ChatTemplateOption = None
    threads: ThreadsOption = None
    context: ContextOption = 4096
    sandbox: SandboxOption = SandboxLevelName.AUTO

    def config(
        self, *, seconds: "SecondFlags | None" = None, concurrency: int | None = None
    ) -> EngineConfig:
        """What they say; the model's file is not looked for yet. Raises `ConfigError`."""
        try:
            return EngineConfig(
                server=server_config(
                    self.base_url, self.model, self.api_key_env, self.chat_template, self.routing
                ),
                reasoner=seconds.reasoning() if seconds else None,
                verifier=seconds.verifying() if seconds else None,
                concurrency=concurrency,
                threads=self.threads,
                context=self.context,
                sandbox=self.sandbox.value,
            )
        except ValidationError as error:
            raise ConfigError(spoken_validation(error)) from error


@dataclass(frozen=True, slots=True)
class SecondFlags:
    """The flags of models beside the one that solves."""

    reasoner: ReasonerOption = None
    reasoner_model: ReasonerModelOption = None
    reasoner_key_env: ReasonerKeyOption = None
    verifier: VerifierOption = None
    verifier_model: VerifierModelOption = None
    verifier_key_env: VerifierKeyOption = None

    def reasoning(self) -> ServerConfig | None:
        """The model that reasons first. Raises `ConfigError`."""
        return second_server(
            "--reasoner", self.reasoner, self.reasoner_model, self.reasoner_key_env
        )

    def verifying(self) -> ServerConfig | None:
        """The model that compares solutions. Raises `ConfigError`."""
        return second_server(
            "--verifier", self.verifier, self.verifier_model, self.verifier_key_env
        )


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
    base_urls: Sequence[str] | None,
    model: str | None,
    key_env: str | None,
    template: str | None,
    routing: RoutingName = RoutingName.PREFIX,
) -> ServerConfig | None:
    """What the flags say of somebody's server; `None` without one. Raises `ConfigError`."""
    if routing is not RoutingName.PREFIX and len(base_urls or ()) < 2:
        raise ConfigError(f"--routing {routing.value} needs two or more --base-url to route over")
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
        routing=routing.value,
        model=model,
        api_key_env=key_env,
        chat_template=template,
    )
