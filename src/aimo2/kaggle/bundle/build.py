"""Make a bundle: every step can be repeated, and what is there already is not made again.

Knows no terminal; how wheels are fetched is `wheels`' business.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from aimo2.errors import DiskFullError, InputError
from aimo2.kaggle.bundle import notebook
from aimo2.kaggle.bundle.own_wheel import own_version, write_own_wheel
from aimo2.kaggle.bundle.wheels import PLATFORMS, fetch_wheels, licence

MARK = "aimo2-bundle.json"
SUMS = "SHA256SUMS"
CONTENTS = "CONTENTS.txt"
PROBLEMS = "problems.csv"
FORMAT = 1
"""Of the settings file; a reader refuses a newer one."""

_CHUNK = 1 << 20
Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """What a bundle shall hold."""

    out: Path
    python: str = "3.11"
    """The notebook's Python, as `major.minor`."""
    platforms: Sequence[str] = PLATFORMS
    wheels: Literal["all", "own"] = "all"
    """`own`: this package alone, for an image that has what it needs."""
    more: Sequence[str] = ()
    """Requirements beside our own."""
    model: Path | None = None
    """A `.gguf` file that is put in; `None` where there is none or it is elsewhere."""
    model_licence: str = "unknown"
    model_at: str | None = None
    """Where the model is on the competition's machine, if it is not in the bundle."""
    problems: Path | None = None
    """What is asked where the competition does not; `None` takes three problems of our own."""
    serve: Sequence[str] = ()
    """Flags of `aimo2 kaggle serve`."""
    serve_here: Sequence[str] = ()
    """More of them, outside of the competition: there, nobody wants to wait for hours."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a bundle. `size`: bytes."""

    name: str
    size: int
    sha256: str
    licence: str


def build(plan: BundlePlan, notify: Notify) -> list[Item]:
    """Make the bundle in `plan.out`; returns its files, the largest first.

    Raises `InputError` where the folder is something else's, `DownloadError`, and `DiskFullError`.
    """
    out = plan.out
    _prepare(out)
    notify(f"aimo2 {own_version()} as a wheel")
    try:
        own = write_own_wheel(out / "wheels")
        for other in (out / "wheels").glob("aimo2-*.whl"):
            if other != own:
                other.unlink()
        if plan.wheels == "all":
            fetch_wheels(out / "wheels", plan.python, plan.platforms, plan.more, notify)
        model = _place_model(plan, notify)
        _write_settings(plan, model)
        (out / notebook.NAME).write_text(notebook.notebook_text())
        return _write_sums(plan, notify)
    except OSError as error:
        raise DiskFullError(f"cannot write the bundle to {out}: {error}") from error


def read_settings(folder: Path) -> dict[str, object]:
    """The settings of a bundle. Raises `InputError` where the folder holds none."""
    path = folder / MARK
    try:
        settings = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{folder} is no bundle: {path.name} cannot be read") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: make the bundle again") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise InputError(f"{path} is of another version of aimo2: make the bundle again")
    return settings


def verify(folder: Path) -> list[str]:
    """What is wrong with a bundle's files, a line each. Raises `InputError` for no bundle."""
    read_settings(folder)
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except OSError as error:
        raise InputError(f"{folder} is half a bundle: it has no {SUMS}; make it again") from error
    wrong = []
    for line in lines:
        wanted, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif _sha256(path) != wanted:
            wrong.append(f"{name} is damaged")
    return wrong


def _prepare(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    strange = out.is_dir() and any(out.iterdir()) and not (out / "wheels").is_dir()
    if strange and not (out / MARK).exists():
        raise InputError(f"--out {out} holds other things; give a new or empty folder")
    try:
        (out / "wheels").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror}") from error
    # Until everything is there and summed up, the folder is no bundle.
    for name in (MARK, SUMS):
        (out / name).unlink(missing_ok=True)


def _place_model(plan: BundlePlan, notify: Notify) -> str | None:
    """The model's path as the notebook finds it: inside the bundle, or an absolute one."""
    if plan.model is None:
        return plan.model_at
    place = plan.out / "model" / plan.model.name
    place.parent.mkdir(exist_ok=True)
    for other in place.parent.iterdir():
        if other != place:
            other.unlink()
    if not _same_file(plan.model, place):
        notify(f"model {plan.model.name}, {plan.model.stat().st_size / 1e9:.2f} GB")
        part = place.with_suffix(".part")
        part.unlink(missing_ok=True)
        try:
            os.link(plan.model, part)  # the same bytes twice on one disk would be a waste
        except OSError:
            shutil.copyfile(plan.model, part)
        part.replace(place)
    return f"model/{place.name}"


def _same_file(source: Path, place: Path) -> bool:
    if not place.exists():
        return False
    if source.samefile(place):
        return True
    return source.stat().st_size == place.stat().st_size and _sha256(source) == _sha256(place)


def _write_settings(plan: BundlePlan, model: str | None) -> None:
    if plan.problems is None:
        text = (resources.files("aimo2.kaggle.bundle") / "dry-run.csv").read_text()
    else:
        text = plan.problems.read_text()
    problems = PROBLEMS if plan.problems is None else "problems" + plan.problems.suffix.lower()
    (plan.out / problems).write_text(text)
    settings = {
        "format": FORMAT,
        "version": own_version(),
        "python": plan.python,
        "image_packages": plan.wheels == "own",
        "more": list(plan.more) if plan.wheels == "all" else [],
        "model": model,
        "serve": list(plan.serve),
        "serve_here": list(plan.serve_here),
        "problems": problems,
    }
    (plan.out / MARK).write_text(json.dumps(settings, indent=2) + "\n")


def _write_sums(plan: BundlePlan, notify: Notify) -> list[Item]:
    """Hash every file, and list them for people, too."""
    (plan.out / CONTENTS).unlink(missing_ok=True)
    paths = sorted(path for path in plan.out.rglob("*") if path.is_file())
    notify(f"checksums of {len(paths)} files")
    items = [_item(plan, path) for path in paths]
    items.sort(key=lambda item: (-item.size, item.name))
    lines = [f"{item.size:>13,}  {item.licence:<34.34}  {item.name}\n" for item in items]
    contents = plan.out / CONTENTS
    contents.write_text(f"{'bytes':>13}  {'licence':<34}  file\n" + "".join(lines))
    items.append(_item(plan, contents))
    sums = "".join(
        f"{item.sha256}  {item.name}\n" for item in sorted(items, key=lambda item: item.name)
    )
    (plan.out / SUMS).write_text(sums)
    return items


def _item(plan: BundlePlan, path: Path) -> Item:
    name = path.relative_to(plan.out).as_posix()
    if path.suffix == ".whl":
        said = licence(path)
    else:
        said = plan.model_licence if name.startswith("model/") else "Apache-2.0"
    return Item(name, path.stat().st_size, _sha256(path), said)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
