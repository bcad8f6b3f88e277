"""The zygote: one warm, single-threaded parent that forks a kernel for each request.

Commands from the host, over its only socket: first `{"op": "start", ...}` (see `Plan`), answered
by `{"op": "ready", ...}`; then
`{"op": "spawn", "id", "seed", "family"}` with two descriptors, the kernel's socket and its output
memory, answered by `{"op": "spawned", "id", "pid"}` or `{"op": "spawned", "id", "refused"}`;
`{"op": "grant", "pid"}`: that kernel may fork once; `{"op": "drop", "family"}`: no kernel of the
family is left. The end of any process is told as `{"op": "exit", "pid", "status"}`. When the host
is gone, so are the zygote and everything below it.
"""

import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, NoReturn

from . import namespaces, plots, pools
from .cells import Notebook, reseed
from .guard import ForkGuard
from .kernel import Server, Sides, Wire, die_with_parent
from .layers import Isolation, Outcome, attempt, own_domain
from .native import prctl
from .output import Output
from .pages import collapse
from .probe import Baits, observe
from .scratch import Desk, sweep

__all__ = ["Plan", "main"]

_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_KNOWN_PACKAGES: Final = ("gmpy2", "pandas", "sklearn", "galois", "ortools", "z3")
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_LIBRARY_FILES: Final = ("/etc/ld.so.cache",)
_FIRST_UID: Final = 0x60000000
_LAST_UID: Final = 0x6FFFFFFF
_NOBODY: Final = 65534
_OOM_SCORE: Final = 800
_MIB: Final = 1024 * 1024

