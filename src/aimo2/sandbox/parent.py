"""The host's side of one zygote: start it, ask it for kernels, notice its death.

Knows no cells. The zygote is our own code and runs no model-written code, but it is the parent of
processes that do: its frames are bounded and checked like any other.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

import psutil

from aimo2.errors import SandboxError, SetupError
from aimo2.sandbox.guest.frames import Decoder, FrameError, encode
from aimo2.sandbox.link import Link, pass_fds

__all__ = ["ZygoteLost", "ZygoteProcess", "interpreter_paths"]

_GUEST: Final = Path(__file__).parent / "guest"
_BOOT: Final = """
import importlib.util, sys
sys.path[:] = {paths!r}
spec = importlib.util.spec_from_file_location(
    "aimo2_guest", {init!r}, submodule_search_locations=[{folder!r}])
guest = importlib.util.module_from_spec(spec)
sys.modules["aimo2_guest"] = guest
spec.loader.exec_module(guest)
from aimo2_guest.zygote import main
main({fd})
"""
_ENVIRONMENT: Final = {
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "PATH": "/nonexistent",
    # The same order of sets in every kernel of every run.
    "PYTHONHASHSEED": "0",
    # One thread a kernel: the cores are shared by cells, and only a single thread can be forked.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "MALLOC_ARENA_MAX": "2",
}
_INHERITED: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")
_EXITS_KEPT: Final = 256
_STDERR_CHARS: Final = 2_000
_PATIENCE: Final = 2.0
_SIGHTINGS: Final = 2
"""Patrols that see a process that nobody knows before it is killed."""
_SIGHTINGS_UNSURE: Final = 60
"""The same while some process is still awaited: longer than any is waited for."""


class ZygoteLost(SandboxError):  # noqa: N818 - reads as a state
    """The zygote is gone; its kernels are too."""


class ZygoteProcess:
    """One zygote. Made with a running event loop; starts at once, in the background."""

    def __init__(self, plan: dict[str, Any], paths: Sequence[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._decoder = Decoder()
        self._ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._spawning: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_id = 0
        self._families: Counter[int] = Counter()
        self._links: set[Link] = set()
        self._exits: OrderedDict[int, int] = OrderedDict()
        self._exit_waiters: dict[int, asyncio.Future[int]] = {}
        self._strangers: Counter[int] = Counter()
        self.lost = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `kill`
        try:
            with theirs:
                self._process = _launch(theirs.fileno(), paths, self._stderr)
        except OSError:
            self._sock.close()
            self._stderr.close()
            raise
        self._loop.add_reader(self._sock, self._on_readable)
        self._sock.send(encode({"op": "start"} | plan))

    @property
    def pid(self) -> int:
        """Process id of what we started."""
        return self._process.pid

    async def ready(self) -> dict[str, Any]:
        """What the zygote says once it is warm. Raises `SetupError` where it does not start."""
        try:
            return await asyncio.shield(self._ready)
        except ZygoteLost as error:
            raise SetupError(f"the sandbox did not start: {self._complaint()}") from error

    async def spawn(self, ends: Sequence[int], seed: int) -> int:
        """Ask for a kernel on these descriptors; returns its family. Raises `SandboxError`."""
        await self.ready()
        if self.lost:
            raise ZygoteLost("the sandbox's parent process died")
        self._next_id += 1
        asked = self._next_id
        self._spawning[asked] = self._loop.create_future()
        try:
            frame = {"op": "spawn", "id": asked, "seed": seed, "family": asked, "fds": len(ends)}
            await pass_fds(self._sock, encode(frame), ends)
            reply = await self._spawning[asked]
        except BaseException as error:
            # Its scratch folder may be mounted by now, and no kernel's end will free it.
            self._tell({"op": "drop", "family": asked})
            if isinstance(error, OSError):
                raise ZygoteLost("the sandbox's parent process died") from error
            raise
        finally:
            del self._spawning[asked]
        if "refused" in reply:
            raise SandboxError(f"no new kernel: {reply['refused']}; close some of them")
        return asked

    def enlist(self, link: Link, family: int) -> None:
        """A kernel belongs to a family; the end of the last one frees their scratch folder."""
        self._families[family] += 1
        self._links.add(link)
        link.family = family
        link.on_dispose = lambda: self._leave(link, family)

    def _leave(self, link: Link, family: int) -> None:
        self._links.discard(link)
        self._families[family] -= 1
        if not self._families[family]:
            del self._families[family]
            self._tell({"op": "drop", "family": family})

    def grant(self, guest_pid: int | None) -> None:
        """Let a kernel fork once."""
        self._tell({"op": "grant", "pid": guest_pid})

    def _tell(self, frame: dict[str, Any]) -> None:
        # A few dozen bytes to a process that does nothing but read them.
        if not self.lost:
            with contextlib.suppress(OSError):
                self._sock.send(encode(frame))

    async def patrol(self) -> None:
        """Kill processes of kernels that no link knows. Called about once a second.

        A cell may keep the one process that it was allowed to make as a fork of its kernel. A
        fork that has yet to greet looks the same: where one is awaited, a stranger has longer.
        """
        if self.lost or not self._ready.done():
            return
        met = self._all_met()
        known = self._known()
        found: set[int] = set()
        for pid in filter(None, (self._kernels_parent(), *known)):
            found |= _children(pid)
            await asyncio.sleep(0)  # there may be many kernels
        strangers = found - known - self._known()
        self._strangers = Counter({pid: self._strangers[pid] + 1 for pid in strangers})
        enough = _SIGHTINGS if met and self._all_met() else _SIGHTINGS_UNSURE
        for pid, times in self._strangers.items():
            if times >= enough:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def _known(self) -> set[int]:
        return {link.pid for link in self._links if link.pid is not None}

    def _all_met(self) -> bool:
        return not self._spawning and all(link.pid is not None for link in self._links)

    def _kernels_parent(self) -> int | None:
        """Process id of the zygote: in a pid namespace, it is the child of what we started."""
        if self._ready.exception() or self._ready.result()["layers"].get("pid namespace") != "":
            return self.pid
        return next(iter(_children(self.pid)), None)

    async def exit_status(self, guest_pid: int | None, patience: float) -> int | None:
        """How a kernel ended, as `os.waitpid` gives it; `None` where that is not known."""
        if guest_pid is None or self.lost:
            return None
        if guest_pid in self._exits:
            return self._exits.pop(guest_pid)
        waiter = self._exit_waiters.setdefault(guest_pid, self._loop.create_future())
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(waiter)
        except TimeoutError:
            return None
        finally:
            self._exit_waiters.pop(guest_pid, None)

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(64 * 1024)
            frames = self._decoder.feed(data) if data else []
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, FrameError):
            data, frames = b"", []
        if not data:
            self._lose()
        for frame in frames:
            self._take(frame)

    def _take(self, frame: dict[str, Any]) -> None:
        match frame:
            case {"op": "ready"} if not self._ready.done():
                self._ready.set_result(frame)
            case {"op": "spawned", "id": int(asked)} if asked in self._spawning:
                if not self._spawning[asked].done():
                    self._spawning[asked].set_result(frame)
            case {"op": "exit", "pid": int(pid), "status": int(status)}:
                self._note_exit(pid, status)

    def _note_exit(self, pid: int, status: int) -> None:
        waiter = self._exit_waiters.get(pid)
        if waiter is not None and not waiter.done():
            waiter.set_result(status)
            return
        self._exits[pid] = status
        while len(self._exits) > _EXITS_KEPT:
            self._exits.popitem(last=False)

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._sock)
        self._sock.close()
        error = ZygoteLost("the sandbox's parent process died")
        for link in tuple(self._links):
            link.give_up("the sandbox's parent process died")
        for future in (self._ready, *self._spawning.values()):
            if not future.done():
                future.set_exception(error)

    async def close(self) -> None:
        """End the zygote and everything below it, and wait until they are gone."""
        warm = self._ready.done()
        self._lose()
        try:
            if warm:  # it has left its imports behind, and sees at once that we are gone
                await asyncio.to_thread(self._process.wait, _PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """The same by force, and wait for the end of the zygote."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        self._lose()
        self._stderr.close()

    def _complaint(self) -> str:
        """The last line that the zygote wrote before it died."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_CHARS))
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"its process ended with {self._process.poll()}"


def _children(pid: int) -> set[int]:
    """Process ids of a process's children; empty where the system does not say."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found.update(map(int, (thread / "children").read_text().split()))
    return found


def _launch(fd: int, paths: Sequence[str], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    boot = _BOOT.format(
        paths=list(paths), init=str(_GUEST / "__init__.py"), folder=str(_GUEST), fd=fd
    )
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # -s -P -S: no user packages, no current folder, no `.pth` files; `paths` is the whole truth.
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-S", "-X", "utf8", "-c", boot],
        env=_ENVIRONMENT | inherited,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        pass_fds=(fd,),
        cwd="/",
        start_new_session=True,
    )


def interpreter_paths() -> list[str]:
    """Where kernels look for modules: the standard library and the installed packages.

    Of this process's `sys.path`, what lies in the Python installation or is a folder of
    packages; the project's own source and the current folder are not for cells.
    """
    library = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    kept = []
    for entry in filter(None, sys.path):
        path = Path(entry).resolve()
        packages = {"site-packages", "dist-packages"} & set(path.parts)
        if path.exists() and (packages or any(path.is_relative_to(root) for root in library)):
            kept.append(str(path))
    return kept
