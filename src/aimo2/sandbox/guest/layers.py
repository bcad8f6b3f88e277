"""Isolation of one kernel: what a fresh fork does to itself before the first cell.

Each layer answers with nothing, or raises `OSError` where this machine does not have it; none is
needed by another, and every outcome goes into the report. Knows no sockets and no cells.
Sources: Linux `prctl(2)`, `capabilities(7)`, `landlock(7)`, `seccomp(2)`.
"""

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from . import bpf
from .native import MACHINE, call, prctl, syscall

__all__ = ["Isolation", "Outcome", "attempt", "landlock_abi", "own_domain"]

Outcome = dict[str, str]
"""Layer -> "" where it is active, else why it is not."""

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_LAST_CAPABILITY: Final = 63

_NEWUSER: Final = 0x10000000
_PROCESSES: Final = 512
_PROCESSES_SHARED: Final = 8192
"""Where every process of the host's user counts."""

_NR_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3: Final = 0x20080522

_NR_LANDLOCK_CREATE: Final = 444
_NR_LANDLOCK_ADD: Final = 445
_NR_LANDLOCK_RESTRICT: Final = 446
_RULE_PATH_BENEATH: Final = 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_WRITE_FILE: Final = 1 << 1
_TRUNCATE: Final = 1 << 14
_ALL_FS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_ALL_NET: Final = 3
_ALL_SCOPES: Final = 3
# Making special files is never granted, not even in the scratch folder.
_SPECIAL: Final = (1 << 0) | (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 12)

_NR_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 8


def attempt(outcome: Outcome, name: str, layer: Callable[[], object]) -> bool:
    """Put a layer on and note how it went. Returns whether it is active."""
    try:
        layer()
    except OSError as error:
        outcome[name] = f"{error.strerror or error}"
    except ValueError as error:
        outcome[name] = str(error)
    else:
        outcome[name] = ""
    return not outcome[name]


_NICENESS: Final = 10
"""The event loop and an engine on the same cores come first: a ninth of their share, where all
want to run. With 5, a third, the loop of a busy machine was late by 59 ms (99.9th percentile)."""


