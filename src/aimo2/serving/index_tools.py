"""What we ask of `uv` and `pip`: where a package is, or to fetch it. Knows no models.

Only these tools know the user's index, certificates, proxies and passwords. No source package is
ever accepted, because building one would run its code.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimo2.errors import DownloadError

RESOLVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wheel:
    """Where a wheel is; `size` in bytes and `sha256` where the index says them."""

    url: str
    size: int | None
    sha256: str | None


def resolve(uv: str, requirements: Sequence[str]) -> dict[str, Wheel]:
    """Each requirement's wheel, as the user's own index settings give it.

    Raises `DownloadError` where `uv` fails or names no wheel.
    """
    command = [uv, "pip", "compile", "-", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--format", "pylock.toml", "--python", sys.executable]
    try:
        reply = subprocess.run(
            command,
            input="\n".join(requirements),
            capture_output=True,
            text=True,
            check=False,
            timeout=RESOLVE_SECONDS,
            env=tool_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadError(f"uv could not be run: {error}") from error
    if reply.returncode:
        raise DownloadError(complaint(reply.stderr))
    try:
        found = dict(map(_locked_wheel, tomllib.loads(reply.stdout)["packages"]))
        return {requirement: found[requirement] for requirement in requirements}
    except (tomllib.TOMLDecodeError, LookupError) as error:
        raise DownloadError(f"uv named no wheel: {error}") from error


def _locked_wheel(package: dict[str, Any]) -> tuple[str, Wheel]:
    wheel = min(package["wheels"], key=lambda wheel: not wheel["url"].startswith("file:"))
    found = Wheel(wheel["url"], wheel.get("size"), wheel.get("hashes", {}).get("sha256"))
    return f"{package['name']}=={package['version']}", found


def find_uv() -> str | None:
    """The `uv` that runs us, the one on the path, or the one beside the interpreter."""
    beside = [str(Path(python).parent) for python in (sys.executable, _base_python())]
    candidates = [os.environ.get("UV"), shutil.which("uv")]
    candidates += [shutil.which("uv", path=folder) for folder in beside]
    return next((uv for uv in candidates if uv and Path(uv).is_file()), None)


def pythons_with_pip() -> list[str]:
    """This interpreter where it has pip, and the one that our virtual environment was made from."""
    found = [sys.executable] if importlib.util.find_spec("pip") else []
    return list(dict.fromkeys([*found, _base_python()]))


def _base_python() -> str:
    return str(getattr(sys, "_base_executable", sys.executable))


def uv_install(uv: str, requirement: str, out: Path, scratch: Path) -> list[str]:
    """A command line that unpacks a package into the folder `out`."""
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python", sys.executable, "--cache-dir", str(scratch)]
    return [*command, "--target", str(out), requirement]


def pip_download(python: str, requirement: str, out: Path, scratch: Path) -> list[str]:
    """A command line that puts a package's wheel into the folder `out`."""
    # -P: a folder called pip in the working directory must not be run.
    command = [python, "-P", "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--no-cache-dir", "--no-input", "--retries", "1"]
    return [*command, "--disable-pip-version-check", "--dest", str(out), requirement]


def complaint(text: str) -> str:
    """A tool's last error with the causes that follow it, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if line.casefold().startswith("error")]
    told = " ".join(lines[errors[-1] :] if errors else lines[-1:])
    return textwrap.shorten(told, 300, placeholder=" …") or "it gave no reason"


def tool_environment(**extra: str) -> dict[str, str]:
    """Our environment, with `extra` over it."""
    # Less patience than uv's own where the user asks for none: another source may have to wait.
    return {"UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": "15", **os.environ, **extra}
