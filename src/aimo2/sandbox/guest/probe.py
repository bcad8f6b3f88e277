"""Attack the sandbox from inside a kernel, harmlessly, and say what held. Knows no layers.

What is reported as closed was observed closed on this machine, in a process isolated like every
kernel, not concluded from the layers that went on.
"""

import ctypes
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Baits", "observe"]

_PTRACE_SEIZE: Final = 0x4206


class Baits:
    """Things outside the sandbox that an attack would find. Made before any layer."""

    def __init__(self) -> None:
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with suppress(OSError):  # a machine without a loopback interface
            self._listener.bind(("127.0.0.1", 0))
            self._listener.listen(1)
        self.port: int = self._listener.getsockname()[1]
        folder = tempfile.gettempdir()
        # By descriptor: from the root that we move to, the path leads elsewhere.
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._name = f"aimo2-bait-{os.getpid()}"
        self.file = str(Path(folder) / self._name)
        Path(self.file).write_bytes(b"secret")
        self.outsider = os.getppid()
        """A process outside: the host."""

    def remove(self) -> None:
        """Take them away."""
        self._listener.close()
        with suppress(OSError):
            os.unlink(self._name, dir_fd=self._folder)
        os.close(self._folder)


def observe(baits: Baits, zygote: int) -> dict[str, bool]:
    """Property -> whether it held. `zygote`: process id of our parent as we see it."""
    attacks: dict[str, tuple[Callable[[], object], ...]] = {
        "network": (
            lambda: _connect(socket.AF_INET, ("127.0.0.1", baits.port)),
            lambda: _connect(socket.AF_INET6, ("::1", baits.port)),
            _send_datagram,
        ),
        "reads": (
            lambda: Path("/etc/passwd").read_bytes(),
            lambda: Path(baits.file).read_bytes(),
            lambda: Path(f"/proc/{zygote}/environ").read_bytes(),
        ),
        "writes": (
            lambda: Path(baits.file).write_bytes(b""),
            lambda: Path("/tmp/aimo2-probe").touch(exist_ok=False),
        ),
        "signals": (lambda: os.kill(zygote, 0), lambda: os.kill(baits.outsider, 0)),
        "memory of others": (lambda: _seize(zygote), lambda: _seize(baits.outsider)),
        "processes": (_fork,),
        # Last: where it succeeds, this process is another program.
        "programs": (_execute,),
    }
    return {name: all(_held(attack) for attack in parts) for name, parts in attacks.items()}


def _held(attack: Callable[[], object]) -> bool:
    try:
        attack()
    except OSError:
        return True
    return False


def _connect(family: int, address: tuple[str, int]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.5)
        sock.connect(address)


def _send_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", ("127.0.0.1", 9))


def _seize(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_SEIZE, pid, None, None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _execute() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
