"""`aimo2 openings`: how attempts may start, a user's own openings included, and model families."""

from pathlib import Path
from typing import Annotated

import typer

from aimo2 import prompts


def openings(
    file: Annotated[
        Path | None, typer.Option("--openings-file", help="Check and list this file's, too.")
    ] = None,
    families: Annotated[
        bool, typer.Option("--families", help="List the model families instead.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Say which family a model of this name belongs to.")
    ] = None,
) -> None:
    """List the openings, or the model families that decide how a model is asked."""
    if model is not None:
        print(prompts.find_family(model).name)
    elif families:
        _table({name: _described(family) for name, family in prompts.families().items()})
    else:
        own = prompts.read_openings(file) if file is not None else None
        known = prompts.openings(own.openings if own else ())
        _table({name: opening.about for name, opening in known.items()})
        if own is not None and own.mix is not None:
            print(f"mix: {','.join(prompts.parse_mix(own.mix, own.openings))}")


def _described(family: prompts.Family) -> str:
    thinks = "does not think" if family.thinking is None else "thinks"
    if family.thinking is not None and family.thinking.off is not None:
        thinks = "thinks, or not (--thinking off)"
    sampling = family.sampling
    drawn = f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}" if sampling else ""
    if sampling and sampling.top_k:
        drawn += f", top-k {sampling.top_k}"
    system = "a system message" if family.system else "no system message"
    return ", ".join(part for part in (thinks, system, drawn) if part)


def _table(rows: dict[str, str]) -> None:
    widest = max(map(len, rows))
    for name, about in rows.items():
        print(f"{name:<{widest}}  {about}".rstrip())
