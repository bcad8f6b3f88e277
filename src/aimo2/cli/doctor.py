"""`aimo2 doctor`: prints what `aimo2.doctor` found. Knows no checks."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aimo2.cli import errors
from aimo2.config import ServerConfig
from aimo2.doctor import Check, Status, examine
from aimo2.errors import ConfigError

_STYLES: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    base_url: Annotated[
        str | None, typer.Option(help="Look at this OpenAI-compatible server, too.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The served model's name.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the environment variable with the API key.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is installed, reachable and active, with a mend for each problem.

    Exit code: 0 where a solve can work, 2 where it cannot.
    """
    checks = asyncio.run(examine(_server(base_url, model, api_key_env)))
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}))
    else:
        show(checks, Console())
    raise typer.Exit(errors.EXIT_BAD_INPUT if failed else errors.EXIT_OK)


def show(checks: Sequence[Check], console: Console) -> None:
    """A row a check, with the mend under what it mends."""
    table = Table("", "status", "", box=None, padding=(0, 1), show_header=False)
    for check in checks:
        status = Text(check.status, _STYLES[check.status])
        table.add_row(Text(check.name, "bold"), status, Text(check.detail))
        if check.mend:
            table.add_row("", "", Text(f"→ {check.mend}", _STYLES[check.status]))
    console.print(table)


def _server(base_url: str | None, model: str | None, key_env: str | None) -> ServerConfig | None:
    if base_url is not None:
        return ServerConfig(base_url=base_url, model=model, api_key_env=key_env)
    for flag, value in (("--model", model), ("--api-key-env", key_env)):
        if value is not None:
            raise ConfigError(f"{flag} {value} needs --base-url")
    return None
