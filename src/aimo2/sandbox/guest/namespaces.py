"""Namespaces of a zygote: its own processes, network and files. Knows no kernels.

With a mount namespace the zygote lives in a root of its own: the Python installation and the
system's libraries, read-only, four harmless devices, and room for scratch folders. Sources:
`unshare(2)`, `user_namespaces(7)`, `pivot_root(2)`.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from .layers import Outcome
from .native import MACHINE, call, syscall

__all__ = ["SCRATCH", "enter", "make_root", "mount_scratch", "unmount_scratch"]

SCRATCH: Final = "/scratch"

_FLAGS: Final = {
    "mount namespace": 0x00020000,
    "ipc namespace": 0x08000000,
    "pid namespace": 0x20000000,
    "network namespace": 0x40000000,
}
_NEWUSER: Final = 0x10000000

_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH: Final = 2
_NR_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_NR_MOUNT_SETATTR: Final = 442
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PLACES: Final = ("/tmp", "/mnt", "/run", "/var/tmp", "/media", "/srv", "/opt")
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def enter(wanted: Sequence[str]) -> Outcome:
    """Leave the host's namespaces as far as the system lets us.

    Where that needs privileges that we lack, a user namespace is tried first. The pid namespace
    holds from the next fork on.
    """
    names = [name for name in _FLAGS if name in wanted]
    outcome = {name: "not asked for" for name in _FLAGS if name not in wanted}
    if not names:
        return outcome
    uid, gid = os.geteuid(), os.getegid()
    user = 0 if uid == 0 else _NEWUSER
    together = sum(_FLAGS[name] for name in names)
    try:
        call("unshare", user | together)
    except OSError as error:
        return outcome | _one_by_one(names, user, error)
    if user:
        _map_identity(uid, gid)
    return outcome | dict.fromkeys(names, "")


def _one_by_one(names: list[str], user: int, why: OSError) -> Outcome:
    """What single namespaces can be had where all together cannot."""
    outcome: Outcome = {}
    for name in names:
        try:
            if user:
                raise why
            call("unshare", _FLAGS[name])
        except OSError as error:
            outcome[name] = error.strerror or str(error)
        else:
            outcome[name] = ""
    return outcome


def _map_identity(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def make_root(readable: Sequence[str]) -> None:
    """Swap the root for one that holds only `readable`. Raises `OSError`; then nothing changed.

    Call it in a mount namespace of our own.
    """
    if MACHINE not in _NR_PIVOT_ROOT:
        raise OSError(errno.ENOSYS, f"no call number for {MACHINE}")
    place = _place(readable)
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", place, "tmpfs", _NOSUID, "size=1m,mode=755")
    try:
        _furnish(place, readable)
        os.chdir(place)
        here = ctypes.create_string_buffer(b".")
        syscall("pivot_root", _NR_PIVOT_ROOT[MACHINE], here, here)
    except OSError:
        os.chdir("/")
        call("umount2", place.encode(), _DETACH)
        raise
    call("umount2", b".", _DETACH)
    os.chdir("/")


def _furnish(place: str, readable: Sequence[str]) -> None:
    # Parents first: a folder that already holds something is taken to be inside one that is there.
    inwards = sorted(readable, key=lambda path: len(Path(path).resolve().parts))
    for path in (*inwards, *_DEVICES):
        if Path(path).exists():
            _bind(Path(path), place)
    Path(place + SCRATCH).mkdir()
    _mount("tmpfs", place + SCRATCH, "tmpfs", _NOSUID | _NODEV, "size=64k,mode=711")
    _protect(place, recursive=False)


def _place(readable: Sequence[str]) -> str:
    """An existing folder that hides nothing we need when something is mounted on it."""
    for place in _PLACES:
        hidden = any(Path(path).is_relative_to(place) for path in readable)
        if Path(place).is_dir() and not hidden:
            return place
    raise OSError(errno.ENOENT, "no folder to build a root in")


def _bind(path: Path, place: str) -> None:
    _mirror_links(path, place)
    source = path.resolve()
    target = Path(place + str(source))
    if target.exists() and not source.is_file() and any(target.iterdir()):
        return  # inside something that is there already
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(source), str(target), None, _BIND | _REC)
    if not str(source).startswith("/dev/"):
        _protect(str(target), recursive=True)


def _mirror_links(path: Path, place: str) -> None:
    """The symbolic links on the way, such as `/lib` to `/usr/lib`."""
    for step in (*reversed(path.parents), path):
        copy = Path(place + str(step))
        if step.is_symlink() and not copy.is_symlink() and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(step.resolve())
            return


def _protect(target: str, *, recursive: bool) -> None:
    """Read-only, no set-user-id programs, and below a folder no devices either."""
    attributes = _ATTR_RDONLY | _ATTR_NOSUID | (_ATTR_NODEV if recursive else 0)
    packed = struct.pack("4Q", attributes, 0, 0, 0)
    try:
        syscall(
            "mount_setattr",
            _NR_MOUNT_SETATTR,
            _AT_FDCWD,
            ctypes.create_string_buffer(target.encode()),
            _AT_RECURSIVE if recursive else 0,
            ctypes.create_string_buffer(packed, len(packed)),
            len(packed),
        )
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        # Before Linux 5.12: the same, without the mounts below.
        flags = _RDONLY | _NOSUID | (_NODEV if recursive else 0)
        _mount(None, target, None, _REMOUNT | _BIND | flags)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    names = [text.encode() if text is not None else None for text in (source, target, kind)]
    call("mount", *names, flags, options.encode() if options is not None else None)


def mount_scratch(name: str, size: int) -> str:
    """A private folder of at most `size` bytes. Raises `OSError`."""
    folder = Path(SCRATCH) / name
    folder.mkdir(mode=0o711)
    options = f"size={size},nr_inodes=4096,mode=700"
    try:
        _mount("tmpfs", str(folder), "tmpfs", _NOSUID | _NODEV, options)
    except OSError:
        folder.rmdir()
        raise
    return str(folder)


def unmount_scratch(name: str) -> None:
    """Free a folder, even where a process still stands in it."""
    folder = Path(SCRATCH) / name
    with suppress(OSError):
        call("umount2", str(folder).encode(), _DETACH)
        folder.rmdir()
