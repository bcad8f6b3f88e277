"""What a run was: its whole resolved configuration, the model, and the versions of what ran it.

One JSON object beside the traces: `TRACES.run.json`. Knows no clocks but the time of day.
"""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

import aimo2
from aimo2.config import EngineConfig, SolveConfig
from aimo2.journal import RecordFile

RECORD_VERSION = 1
_PACKAGES = ("xllamacpp", "sympy", "numpy", "math-verify", "pydantic")
"""Those that can change what a run gives; the others are in the project's pins."""


def run_record(solve: SolveConfig, engine: EngineConfig, model: str | None) -> dict[str, Any]:
    """Keys: `kind` ("run"), `version`, `started` (UTC, ISO 8601), `model` (the served name),
    `versions`, `solve`, `engine`.

    A key of a server is never in it: the configuration only names where it comes from.
    """
    return {
        "kind": "run",
        "version": RECORD_VERSION,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model,
        "versions": versions(),
        "solve": solve.model_dump(mode="json"),
        "engine": engine.model_dump(mode="json"),
    }


def flat_settings(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting of a nested record under its whole name, such as `solve.stop.rule`."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def versions() -> dict[str, str]:
    """Of this project, of Python, of the system and of the packages that matter."""
    found = {
        "aimo2": aimo2.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def beside(traces: Path) -> Path:
    """Where the record of a trace file is kept."""
    return traces.with_name(traces.name + ".run.json")


def write_run_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record, replacing an older one. Raises as `RecordFile.append` does."""
    with RecordFile(path) as file:
        file.append(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode() + "\n")
