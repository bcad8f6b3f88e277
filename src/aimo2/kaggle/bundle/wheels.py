"""Wheels of everything that the notebook installs, for its Python and platform. Knows no notebook.

pip fetches them, because only it knows the user's index, proxies and passwords. It keeps what is
in the folder already, so that a run that broke off is gone on with.
"""

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from email.message import Message
from email.parser import BytesParser
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from aimo2.errors import ConfigError, DownloadError, SetupError
from aimo2.kaggle.bundle.own_wheel import NAME
from aimo2.serving.index_tools import complaint, find_uv, pythons_with_pip, tool_environment

PLATFORMS = (
    "manylinux_2_35_x86_64",
    "manylinux_2_34_x86_64",
    "manylinux_2_31_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_12_x86_64",
    "manylinux2010_x86_64",
    "manylinux_2_5_x86_64",
    "manylinux1_x86_64",
)
"""Of the competition's image (Ubuntu 22.04), newest first; pip takes no "this or older"."""

_SHOWN = re.compile(r"^\s*(Collecting|Downloading|Saved|File was already downloaded)\s+(\S+)")
_KEPT = ("Saved", "File was already downloaded")


def requirements() -> list[str]:
    """What this package needs, without its extras. Raises `SetupError` where it cannot be known."""
    try:
        required = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError as error:
        raise SetupError("aimo2 is not installed as a package; install it first") from error
    return [line for line in required if "extra ==" not in line]


def pins(python: str) -> list[str]:
    """The versions that are installed here, as far as they fit the notebook's Python.

    They are the ones that were tried. For another Python than ours there are none: some have no
    wheel for it.
    """
    if python != "{}.{}".format(*sys.version_info):
        return []
    names: dict[str, str] = {}
    waiting = [(line, frozenset[str]()) for line in requirements()]
    while waiting:
        line, extras = waiting.pop()
        requirement = Requirement(line)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        try:
            found = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            continue
        if requirement.name not in names:
            names[requirement.name] = found.version
            inner = frozenset(requirement.extras | {""})
            waiting += [(each, inner) for each in found.requires or ()]
    return sorted(f"{name}=={version}" for name, version in names.items())


def checked_requirements(lines: Sequence[str]) -> list[str]:
    """More packages that the user wants in. Raises `ConfigError` for what pip would not take."""
    for line in lines:
        try:
            Requirement(line)
        except InvalidRequirement as error:
            raise ConfigError(f"--require {line}: {str(error).splitlines()[0]}") from error
    return list(lines)


def fetch_wheels(
    folder: Path,
    python: str,
    platforms: Sequence[str],
    more: Sequence[str],
    notify: Callable[[str], None],
) -> list[Path]:
    """Wheels of all requirements, of `more`, and of pip itself; older ones are removed.

    Raises `DownloadError` with pip's reason; what was fetched before stays for the next run.
    """
    constraints = folder.parent / "constraints.txt"
    constraints.write_text("".join(pin + "\n" for pin in pins(python)))
    command = [*_pip(), "download", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(folder)]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [flag for abi in _abis(python) for flag in ("--abi", abi)]
    command += [flag for platform in platforms for flag in ("--platform", platform)]
    command += ["--constraint", str(constraints), *requirements(), *more, "pip"]
    kept = _run(command, notify)
    stale = [path for path in folder.glob("*.whl") if path.name not in kept]
    for path in stale:
        if not path.name.startswith(f"{NAME}-"):
            path.unlink()
    return sorted(folder / name for name in kept)


def _abis(python: str) -> tuple[str, ...]:
    return ("cp" + python.replace(".", ""), "abi3", "none")


def _pip() -> list[str]:
    """How pip can be run here: it need not be in our own environment."""
    for python in pythons_with_pip():
        # -P: a folder called pip in the working directory must not be run.
        command = [python, "-P", "-m", "pip"]
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode:
            continue
        return command
    uv = find_uv()
    if uv is not None:
        return [uv, "tool", "run", "pip"]
    raise SetupError("wheels are fetched with pip, and there is none; run: python -m ensurepip")


def _run(command: Sequence[str], notify: Callable[[str], None]) -> set[str]:
    """Run pip, with a line for each package; returns the names of the files that it wants kept."""
    kept: set[str] = set()
    heard: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=tool_environment(),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            heard.append(line)
            found = _SHOWN.match(line)
            if found is None:
                continue
            what, name = found[1], Path(found[2]).name
            if what in _KEPT:
                kept.add(name)
            notify(f"{what.lower()} {name}")
    if process.returncode:
        raise DownloadError(f"pip could not fetch the wheels: {complaint(''.join(heard))}")
    return kept


def licence(wheel: Path) -> str:
    """What a wheel says of its licence; `unknown` where it says nothing."""
    try:
        told = _metadata(wheel)
    except (OSError, KeyError, StopIteration, zipfile.BadZipFile):
        return "unknown"
    classifiers = [
        str(value).rsplit(" :: ", 1)[-1]
        for value in told.get_all("Classifier", [])
        if str(value).startswith("License :: ") and value != "License :: OSI Approved"
    ]
    free = str(told.get("License", "")).strip().splitlines()
    short = free[0] if len(free) == 1 and len(free[0]) < 60 else "unknown"
    return str(told.get("License-Expression", "")) or ", ".join(classifiers) or short


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(archive.read(name), headersonly=True)