_WARM_UP: Final = """
import sympy
_x, _n = sympy.symbols("x n")
str(sympy.factor(_x**6 - 1)); sympy.solve(_x**2 - 3 * _x + 2, _x); sympy.factorint(2**32 + 1)
sympy.simplify((_x**2 - 1) / (_x - 1)); sympy.integrate(_x**2 * sympy.sin(_x), _x)
sympy.expand((_x + 1) ** 5); sympy.Matrix([[1, 2], [3, 4]]).det(); sympy.divisors(360)
sympy.summation(_n**2, (_n, 1, 10)); sympy.Rational(1, 3).evalf(); sympy.sqrt(8).evalf(20)
sympy.groebner([_x**2 - 1, _x - 1], _x); sympy.limit(sympy.sin(_x) / _x, _x, 0); sympy.diff(_x**3)
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
        self.scratch: int = frame["scratch"]
        """Bytes in the scratch folder of a family: a kernel and its forks."""
        self.layers: tuple[str, ...] = tuple(frame["layers"])
        """Layers of isolation to try."""
        self.readable: tuple[str, ...] = (*sys.path, *_LIBRARIES, *_LIBRARY_FILES)
        """What a cell may read."""


class Zygote:
    """The state of the loop."""

    def __init__(self, host: Wire, plan: Plan, views: "Views", uids: range) -> None:
        self.host = host
        self.plan = plan
        self.imported: dict[str, float] = {}
        self.missing: list[str] = []
        self.available: tuple[str, ...] = ()
        self.outcome: Outcome = {}
        self.observed: dict[str, bool] = {}
        self._status, self._maps = views
        self._uids = uids
        self._made = 0
        self._families: set[str] = set()
        """Those with a scratch folder."""
        self._poller = select.poll()
        self._guard = ForkGuard(self._poller, self._catch_up)
        self.isolation = Isolation(plan.layers, plan.readable)

    def prepare(self) -> None:
        """Import and warm up, then put the heap aside so that kernels share it."""
        sys.set_int_max_str_digits(self.plan.digits)
        for name in self.plan.preload:
            self._import(name)
        # What a warning says about old names is noise to a model.
        for category in (DeprecationWarning, PendingDeprecationWarning, SyntaxWarning):
            warnings.simplefilter("ignore", category)
        self._print_plainly()
        if "sympy" in self.imported:
            exec(_WARM_UP, {})
        extra = [name for name in _KNOWN_PACKAGES if _installed(name)]
        self.available = (*(name for name in self.imported if "." not in name), *extra)
        plots.install(self.plan.preload)
        pools.install()
        sys.dont_write_bytecode = True
        self.isolation.limits = self._limits()
        gc.collect()
        gc.freeze()
        if self._maps is not None:
            collapse(self._maps)

    def _import(self, name: str) -> None:
        start = time.perf_counter()
        try:
            importlib.import_module(name)
        except ImportError:
            self.missing.append(name)
        else:
            self.imported[name] = time.perf_counter() - start

    def _print_plainly(self) -> None:
        """`3` and not `np.int64(3)`, also within lists, as before NumPy 2."""
        numpy = sys.modules.get("numpy")
        if numpy is not None and not numpy.__version__.startswith("1."):
            numpy.set_printoptions(legacy="1.25")

    def _limits(self) -> dict[str, int]:
        """Resource limits of a kernel: `RLIMIT_` name -> value."""
        data, size = self._own_memory()
        return {
            "DATA": data + self.plan.memory,
            # Shared mappings are no data; what is mapped in all is bounded too.
            "AS": size + self.plan.memory + 1024 * _MIB,
            "CORE": 0,
            "CPU": 6 * 3600,
            "FSIZE": max(self.plan.scratch, 16 * _MIB),
            "NOFILE": 256,
            # Deep recursion through C code; the gap below the stack is at least 128 MiB.
            "STACK": 100 * _MIB,
        }

    def _own_memory(self) -> tuple[int, int]:
        """(bytes of data, bytes of address space) of this process."""
        fields = {"VmData": 512 * _MIB, "VmSize": 2048 * _MIB}
        if self._status is not None:
            self._status.seek(0)
            for line in self._status.read().splitlines():
                name, _, value = line.partition(":")
                if name in fields:
                    fields[name] = int(value.split()[0]) * 1024
        return fields["VmData"], fields["VmSize"]

    def probe(self, baits: Baits) -> None:
        """Isolate a kernel that runs no cell, and let it attack."""
        reader, writer = os.pipe()
        scratch = self._new_scratch("probe")
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                self._isolate([writer], scratch, None)
                if scratch is not None:
                    Desk(scratch)
                found = observe(baits, os.getppid())
                os.write(writer, json.dumps([self.isolation.outcome, found]).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read()
        os.waitpid(pid, 0)
        self._drop_scratch("probe")
        if said:
            outcome, self.observed = json.loads(said)
            self.outcome.update(outcome)

    def ready(self) -> dict[str, Any]:
        """What the host is told once kernels can be made."""
        return {
            "op": "ready",
            "imported": self.imported,
            "missing": self.missing,
            "available": self.available,
            "layers": self.outcome,
            "observed": self.observed,
        }

    def loop(self) -> None:
        """Serve until the host is gone."""
        wake, wake_write = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        host = self.host.sock.fileno()
        self._poller.register(host, select.POLLIN)
        self._poller.register(wake, select.POLLIN)
        while True:
            events = dict(self._poller.poll())
            # The host first: it grants a fork before it asks the kernel for it.
            if host in events and not self._obey():
                return
            if wake in events:
                with suppress(BlockingIOError):
                    os.read(wake, 4096)
                self._reap()
            for fd, event in events.items():
                if self._guard.owns(fd):
                    self._guard.on_event(fd, event)

    def _catch_up(self) -> None:
        while select.select([self.host.sock.fileno()], [], [], 0)[0] and self._obey():
            pass

    def _obey(self) -> bool:
        """The commands that have come. Returns whether the host is still there."""
        while True:
            received = self.host.receive()
            if received is None:
                return False
            frame, fds = received
            if frame["op"] == "spawn":
                self._spawn(frame, fds)
            elif frame["op"] == "grant":
                self._guard.grant(frame["pid"])
            elif frame["op"] == "drop":
                self._drop_scratch(str(frame["family"]))
            if not self.host.has_frame:
                return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._guard.forget(pid)
            for family in self._families:
                sweep(f"{namespaces.SCRATCH}/{family}", pid)
            self.host.send({"op": "exit", "pid": pid, "status": status})

    def _spawn(self, frame: dict[str, Any], fds: list[int]) -> None:
        answer = {"op": "spawned", "id": frame["id"]}
        family = str(frame["family"])
        try:
            self._made += 1
            scratch = self._new_scratch(family)
            delivery, theirs = socket.socketpair()
            with theirs:
                pid = os.fork()
                if pid == 0:
                    self._become_kernel(frame, fds, scratch, theirs)
            self._guard.expect(delivery)
            answer["pid"] = pid
        except OSError as error:
            answer["refused"] = error.strerror
            self._drop_scratch(family)
        self.host.send(answer)
        for fd in fds:
            os.close(fd)

    def _new_scratch(self, name: str) -> str | None:
        if self.outcome.get("mount namespace") != "" or not self.plan.scratch:
            return None
        folder = namespaces.mount_scratch(name, self.plan.scratch)
        self._families.add(name)
        return folder

    def _drop_scratch(self, name: str) -> None:
        if name in self._families:
            self._families.discard(name)
            namespaces.unmount_scratch(name)

    def _become_kernel(
        self, frame: dict[str, Any], fds: list[int], scratch: str | None, delivery: socket.socket
    ) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            notebook = Notebook(Output(fds[1], self.plan.flood), self.available)
            signal.signal(signal.SIGINT, notebook.interrupt)
            self._isolate(fds[:1], scratch, delivery)
            desk = None if scratch is None else Desk(scratch)
            if desk is not None:
                sys.path.append("")  # modules that a cell writes, in its current folder
            reseed(frame["seed"])
            gc.enable()
            wire = Wire(socket.socket(fileno=fds[0]))
            Server(wire, notebook, lambda: _prepare_fork(desk)).serve()
        finally:
            os._exit(70)

    def _isolate(self, fds: list[int], scratch: str | None, delivery: socket.socket | None) -> None:
        """Close what is not ours, put on the layers, hand over the listener."""
        kept = [*fds, delivery.fileno()] if delivery is not None else fds
        _keep_only(kept)
        self.isolation.scratch = scratch
        self.isolation.uid = self._uids[self._made % len(self._uids)] if self._uids else None
        listener = self.isolation.apply()
        if delivery is not None:
            with delivery:
                if listener is not None:
                    socket.send_fds(delivery, [b"!"], [listener])
        if listener is not None:
            os.close(listener)


def _prepare_fork(desk: Desk | None) -> Sides:
    """Before a fork; what the new kernel then does to itself: its own domain and folder."""
    copy = None if desk is None else desk.copy()

    def settle() -> str:
        own_domain()
        return "" if desk is None or copy is None else desk.move(copy)

    return settle, lambda: None if copy is None else copy.wait()


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


def _mapped_uids() -> range:
    """User ids that kernels may have, one each where there are many; none without root."""
    if os.geteuid() != 0:
        return range(0)
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/uid_map").read_text().splitlines():
            first, _, count = map(int, line.split())
            for uids in (range(_FIRST_UID, _LAST_UID), range(_NOBODY, _NOBODY + 1)):
                if first <= uids[0] and uids[-1] < first + count:
                    return uids
    return range(0)


def _public(path: Path) -> bool:
    """Whether every user can get at the path; one that is not there is not in the way."""
    try:
        return all(step.stat().st_mode & 0o001 for step in path.parents) and bool(
            path.stat().st_mode & 0o004
        )
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _leave_to_child() -> None:
    """Fork into the new pid namespace; the parent only waits, and is what the host knows."""
    child = os.fork()
    if child == 0:
        die_with_parent()
        return
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


class Views(NamedTuple):
    """Files on our own memory, open from before the new root, which has no `/proc`."""

    status: IO[str] | None = None
    maps: IO[str] | None = None


def _enter_namespaces(plan: Plan) -> tuple[Outcome, Views]:
    """Namespaces and the new root."""
    outcome = namespaces.enter(plan.layers)
    if outcome["pid namespace"] == "":
        _leave_to_child()
    views = Views()
    with suppress(OSError):
        views = Views(Path("/proc/self/status").open(), Path("/proc/self/maps").open())  # noqa: SIM115 - kept open for good
    if outcome["mount namespace"] == "":
        attempt(outcome, "mount namespace", lambda: namespaces.make_root(plan.readable))
    return outcome, views


def _kill_everything() -> None:
    """End all descendants. Orphans among them come to us, their nearest subreaper."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with suppress(OSError, ChildProcessError):
        while True:
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            os.wait()


def main(fd: int) -> None:
    """Run a zygote over the host's socket, descriptor `fd`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the host's terminal is the host's
    host = Wire(socket.socket(fileno=fd))
    received = host.receive()
    if received is None:
        return
    plan = Plan(received[0])
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    uids = _mapped_uids()
    baits = Baits()
    try:
        outcome, views = _enter_namespaces(plan)
        with suppress(OSError):
            prctl(_PR_SET_CHILD_SUBREAPER, 1)
            prctl(_PR_SET_DUMPABLE, 0)
        # Looked at in the new root: a folder on the way there may have been closed to others.
        if "user id" not in plan.layers or not all(map(_public, map(Path, plan.readable))):
            uids = range(0)
        zygote = Zygote(host, plan, views, uids)
        zygote.outcome = outcome
        zygote.prepare()
        zygote.probe(baits)
    finally:
        baits.remove()
    host.send(zygote.ready())
    zygote.loop()
    _kill_everything()
