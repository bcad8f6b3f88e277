"""Assemble the seccomp filter of a kernel: an allow-list. Knows no system call's installation.

What is not on the list fails with `EPERM` (a number newer than the list: `ENOSYS`, so that the C
library falls back). Arguments are compared in their low 32 bits, which is all that the kernel
reads of descriptors, commands and flags. Source of the encoding: Linux `linux/filter.h`,
`linux/seccomp.h`, `Documentation/userspace-api/seccomp_filter.rst`.
"""

import errno
import os
import signal
import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["ALLOW", "FORK_FLAGS", "NOTIFY", "assemble", "supported"]

ALLOW: Final = 0x7FFF0000
NOTIFY: Final = 0x7FC00000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000

CLONE_PARENT: Final = 0x00008000
_CLONE_THREAD: Final = 0x00010000
FORK_FLAGS: Final = CLONE_PARENT | signal.SIGCHLD
"""What `native.clone_parent` does."""
LIBRARY_FORK_FLAGS: Final = 0x01000000 | 0x00200000 | signal.SIGCHLD
"""What the C library's `fork` does: `CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD`."""

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEWEST: Final = 470
"""Numbers above are of calls that this list does not know."""
_X32: Final = 0x40000000

_Numbers = tuple[int | None, int | None]
"""(x86_64, aarch64); `None` where the machine has no such call."""


def _table(text: str) -> dict[str, _Numbers]:
    """Read `name:x86_64:aarch64`, words apart; a line may be a comment."""
    lines = (line for line in text.splitlines() if not line.strip().startswith("#"))
    table: dict[str, _Numbers] = {}
    for word in " ".join(lines).split():
        name, *numbers = word.split(":")
        intel, arm = (None if number == "-" else int(number) for number in numbers)
        table[name] = (intel, arm)
    return table


_FREE: Final = _table(
    """
    # input and output on open descriptors
    read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69
    pwritev:296:70 close:3:57 close_range:436:436 lseek:8:62 fstat:5:80 dup:32:23 dup2:33:-
    dup3:292:24 pipe:22:- pipe2:293:59 select:23:- pselect6:270:72 poll:7:- ppoll:271:73
    epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22
    epoll_pwait2:441:441 eventfd:284:- eventfd2:290:19 flock:73:32 fsync:74:82 fdatasync:75:83
    ftruncate:77:46 copy_file_range:326:285 sendfile:40:71 fadvise64:221:223 getdents:78:-
    getdents64:217:61 fchdir:81:50 umask:95:166
    # connected sockets only: none can be made but a pair of streams
    sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212 getsockname:51:204
    getpeername:52:205 getsockopt:55:209 shutdown:48:210
    # looking at paths; what may be read is not this layer's business
    stat:4:- lstat:6:- newfstatat:262:79 statx:332:291 statfs:137:43 fstatfs:138:44 access:21:-
    faccessat:269:48 faccessat2:439:439 readlink:89:- readlinkat:267:78 getcwd:79:17 chdir:80:49
    # memory
    mmap:9:222 mprotect:10:226 munmap:11:215 mremap:25:216 madvise:28:233 brk:12:214
    mincore:27:232 msync:26:227 membarrier:324:283
    # signals to oneself, time, threads
    rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136
    rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132 restart_syscall:219:128
    alarm:37:- setitimer:38:103 getitimer:36:102 pause:34:- time:201:- clock_gettime:228:113
    clock_getres:229:114 clock_nanosleep:230:115 nanosleep:35:101 gettimeofday:96:169
    sched_yield:24:124 sched_getaffinity:204:123 futex:202:98 futex_waitv:449:449
    set_robust_list:273:99 get_robust_list:274:100 rseq:334:293 arch_prctl:158:-
    set_tid_address:218:96 exit:60:93 exit_group:231:94 wait4:61:260 waitid:247:95
    # facts
    getpid:39:172 getppid:110:173 gettid:186:178 getuid:102:174 geteuid:107:175 getgid:104:176
    getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158 getpgrp:111:-
    getpgid:121:155 getsid:124:156 getrlimit:97:163 setrlimit:160:164 getrusage:98:165
    times:100:153 sysinfo:99:179 uname:63:160 getcpu:309:168 getpriority:140:141
    getrandom:318:278
    # a forked kernel takes a Landlock domain of its own
    landlock_create_ruleset:444:444 landlock_restrict_self:446:446
    """
)

# Changing what a path names: only where there is a scratch folder to do it in.
_WRITES: Final = _table(
    """
    mkdir:83:- mkdirat:258:34 unlink:87:- unlinkat:263:35 rmdir:84:- rename:82:- renameat:264:38
    renameat2:316:276 creat:85:- truncate:76:45 fallocate:285:47
    """
)

_OPEN: Final[dict[str, tuple[_Numbers, int]]] = {"open": ((2, None), 1), "openat": ((257, 56), 2)}
"""name: (numbers, index of the flags argument)"""
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000  # O_TMPFILE

_NR: Final = _table(
    """
    clone:56:220 clone3:435:435 socketpair:53:199 ioctl:16:29 fcntl:72:25 prctl:157:167
    prlimit64:302:261
    """
)

# FIONBIO, FIONREAD, FIOCLEX, FIONCLEX; TCGETS and TIOCGWINSZ for `isatty` and its friends.
_IOCTLS: Final = (0x5421, 0x541B, 0x5451, 0x5450, 0x5401, 0x5413)
# F_SETOWN, F_SETSIG, F_SETOWN_EX: with them a signal can be sent to another process.
_FCNTLS_DENIED: Final = (8, 10, 15)
_PR_SET_PDEATHSIG: Final = 1
# PR_SET_NAME, PR_GET_NAME, PR_SET_VMA
_PRCTLS: Final = (15, 16, 0x53564D41)


