"""`aimo2 presets`: the named configurations, and what each of them sets."""

from typing import Annotated

import typer

from aimo2 import presets as known


def presets(
    name: Annotated[
        str | None, typer.Argument(help="Show this one whole, as a file for --config.")
    ] = None,
) -> None:
    """List the presets, or print one as the TOML that it is."""
    if name is not None:
        print(known.find_preset(name).source, end="")
        return
    widest = max(map(len, known.presets()))
    for preset in known.presets().values():
        print(f"{preset.name:<{widest}}  {preset.about}")
