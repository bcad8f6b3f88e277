"""`aimo2 kaggle bundle` and `dry-run`: a submission's folder, and its notebook executed here."""

import re
import shlex
import tempfile
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from aimo2.cli import errors
from aimo2.cli.durations import parse_duration
from aimo2.errors import Aimo2Error, ConfigError, InputError
from aimo2.presets import preset_layer
from aimo2.problems import read_problems
from aimo2.serving.catalogue import DEFAULT_MODEL, find_model


class WheelsName(StrEnum):
    """Which wheels a bundle holds."""

    ALL = "all"
    OWN = "own"


def bundle(
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder.")],
    competition: Annotated[
        str, typer.Option(help="Its rules: aimo2, aimo3, timing (sleep, then answer 0), custom.")
    ] = "aimo3",
    model: Annotated[
        str, typer.Option(help="Model to put in: a name of `aimo2 models list`, or a .gguf.")
    ] = DEFAULT_MODEL.name,
    model_at: Annotated[
        str | None,
        typer.Option(help="Put none in: it is there, such as /kaggle/input/my-model/model.gguf."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A name of `aimo2 presets`.")] = None,
    serve: Annotated[
        str, typer.Option(help="More flags of `kaggle serve`, such as '--rollouts 8 --limit 4h'.")
    ] = "",
    python: Annotated[str, typer.Option(help="The notebook's Python.")] = "3.11",
    platform: Annotated[
        list[str] | None,
        typer.Option(help="The image's platform tags, newest first; otherwise Linux on x86-64."),
    ] = None,
    wheels: Annotated[
        WheelsName, typer.Option(help="own: this package only, for an image that has the rest.")
    ] = WheelsName.ALL,
    require: Annotated[
        list[str] | None, typer.Option(help="One more package to put in; may be given again.")
    ] = None,
    problems: Annotated[
        Path | None,
        typer.Option(help="Asked outside of the competition; otherwise three of our own."),
    ] = None,
    limit_here: Annotated[
        str, typer.Option("--limit-here", help="The whole exam's time outside of the competition.")
    ] = "10m",
) -> None:
    """Write all that an offline notebook needs: notebook, wheels, model, settings, checksums.

    With --base-url in --serve there is no model in it: a server of yours has one.
    Repeating the command goes on where it was broken off.
    """
    from aimo2.cli.models import ensure_model
    from aimo2.exam import load_competition
    from aimo2.kaggle.bundle import build
    from aimo2.kaggle.bundle import wheels as wheelhouse

    if not re.fullmatch(r"3\.\d+", python) or int(python[2:]) < 11:
        raise ConfigError(f"--python {python}: give 3.11 or newer, as in 3.11")
    rules = load_competition(competition)
    num_problems = 3 if problems is None else len(read_problems(str(problems)))
    here = _here(limit_here, num_problems)
    console = errors.stderr_console()
    if preset is not None:
        preset_layer(preset)
    flags = ["--competition", competition, *(["--preset", preset] if preset else [])]
    flags += _split("--serve", serve)
    if competition.endswith(".toml"):
        raise ConfigError(f"--competition {competition}: only names travel; use --serve for limits")
    served = any(flag.partition("=")[0] == "--base-url" for flag in flags)
    if served and model_at:
        raise ConfigError(
            f"--model-at {model_at}: the server of --base-url has its model; say which, if it has"
            " several, by --serve '--base-url URL --model NAME'"
        )
    modelless = served or rules.sleep is not None
    path = None if modelless or model_at else ensure_model(model, console)
    plan = build.BundlePlan(
        out=out,
        python=python,
        platforms=tuple(platform or wheelhouse.PLATFORMS),
        wheels=wheels.value,
        more=wheelhouse.checked_requirements(require or ()),
        model=path,
        model_licence=_licence(model),
        model_at=None if modelless else model_at,
        problems=problems,
        serve=flags,
        serve_here=here,
    )
    items = build.build(
        plan, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
    )
    total = sum(item.size for item in items)
    console.print(f"{len(items)} files, {decimal(total)}; the largest:", highlight=False)
    for item in items[:5]:
        line = f"  {decimal(item.size):>9}  {item.name}  ({item.licence})"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"try it here: aimo2 kaggle dry-run {out}", highlight=False, soft_wrap=True)
    print(out)


def dry_run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle.")],
    work: Annotated[
        Path | None,
        typer.Option(help="Folder to run it in, kept afterwards; otherwise a temporary one."),
    ] = None,
    timeout: Annotated[str, typer.Option(help="What a cell may take.")] = "30m",
) -> None:
    """Execute a bundle's notebook here, offline, and print the submission that it wrote."""
    from aimo2.kaggle.bundle import dry_run as dry

    limit = parse_duration(timeout, "--timeout")
    console = errors.stderr_console()
    with ExitStack() as stack:
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aimo2-dry-run-")))
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--work {work} cannot be made: {error.strerror}") from error
        frame = dry.dry_run(
            folder,
            work,
            lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
            timeout=limit,
        )
        print(frame.write_csv(), end="")


def _here(limit: str, num_problems: int) -> tuple[str, ...]:
    """Flags of a server outside of the competition: another limit needs another reserve, too."""
    reserve = parse_duration(limit, "--limit-here") / 100
    number = str(num_problems)
    return ("--limit", limit, "--reserve", f"{reserve:g}s", "--problems", number)


def _split(flag: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {text}: {error}") from error


def _licence(model: str) -> str:
    try:
        return find_model(model).licence
    except Aimo2Error:
        return "unknown"