class _Check(NamedTuple):
    """The low half of an argument, masked, equals one of the values (or none, if `negate`)."""

    argument: int
    values: Sequence[int]
    mask: int = 0xFFFFFFFF
    negate: bool = False


class _Instruction(NamedTuple):
    code: int
    true: int
    false: int
    value: int

    def pack(self) -> bytes:
        return struct.pack("<HBBI", *self)


_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_GREATER_EQUAL: Final = 0x35
_AND: Final = 0x54
_RETURN: Final = 0x06


def supported(machine: str) -> bool:
    """Whether there is a filter for this machine."""
    return machine in _ARCHITECTURES


def assemble(machine: str, *, writes: bool, fork: int | None) -> bytes:
    """The program for kernels, eight bytes an instruction.

    No signal can be sent, not even to oneself: a fork inherits the filter, and "oneself" would be
    the kernel that it came from. `abort` then ends the process by a trap.

    `writes`: whether files may be made and changed. `fork`: the action for the clone by which a
    kernel forks (`ALLOW`; `NOTIFY`, then for the C library's fork, too), or `None` where it is
    denied. Raises `ValueError` for a machine without a list.
    """
    column = list(_ARCHITECTURES).index(machine)
    architecture = _ARCHITECTURES[machine]
    program = [
        _Instruction(_LOAD, 0, 0, 4),
        _Instruction(_EQUAL, 1, 0, architecture),
        _Instruction(_RETURN, 0, 0, _KILL),
        _Instruction(_LOAD, 0, 0, 0),
        _Instruction(_GREATER_EQUAL, 0, 1, _X32),
        _Instruction(_RETURN, 0, 0, _ERRNO | errno.EPERM),
        _Instruction(_GREATER_EQUAL, 0, 1, _NEWEST + 1),
        _Instruction(_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for numbers in (_FREE | _WRITES if writes else _FREE).values():
        program += _rule(numbers[column], (), ALLOW)
    for numbers, checks, action in _guarded(writes, fork):
        program += _rule(numbers[column], checks, action)
    program.append(_Instruction(_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return b"".join(instruction.pack() for instruction in program)


def _guarded(writes: bool, fork: int | None) -> list[tuple[_Numbers, tuple[_Check, ...], int]]:
    """(numbers, what the arguments must be, action); the first rule that fits decides."""
    unix_stream = (_Check(0, [socket.AF_UNIX]), _Check(1, [socket.SOCK_STREAM], 0xF))
    death_signal = (_Check(0, [_PR_SET_PDEATHSIG]), _Check(1, [signal.SIGKILL]))
    rules: list[tuple[_Numbers, tuple[_Check, ...], int]] = [
        (_NR["clone"], (_Check(0, [_CLONE_THREAD], _CLONE_THREAD),), ALLOW),
        (_NR["clone3"], (), _ERRNO | errno.ENOSYS),
        (_NR["socketpair"], unix_stream, ALLOW),
        (_NR["ioctl"], (_Check(1, _IOCTLS),), ALLOW),
        (_NR["fcntl"], (_Check(1, _FCNTLS_DENIED, negate=True),), ALLOW),
        (_NR["prctl"], (_Check(0, _PRCTLS),), ALLOW),
        (_NR["prctl"], death_signal, ALLOW),
        (_NR["prlimit64"], (_Check(0, [0]),), ALLOW),
    ]
    if fork == NOTIFY:
        rules.append((_NR["clone"], (_Check(0, [LIBRARY_FORK_FLAGS]),), NOTIFY))
    if fork is not None:
        rules.append((_NR["clone"], (_Check(0, [FORK_FLAGS]),), fork))
    for numbers, flags in _OPEN.values():
        reads_only = () if writes else (_Check(flags, [0], _WRITE_FLAGS),)
        rules.append((numbers, reads_only, ALLOW))
    return rules


def _rule(number: int | None, checks: tuple[_Check, ...], action: int) -> list[_Instruction]:
    """Instructions that return `action` where it fits, and else go on with the number loaded."""
    if number is None:
        return []
    body = [_check(check) for check in checks]
    tail = [_Instruction(_RETURN, 0, 0, action)]
    if checks:
        tail.append(_Instruction(_LOAD, 0, 0, 0))
    program = [instruction for part in body for instruction in part]
    for index, instruction in enumerate(program):
        # A check that fails jumps to the reload, behind the `return`.
        fail = len(program) - index
        program[index] = instruction._replace(
            true=fail if instruction.true == _FAIL else instruction.true,
            false=fail if instruction.false == _FAIL else instruction.false,
        )
    whole = program + tail
    return [_Instruction(_EQUAL, 0, len(whole), number), *whole]


_FAIL: Final = 255
"""Stands for the jump over the rest of the rule."""


def _check(check: _Check) -> list[_Instruction]:
    """Load the argument and compare; the last instruction falls through on success."""
    load = [_Instruction(_LOAD, 0, 0, 16 + 8 * check.argument)]
    if check.mask != 0xFFFFFFFF:
        load.append(_Instruction(_AND, 0, 0, check.mask))
    compare = []
    for index, value in enumerate(check.values):
        left = len(check.values) - index - 1
        if check.negate:
            compare.append(_Instruction(_EQUAL, _FAIL, 0, value))
        else:
            compare.append(_Instruction(_EQUAL, left, _FAIL if left == 0 else 0, value))
    return load + compare
