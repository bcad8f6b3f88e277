"""The few system calls that Python lacks, through ctypes. Knows no policy.

Every function raises `OSError` with the call's name and errno; on a system without the call,
`ENOSYS`. Numbers and structures: Linux `include/uapi`.
"""

import ctypes
import errno
import os
import platform
import signal
import sys
from typing import Final

__all__ = ["MACHINE", "call", "clone_parent", "is_raw_fork_known", "prctl", "syscall"]

MACHINE: Final = platform.machine()
"""`x86_64` and `aarch64` are the ones with a seccomp filter."""

_LINUX: Final = sys.platform == "linux"
_libc: Final = ctypes.CDLL(None, use_errno=True)

_CLONE_PARENT: Final = 0x00008000
_NR_CLONE: Final = {"x86_64": 56, "aarch64": 220}


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def prctl(option: int, *arguments: int) -> int:
    """`prctl(2)`; missing arguments are 0."""
    if not _LINUX:
        raise OSError(errno.ENOSYS, "no such call on this system", "prctl")
    four = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(ctypes.c_int(option), *four), "prctl")


def call(name: str, *arguments: int | bytes | None) -> int:
    """A function of the C library that returns -1 on failure."""
    function = getattr(_libc, name, None)
    if not _LINUX or function is None:
        raise OSError(errno.ENOSYS, "no such call on this system", name)
    values = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    return _checked(function(*values), name)


def syscall(name: str, number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """A system call by its number. Buffers are passed by address."""
    if not _LINUX:
        raise OSError(errno.ENOSYS, "no such call on this system", name)
    six = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    _libc.syscall.restype = ctypes.c_long
    return _checked(_libc.syscall(ctypes.c_long(number), *six), name)


def is_raw_fork_known() -> bool:
    """Whether `clone_parent` works here."""
    return _LINUX and MACHINE in _NR_CLONE


def clone_parent() -> int:
    """`os.fork()`, but the child's parent is the caller's parent. One thread only.

    The C library's own fork handlers do not run; with a single thread they have nothing to do.
    Raises `OSError`; `ENOSYS` on a machine whose call number is not known.
    """
    number = _NR_CLONE.get(MACHINE)
    if number is None:
        raise OSError(errno.ENOSYS, "no clone number for this machine", "clone")
    api = ctypes.pythonapi  # holds the interpreter lock through the call, as os.fork does
    api.PyOS_BeforeFork()
    result = _raw_clone(number)
    if result == 0:
        api.PyOS_AfterFork_Child()
        return 0
    api.PyOS_AfterFork_Parent()
    return _checked(result, "clone")


def _raw_clone(number: int) -> int:
    call = ctypes.PyDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    flags = ctypes.c_long(_CLONE_PARENT | signal.SIGCHLD)
    nothing = ctypes.c_long(0)
    return int(call(ctypes.c_long(number), flags, nothing, nothing, nothing, nothing))