class Isolation:
    """The layers of kernels of one zygote.

    `wanted`: the layers to try. `readable`: folders and files that a cell may read.
    """

    def __init__(self, wanted: Iterable[str], readable: Sequence[str]) -> None:
        self._wanted = frozenset(wanted)
        self._readable = tuple(readable)
        self.limits: dict[str, int] = {}
        """Name without `RLIMIT_` -> value."""
        self.uid: int | None = None
        """User id of this kernel; `None` where it keeps the zygote's."""
        self.scratch: str | None = None
        """The folder that this kernel may write to."""
        self.outcome: Outcome = {}

    def apply(self) -> int | None:
        """Put on every layer, from the outside in; `outcome` says how each went.

        Returns the descriptor on which forks are reported, where there is one.
        """
        outcome = self.outcome = {}
        steps: tuple[tuple[str, Callable[[], object]], ...] = (
            ("limits", self._limit),
            ("user id", self._change_user),
            ("process limit", self._limit_processes),
            ("capabilities", drop_capabilities),
            ("no new privileges", lambda: prctl(_PR_SET_NO_NEW_PRIVS, 1)),
            ("landlock", self._landlock),
        )
        for name, step in steps:
            if name in self._wanted or (name == "process limit" and "limits" in self._wanted):
                attempt(outcome, name, step)
            else:
                outcome[name] = "not asked for"
        with suppress(OSError):
            prctl(_PR_SET_DUMPABLE, 0)
        return self._seccomp(outcome)

    def _limit(self) -> None:
        os.nice(_NICENESS)
        for name, value in self.limits.items():
            number = getattr(resource, f"RLIMIT_{name}", None)
            if number is None:
                continue
            hard = resource.getrlimit(number)[1]
            lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (lowest, lowest))

    def _change_user(self) -> None:
        uid = self.uid
        if uid is None:
            # Not another user, but another user's space: what it may do to processes outside,
            # and how many it may have, is counted apart.
            call("unshare", _NEWUSER)
            return
        if self.scratch is not None:
            os.chown(self.scratch, uid, uid)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

    def _limit_processes(self) -> None:
        """Threads and processes; of the whole family where it is alone in being counted."""
        alone = self.outcome.get("user id") == ""
        number = resource.RLIMIT_NPROC
        hard = resource.getrlimit(number)[1]
        wanted = _PROCESSES if alone else _PROCESSES_SHARED
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(number, (value, value))

    def _landlock(self) -> None:
        abi = landlock_abi()
        access = _ALL_FS[max(version for version in _ALL_FS if version <= abi)]
        ruleset = _create_ruleset(abi, access, _ALL_NET, _ALL_SCOPES)
        try:
            for path in self._readable:
                _allow(ruleset, path, access & (_READ_FILE | _READ_DIR))
            for device in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
                _allow(ruleset, device, access & (_READ_FILE | _WRITE_FILE | _TRUNCATE))
            if self.scratch is not None:
                _allow(ruleset, self.scratch, access & ~_SPECIAL)
            syscall("landlock_restrict_self", _NR_LANDLOCK_RESTRICT, ruleset, 0)
        finally:
            os.close(ruleset)

    def _seccomp(self, outcome: Outcome) -> int | None:
        """The filter, with the fork guard where the system can tell us of forks."""
        outcome["seccomp"] = outcome["fork guard"] = "not asked for"
        if "seccomp" not in self._wanted:
            return None
        listener: list[int] = []
        if "fork guard" in self._wanted and attempt(
            outcome, "fork guard", lambda: listener.append(self._filter(bpf.NOTIFY, _NEW_LISTENER))
        ):
            outcome["seccomp"] = ""
            return listener[0]
        attempt(outcome, "seccomp", lambda: self._filter(bpf.ALLOW, 0))
        return None

    def _filter(self, fork: int, flags: int) -> int:
        if not bpf.supported(MACHINE):
            raise OSError(errno.ENOSYS, f"no filter for {MACHINE}")
        program = bpf.assemble(MACHINE, writes=self.scratch is not None, fork=fork)
        code = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
        return syscall(
            "seccomp",
            _NR_SECCOMP[MACHINE],
            _SET_MODE_FILTER,
            flags,
            ctypes.create_string_buffer(header, len(header)),
        )


def drop_capabilities() -> None:
    """Give up every capability, now and for whatever is executed."""
    if MACHINE not in _NR_CAPSET:
        raise OSError(errno.ENOSYS, f"no call number for {MACHINE}")
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last one, or not allowed to; the sets below are what counts
    with suppress(OSError):
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), 8)
    syscall("capset", _NR_CAPSET[MACHINE], header, ctypes.create_string_buffer(24))


def landlock_abi() -> int:
    """Version of Landlock here, from 1. Raises `OSError` where there is none."""
    return syscall("landlock_create_ruleset", _NR_LANDLOCK_CREATE, None, 0, 1)


def own_domain() -> None:
    """A Landlock domain of its own, which cuts a forked kernel off from its siblings.

    Sixteen domains nest; a branch deeper than that shares the last one.
    """
    with suppress(OSError):
        abi = landlock_abi()
        # A right that no cell has anyway: some right has to be handled, no path is affected.
        ruleset = _create_ruleset(abi, 1 << 11, 0, _ALL_SCOPES)
        try:
            syscall("landlock_restrict_self", _NR_LANDLOCK_RESTRICT, ruleset, 0)
        finally:
            os.close(ruleset)


def _create_ruleset(abi: int, files: int, network: int, scopes: int) -> int:
    fields = [files]
    if abi >= 4:
        fields.append(network)
    if abi >= 6:
        fields.append(scopes)
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return syscall("landlock_create_ruleset", _NR_LANDLOCK_CREATE, buffer, len(attributes), 0)


def _allow(ruleset: int, path: str, access: int) -> None:
    """Grant what the path can have; a path that is not there grants nothing."""
    try:
        fd = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not Path(path).is_dir():
            access &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        rule = struct.pack("=Qi", access, fd)
        buffer = ctypes.create_string_buffer(rule, len(rule))
        syscall("landlock_add_rule", _NR_LANDLOCK_ADD, ruleset, _RULE_PATH_BENEATH, buffer, 0)
    finally:
        os.close(fd)
