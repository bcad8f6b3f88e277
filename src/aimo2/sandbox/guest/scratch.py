"""The folders that kernels may write to: one for a family, and in it one for each kernel.

Knows no mounts: `namespaces.py` makes the family's. What lies in the folders is hostile.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Desk", "sweep"]

_COPY: Final = "-copy"


class Desk:
    """The folder of one kernel, named after its process, and its current folder at first."""

    def __init__(self, family: str) -> None:
        self._family = Path(family)
        self._folder = self._family / str(os.getpid())
        self._folder.mkdir(exist_ok=True)
        os.chdir(self._folder)

    def copy(self) -> Path | None:
        """Before a fork: the files as they are now, for the new kernel; `None` without any.

        Raises `OSError` where they do not fit.
        """
        if not _has_entries(self._folder):
            return None
        copied = Path(f"{self._folder}{_COPY}")
        _remove(copied)
        copied.mkdir()
        try:
            _copy(self._folder, copied)
        except OSError:
            _remove(copied)
            raise
        return copied

    def move(self, copied: Path | None) -> None:
        """In the forked kernel: a folder of its own, which holds what was copied."""
        old, place = self._folder, _current_folder()
        self._folder = self._family / str(os.getpid())
        if copied is None:
            self._folder.mkdir(exist_ok=True)
        else:
            copied.rename(self._folder)
        os.chdir(self._folder)
        if place is not None and place != old:
            inside = place.is_relative_to(old)
            with suppress(OSError):
                os.chdir(self._folder / place.relative_to(old) if inside else place)


def _current_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # the cell removed it
        return None


def _has_entries(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:  # the cell removed it
        return False


def _copy(old: Path, new: Path) -> None:
    """Files and folders; not their rights, which a kernel may not set."""
    for entry in os.scandir(old):
        target = new / entry.name
        if entry.is_symlink():
            target.symlink_to(Path(entry.path).readlink())
        elif entry.is_dir():
            target.mkdir()
            _copy(Path(entry.path), target)
        else:
            shutil.copyfile(entry.path, target)


def sweep(family: Path, pid: int) -> None:
    """Remove the folders of a process that is gone; what cannot be removed stays.

    A family's folder has a bounded number of files, and links in it are not followed.
    """
    for name in (str(pid), f"{pid}{_COPY}"):
        _remove(family / name)


def _remove(folder: Path) -> None:
    if not folder.is_symlink() and folder.is_dir():
        with suppress(RecursionError):
            shutil.rmtree(folder, ignore_errors=True)
