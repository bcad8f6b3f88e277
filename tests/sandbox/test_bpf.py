"""The filter, run in a small interpreter of BPF, decides as the list says, on both machines."""

import errno
import signal
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.sandbox.guest import bpf

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = list(ARCHITECTURE)
EPERM = 0x50000 | errno.EPERM
ENOSYS = 0x50000 | errno.ENOSYS
KILL = 0x80000000
PID = 4242


def evaluate(program: bytes, data: bytes) -> int:
    """Classic BPF as seccomp uses it: absolute loads, AND, two jumps, return."""
    steps = list(struct.iter_unpack("<HBBI", program))
    place, value = 0, 0
    while True:
        code, true, false, operand = steps[place]
        place += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("<I", data, operand)
            case 0x54:
                value &= operand
            case 0x15:
                place += true if value == operand else false
            case 0x35:
                place += true if value >= operand else false
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def decide(
    machine: str, number: int, *arguments: int, writes: bool = True, fork: int | None = None
) -> int:
    program = bpf.assemble(machine, writes=writes, fork=fork)
    six = [value & (2**64 - 1) for value in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number, ARCHITECTURE[machine], 0, *six)
    return evaluate(program, data)


def pick(machine: str, intel: int, arm: int) -> int:
    return intel if machine == "x86_64" else arm


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("numbers", "arguments", "action"),
    [
        ((0, 63), (), bpf.ALLOW),  # read
        ((41, 198), (2, 1), EPERM),  # socket
        ((42, 203), (3,), EPERM),  # connect
        ((53, 199), (socket.AF_UNIX, socket.SOCK_STREAM | 0o2000000), bpf.ALLOW),  # socketpair
        ((53, 199), (socket.AF_UNIX, socket.SOCK_DGRAM), EPERM),
        ((53, 199), (socket.AF_INET, socket.SOCK_STREAM), EPERM),
        ((59, 221), (), EPERM),  # execve
        ((101, 117), (), EPERM),  # ptrace
        ((62, 129), (PID, 9), EPERM),  # kill
        ((234, 131), (PID, PID, 6), EPERM),  # tgkill
        ((56, 220), (0x3D0F00,), bpf.ALLOW),  # clone, a thread
        ((56, 220), (signal.SIGCHLD,), EPERM),  # clone, a process
        ((435, 435), (), ENOSYS),  # clone3
        ((72, 25), (3, 8, 1), EPERM),  # fcntl F_SETOWN
        ((72, 25), (3, 10, 9), EPERM),  # fcntl F_SETSIG
        ((72, 25), (3, 15, 1), EPERM),  # fcntl F_SETOWN_EX
        ((72, 25), (3, 1), bpf.ALLOW),  # fcntl F_GETFD
        ((16, 29), (0, 0x5401), bpf.ALLOW),  # ioctl TCGETS
        ((16, 29), (0, 0x5413), bpf.ALLOW),  # ioctl TIOCGWINSZ, the last of the list
        ((16, 29), (0, 0x5412), EPERM),  # ioctl TIOCSTI
        ((157, 167), (1, signal.SIGKILL), bpf.ALLOW),  # prctl, die with the parent
        ((157, 167), (1, 0), EPERM),  # prctl, do not
        ((157, 167), (15,), bpf.ALLOW),  # prctl, name a thread
        ((157, 167), (22,), EPERM),  # prctl, seccomp
        ((302, 261), (0, 7), bpf.ALLOW),  # prlimit of oneself
        ((302, 261), (1, 7), EPERM),
        ((425, 425), (), EPERM),  # io_uring_setup
        ((9999, 9999), (), ENOSYS),
    ],
)
def test_the_list(
    machine: str, numbers: tuple[int, int], arguments: tuple[int, ...], action: int
) -> None:
    assert decide(machine, pick(machine, *numbers), *arguments) == action


@pytest.mark.parametrize("machine", MACHINES)
def test_writing_needs_a_scratch_folder(machine: str) -> None:
    openat, unlinkat = pick(machine, 257, 56), pick(machine, 263, 35)
    for flags, alone in ((0, bpf.ALLOW), (0o2000000, bpf.ALLOW), (1, EPERM), (2, EPERM)):
        assert decide(machine, openat, 0, 0, flags) == bpf.ALLOW
        assert decide(machine, openat, 0, 0, flags, writes=False) == alone
    for create in (0o100, 0o1000, 0o20000000):
        assert decide(machine, openat, 0, 0, create, writes=False) == EPERM
    assert decide(machine, unlinkat) == bpf.ALLOW
    assert decide(machine, unlinkat, writes=False) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_only_our_own_forks_are_for_the_guard(machine: str) -> None:
    clone = pick(machine, 56, 220)
    assert decide(machine, clone, bpf.FORK_FLAGS, fork=bpf.NOTIFY) == bpf.NOTIFY
    assert decide(machine, clone, bpf.FORK_FLAGS, fork=None) == EPERM
    assert decide(machine, clone, bpf.LIBRARY_FORK_FLAGS, fork=bpf.NOTIFY) == bpf.NOTIFY
    assert decide(machine, clone, bpf.LIBRARY_FORK_FLAGS, fork=bpf.ALLOW) == EPERM
    assert decide(machine, clone, bpf.FORK_FLAGS | 0x100, fork=bpf.NOTIFY) == EPERM


@given(st.sampled_from(MACHINES), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**64 - 1)))
def test_every_call_gets_a_decision(machine: str, number: int, arguments: list[int]) -> None:
    action = decide(machine, number, *arguments[:6])
    assert action in (bpf.ALLOW, EPERM, ENOSYS)


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_is_killed_and_x32_is_denied(machine: str) -> None:
    program = bpf.assemble(machine, writes=True, fork=None)
    assert evaluate(program, struct.pack("<IIQ6Q", 0, 0x40000003, 0, *[0] * 6)) == KILL
    assert decide(machine, 0x40000000) == EPERM
    assert len(program) // 8 < 4096


def test_an_unknown_machine_has_no_filter() -> None:
    assert not bpf.supported("riscv64")
    with pytest.raises(ValueError, match="riscv64"):
        bpf.assemble("riscv64", writes=True, fork=None)
