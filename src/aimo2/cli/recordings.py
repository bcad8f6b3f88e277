"""Flags of the commands that read recorded samples. Knows no samples."""

from pathlib import Path
from typing import Annotated

import typer

TracesArgument = Annotated[
    list[Path], typer.Argument(help="Traces or samples (.jsonl, .jsonl.gz), or run folders.")
]
GoldOption = Annotated[
    str | None,
    typer.Option("--gold", help="Problems with answers, for traces that do not hold them."),
]
