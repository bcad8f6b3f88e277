"""The zygote: one warm, single-threaded parent that forks a kernel for each request.

Commands from the host, over its only socket: first `{"op": "start", ...}` (see `Plan`), answered
by `{"op": "ready", ...}`; then `{"op": "spawn", "id", "seed"}` with two descriptors, the kernel's
socket and its output memory, answered by `{"op": "spawned", "id", "pid"}` or `"refused"`. The
death of any kernel is told as `{"op": "exit", "pid", "status"}`. When the host is gone, so are
the zygote and everything below it.
"""

import gc
import importlib
import importlib.util
import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Final, NoReturn, cast

from .cells import Notebook, reseed
from .kernel import Wire, serve
from .native import prctl
from .output import Output

__all__ = ["Plan", "main"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_KNOWN_PACKAGES: Final = ("gmpy2", "matplotlib", "pandas", "sklearn", "galois", "ortools", "z3")

_WARM_UP: Final = """
import sympy
_x, _n = sympy.symbols("x n")
str(sympy.factor(_x**6 - 1)); sympy.solve(_x**2 - 3 * _x + 2, _x); sympy.factorint(2**32 + 1)
sympy.simplify((_x**2 - 1) / (_x - 1)); sympy.integrate(_x**2 * sympy.sin(_x), _x)
sympy.expand((_x + 1) ** 5); sympy.Matrix([[1, 2], [3, 4]]).det(); sympy.divisors(360)
sympy.summation(_n**2, (_n, 1, 10)); sympy.Rational(1, 3).evalf(); sympy.limit(sympy.sin(_x)/_x, _x, 0)
sympy.groebner([_x**2 - 1, _x - 1], _x); sympy.sqrt(8).evalf(20); sympy.diff(_x**3, _x)
"""


class Plan:
    """What the host asks of a zygote, read from its `start` frame."""

    def __init__(self, frame: dict[str, Any]) -> None:
        self.preload: tuple[str, ...] = tuple(frame["preload"])
        """Modules to import; missing ones are reported, not an error."""
        self.memory: int = frame["memory"]
        """Bytes that a kernel may add to what it inherits."""
        self.flood: int = frame["flood"]
        """Bytes of output after which a cell is stopped."""
        self.digits: int = frame["digits"]
        """Largest integer that is turned into text, in digits."""
        self.warm: bool = frame["warm"]
        """Whether to run a little SymPy first, so that kernels share its caches."""


class Zygote:
    """The state of the loop."""

    def __init__(self, host: Wire, plan: Plan) -> None:
        self.host = host
        self.plan = plan
        self.imported: dict[str, float] = {}
        self.missing: list[str] = []
        self.available: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Import and warm up, then put the heap aside so that kernels share it."""
        sys.set_int_max_str_digits(self.plan.digits)
        for name in self.plan.preload:
            self._import(name)
        if self.plan.warm and "sympy" in self.imported:
            exec(_WARM_UP, {})
        extra = [name for name in _KNOWN_PACKAGES if _installed(name)]
        self.available = (*self.imported, *extra)
        gc.collect()
        gc.freeze()

    def _import(self, name: str) -> None:
        start = time.perf_counter()
        try:
            importlib.import_module(name)
        except ImportError:
            self.missing.append(name)
        else:
            self.imported[name] = time.perf_counter() - start

    def ready(self) -> dict[str, Any]:
        """What the host is told once kernels can be made."""
        return {
            "op": "ready",
            "pid": os.getpid(),
            "imported": self.imported,
            "missing": self.missing,
            "available": self.available,
        }

    def loop(self) -> None:
        """Serve until the host is gone."""
        wake, wake_write = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        while True:
            readable, _, _ = select.select([self.host.sock, wake], [], [])
            if wake in readable:
                with suppress(BlockingIOError):
                    os.read(wake, 4096)
                self._reap()
            if self.host.sock in readable:
                received = self.host.receive()
                if received is None:
                    return
                self._spawn(*received)
                while self.host.has_frame:
                    self._spawn(*cast("tuple[dict[str, Any], list[int]]", self.host.receive()))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.host.send({"op": "exit", "pid": pid, "status": status})

    def _spawn(self, frame: dict[str, Any], fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self.host.send({"op": "spawned", "id": frame["id"], "refused": str(error)})
        else:
            if pid == 0:
                self._become_kernel(frame, fds)
            self.host.send({"op": "spawned", "id": frame["id"], "pid": pid})
        for fd in fds:
            os.close(fd)

    def _become_kernel(self, frame: dict[str, Any], fds: list[int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            _keep_only(fds)
            notebook = Notebook(Output(fds[1], self.plan.flood), self.available)
            signal.signal(signal.SIGINT, notebook.interrupt)
            self._limit()
            reseed(frame["seed"])
            _settle()
            gc.enable()
            serve(Wire(socket.socket(fileno=fds[0])), notebook, self.plan.flood, _settle)
        finally:
            os._exit(70)

    def _limit(self) -> None:
        inherited = _status_bytes("VmData")
        for name, value in (
            ("RLIMIT_DATA", inherited + self.plan.memory),
            ("RLIMIT_CORE", 0),
            ("RLIMIT_NOFILE", 256),
        ):
            with suppress(OSError, ValueError, AttributeError):
                resource.setrlimit(getattr(resource, name), (value, value))


def _settle() -> None:
    if sys.platform == "linux":
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _status_bytes(field: str) -> int:
    with suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 512 * 1024 * 1024


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _keep_only(fds: list[int]) -> None:
    """Close every descriptor but these and 0 to 2, which become `/dev/null`."""
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    last = 3
    for fd in [*sorted(fds), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(last, fd)
        last = fd + 1


def main(fd: int) -> None:
    """Run a zygote over the host's socket, descriptor `fd`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the host's terminal is the host's
    host = Wire(socket.socket(fileno=fd))
    received = host.receive()
    if received is None:
        return
    if sys.platform == "linux":
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
    zygote = Zygote(host, Plan(received[0]))
    zygote.prepare()
    host.send(zygote.ready())
    zygote.loop()
