"""The loop of one kernel: read a command, run it, answer. Knows no limits and no layers.

Commands, each answered by one frame with the same `id`:
`{"op": "run", "id", "code"}` -> `{"id", "error", "traceback"}`;
`{"op": "reseed", "id", "seed"}` -> `{"id"}`;
`{"op": "fork", "id"}` with two descriptors -> `{"id"}`, or `{"id", "refused"}`.
A new kernel says `{"op": "hello", "pid"}` first; the host takes its process id from the socket's
credentials, not from this word.
"""

import array
import os
import random
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

from .cells import Notebook, reseed
from .frames import Decoder, encode
from .native import clone_parent, is_raw_fork_known, prctl

__all__ = ["Server", "Sides", "Wire", "die_with_parent"]

_CHUNK: Final = 64 * 1024
_REPLY_CHARS: Final = 6_000
_PR_SET_PDEATHSIG: Final = 1


Sides = tuple[Callable[[], str], Callable[[], None]]
"""(what a new kernel does to itself besides taking up its own socket and memory, and tells its
next cell; what the old one does then)."""


class Wire:
    """Frames and descriptors over a socket, blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._decoder = Decoder()
        self._frames: list[dict[str, Any]] = []
        self._fds: list[int] = []

    def send(self, frame: dict[str, Any]) -> None:
        """All of one frame."""
        self.sock.sendall(encode(frame))

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next frame and its descriptors, `frame["fds"]` of them; `None` at the end."""
        while not self._frames:
            data, fds = _recv_fds(self.sock)
            if not data:
                return None
            self._fds += fds
            self._frames += self._decoder.feed(data)
        frame = self._frames.pop(0)
        count = frame.get("fds", 0)
        fds, self._fds = self._fds[:count], self._fds[count:]
        return frame, fds

    @property
    def has_frame(self) -> bool:
        """Whether `receive` would return at once."""
        return bool(self._frames)


def _recv_fds(sock: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    space = socket.CMSG_SPACE(4 * fds.itemsize)
    data, ancillary, _, _ = sock.recvmsg(_CHUNK, space)
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
    return data, list(fds)


class Server:
    """One kernel's process, from its greeting to its end."""

    def __init__(self, wire: Wire, notebook: Notebook, prepare: Callable[[], Sides]):
        """`prepare`: called before a fork."""
        self._wire = wire
        self._notebook = notebook
        self._prepare = prepare
        self._zygote = os.getppid()
        self._guarded = True  # whether the end of the zygote is our end
        self._children = False  # whether forks of ours are our children and not the zygote's
        die_with_parent()

    def serve(self) -> NoReturn:
        """Answer commands until the host closes the socket."""
        # From here on the process is the cell's; no exit of any kind may run the zygote's code.
        try:
            self._greet()
            while (received := self._wire.receive()) is not None:
                self._look_after_family()
                self._answer(*received)
        finally:
            os._exit(0)

    def _greet(self) -> None:
        self._wire.send({"op": "hello", "pid": os.getpid()})

    def _look_after_family(self) -> None:
        if not self._guarded and os.getppid() == self._zygote:
            self._guarded = True
            die_with_parent()
        if self._children:
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass

    def _answer(self, frame: dict[str, Any], fds: list[int]) -> None:
        reply: dict[str, Any] | None
        if frame["op"] == "run":
            reply = self._run(frame["code"])
        elif frame["op"] == "reseed":
            reseed(frame["seed"])
            reply = {}
        else:
            reply = self._fork(fds)
        if reply is None:
            return
        self._wire.send({"id": frame["id"]} | reply)
        if frame["op"] == "fork":
            # Both processes now share every page. What a cell writes to anyway is parted from
            # the other one's here, while nobody waits.
            self._notebook.rehearse()

    def _run(self, code: str) -> dict[str, Any]:
        self._notebook.output.reset()
        verdict = self._notebook.run(code)
        text = verdict.traceback
        if len(text) > _REPLY_CHARS:
            text = text[: _REPLY_CHARS // 2] + "\n...\n" + text[-_REPLY_CHARS // 2 :]
        return {"error": verdict.error, "traceback": text}

    def _fork(self, fds: list[int]) -> dict[str, Any] | None:
        """The old kernel's reply; `None` in the new one, which has greeted."""
        drawn = random.getstate()
        wait = _nothing
        try:
            settle, wait = self._prepare()
            child = self._split()
        except OSError as error:
            child, reply = -1, {"refused": error.strerror}
        else:
            reply = {}
        if child == 0:
            random.setstate(drawn)  # the module seeds itself anew in every forked process
            self._become(fds, settle)
            return None
        wait()
        for fd in fds:
            os.close(fd)
        return reply

    def _split(self) -> int:
        """Fork; where that is safe, the child's parent is the zygote.

        With several threads, a bytecode between the raw call and Python's own repair of the
        child may wait for a thread that the child does not have. `os.fork` does both in one step.
        """
        if is_raw_fork_known() and len(sys._current_frames()) == 1:
            return clone_parent()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        self._children = True
        return child

    def _become(self, fds: list[int], settle: Callable[[], str]) -> None:
        """In a new kernel: leave the old one's socket and memory, take up its own."""
        self._wire.sock.close()
        self._notebook.after_fork(fds[1])
        self._children = False
        self._guarded = os.getppid() == self._zygote
        if self._guarded:  # else the end of the old kernel would be ours
            die_with_parent()
        self._notebook.notice = settle() or self._notebook.notice
        self._wire = Wire(socket.socket(fileno=fds[0]))
        self._greet()


def _nothing() -> None:
    pass


def die_with_parent() -> None:
    """Have the system kill us when our parent ends, where it can."""
    with suppress(OSError):
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
