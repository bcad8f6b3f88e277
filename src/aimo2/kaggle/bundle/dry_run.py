"""Execute a bundle's notebook here, as the competition would, and look at what it wrote.

Knows no terminal. Needs the extra `notebook`.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from aimo2.errors import InputError, SetupError
from aimo2.kaggle.bundle import notebook
from aimo2.kaggle.bundle.build import read_settings, verify
from aimo2.kaggle.server import RERUN_VARIABLE

_START_SECONDS = 60


def dry_run(
    folder: Path, work: Path, notify: Callable[[str], None], *, timeout: float | None
) -> pl.DataFrame:
    """The submission that the notebook wrote in the folder `work`.

    The notebook is run as it is, outside of the competition, without a package index. `timeout`:
    seconds that a cell may take. Raises `InputError` for a bundle that is damaged or made for
    another Python, `SetupError` where Jupyter is missing or the notebook fails.
    """
    settings = read_settings(folder)
    here = "{}.{}".format(*sys.version_info)
    if settings["python"] != here:
        raise InputError(
            f"the bundle is for Python {settings['python']}, this is {here}; run it there, or make"
            f" one with --python {here}"
        )
    if wrong := verify(folder):
        raise InputError(f"the bundle is damaged, make it again: {'; '.join(wrong[:5])}")
    submission = work / "submission.parquet"
    submission.unlink(missing_ok=True)
    _execute(folder, work, notify, timeout)
    if not submission.is_file():
        raise SetupError(f"the notebook ended without writing {submission}")
    return pl.read_parquet(submission)


def environment(folder: Path, work: Path) -> dict[str, str]:
    """The notebook's environment: the bundle, and no way to a package index."""
    # Nor may it lean on what our own process happens to find.
    left_out = (RERUN_VARIABLE, "PYTHONPATH", "PYTHONHOME")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {
        **kept,
        "AIMO2_BUNDLE": str(folder.resolve()),
        "AIMO2_WORK": str(work.resolve()),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }


def _execute(
    folder: Path, work: Path, notify: Callable[[str], None], timeout: float | None
) -> None:
    try:
        import ipykernel  # noqa: F401 - the kernel that executes it
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError
    except ImportError as error:
        raise SetupError(
            f"a notebook cannot be run here ({error}); install the extra: pip install"
            " 'aimo2[notebook]'"
        ) from error

    class Client(NotebookClient):
        """Passes on what the cells print, as they print it."""

        def output(self, outs: Any, msg: Any, display_id: Any, cell_index: int) -> Any:
            if msg["msg_type"] == "stream":
                notify(msg["content"]["text"].rstrip("\n"))
            return super().output(outs, msg, display_id, cell_index)

    # nbformat's functions have no types.
    formats: Any = importlib.import_module("nbformat")
    client = Client(
        formats.reads((folder / notebook.NAME).read_text(), as_version=4),
        timeout=timeout,
        startup_timeout=_START_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(work)}},
    )
    try:
        client.execute(env=environment(folder, work))
    except CellTimeoutError as error:
        raise SetupError(f"a cell took more than {timeout:g} s") from error
    except CellExecutionError as error:
        raise SetupError(f"the notebook failed: {error.ename}: {error.evalue}") from error
    finally:
        executed = work / f"executed-{notebook.NAME}"
        executed.write_text(formats.writes(client.nb))
