"""The folders that kernels may write to: one for a family, and in it one for each kernel.

Knows no mounts: `namespaces.py` makes the family's. What lies in the folders is hostile.
"""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Desk", "sweep"]

_COPY: Final = "-copy"
_NAMED: Final = 5
"""Files that a complaint names."""


class Desk:
    """The folder of one kernel, named after its process, and its current folder at first."""

    def __init__(self, family: str) -> None:
        self._family = Path(family)
        self._folder = self._family / str(os.getpid())
        self._folder.mkdir(exist_ok=True)
        os.chdir(self._folder)

    def copy(self) -> "Copy":
        """Before a fork: the files as they are now, for the new kernel."""
        made = Copy(Path(f"{self._folder}{_COPY}"))
        if _has_entries(self._folder):
            made.take(self._folder)
        return made

    def move(self, copy: "Copy") -> str:
        """In the forked kernel: a folder of its own, which holds what was copied.

        Returns what the next cell has to be told, or "".
        """
        old, place = self._folder, _current_folder()
        self._folder = self._family / str(os.getpid())
        try:
            copy.rename(self._folder)
            os.chdir(self._folder)
        except OSError:  # no room even for a folder
            os.chdir("/")
        if place is not None and place != old:
            inside = place.is_relative_to(old)
            with suppress(OSError):
                os.chdir(self._folder / place.relative_to(old) if inside else place)
        return copy.complaint


class Copy:
    """The files of a kernel for its fork; what does not fit is left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left_out: list[str] = []
        self._awaited: tuple[int, int] | None = None
        """A pipe that the new kernel closes when it has the files."""

    def take(self, source: Path) -> None:
        """Copy the files and folders; not their rights, which a kernel may not set."""
        self._take(source, self._folder)
        self._awaited = os.pipe()

    def wait(self) -> None:
        """In the old kernel: until the new one has the files, or is gone, or never was.

        Else a later copy, or our end, could take them away first.
        """
        if self._awaited is not None:
            reader, writer = self._awaited
            os.close(writer)
            os.read(reader, 1)
            os.close(reader)
            _remove(self._folder)

    def _take(self, source: Path, target: Path) -> None:
        try:
            target.mkdir()
            entries = list(os.scandir(source))
        except OSError:
            self._left_out.append(target.name)
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                try:
                    self._take(Path(entry.path), target / entry.name)
                except RecursionError:
                    self._left_out.append(entry.name)
            else:
                self._take_file(entry, target / entry.name)

    def _take_file(self, entry: os.DirEntry[str], target: Path) -> None:
        try:
            shutil.copyfile(entry.path, target, follow_symlinks=False)
        except OSError:
            self._left_out.append(entry.name)
            with suppress(OSError):
                target.unlink()

    def rename(self, folder: Path) -> None:
        """In the new kernel: give the copy its place. Raises `OSError`."""
        try:
            # Not what lies there now: it may be the copy of a later fork.
            if self._awaited is None:
                folder.mkdir(exist_ok=True)
            else:
                self._folder.rename(folder)
        finally:
            for end in self._awaited or ():
                os.close(end)

    @property
    def complaint(self) -> str:
        """A line on what was left out, or ""."""
        if not self._left_out:
            return ""
        names = ", ".join(self._left_out[:_NAMED])
        more = len(self._left_out) - _NAMED
        return f"[files were lost for want of space: {names}{f' and {more} more' * (more > 0)}]"


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


def sweep(family: str, pid: int) -> None:
    """Remove the folders of a process that is gone; what cannot be removed stays.

    A family's folder has a bounded number of files, and links in it are not followed.
    """
    for name in (str(pid), f"{pid}{_COPY}"):
        _remove(f"{family}/{name}")


def _remove(folder: str | Path) -> None:
    # One system call where there is nothing: it is asked for each family at each process's end.
    with suppress(OSError, RecursionError):
        if stat.S_ISDIR(os.lstat(folder).st_mode):
            shutil.rmtree(folder, ignore_errors=True)
