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
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from .cells import Notebook, reseed
from .frames import Decoder, encode
from .native import MACHINE, clone_parent
from .output import Output

__all__ = ["Wire", "serve"]

_CHUNK: Final = 256 * 1024
_REPLY_CHARS: Final = 6_000


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


def serve(wire: Wire, notebook: Notebook, flood: int, settle: Callable[[], None]) -> NoReturn:
    """Serve commands until the host closes the socket. `settle`: what a fork does to itself."""
    # From here on the process is the cell's; an exit of any kind must not run the zygote's code.
    try:
        wire.send({"op": "hello", "pid": os.getpid()})
        while (received := wire.receive()) is not None:
            wire = _answer(wire, notebook, flood, settle, *received)
    finally:
        os._exit(0)


def _answer(
    wire: Wire,
    notebook: Notebook,
    flood: int,
    settle: Callable[[], None],
    frame: dict[str, Any],
    fds: list[int],
) -> Wire:
    """Answer one command; returns the wire to go on with, a new one in a new kernel."""
    if frame["op"] == "run":
        notebook.output.reset()
        verdict = notebook.run(frame["code"])
        text = verdict.traceback
        if len(text) > _REPLY_CHARS:
            text = text[: _REPLY_CHARS // 2] + "\n...\n" + text[-_REPLY_CHARS // 2 :]
        wire.send({"id": frame["id"], "error": verdict.error, "traceback": text})
        return wire
    if frame["op"] == "reseed":
        reseed(frame["seed"])
        wire.send({"id": frame["id"]})
        return wire
    drawn = random.getstate()
    try:
        child = _fork_sibling()
    except OSError as error:
        for fd in fds:
            os.close(fd)
        wire.send({"id": frame["id"], "refused": f"{error.strerror} (fork)"})
        return wire
    if child:
        for fd in fds:
            os.close(fd)
        wire.send({"id": frame["id"]})
        return wire
    random.setstate(drawn)  # the module seeds itself anew in every forked process
    return _become(wire, notebook, flood, settle, fds)


def _become(
    wire: Wire,
    notebook: Notebook,
    flood: int,
    settle: Callable[[], None],
    fds: list[int],
) -> Wire:
    """In a new kernel: leave the old one's socket and memory, take up its own."""
    wire.sock.close()
    notebook.output.detach_memory()
    notebook.after_fork(Output(fds[1], flood))
    settle()
    own = Wire(socket.socket(fileno=fds[0]))
    own.send({"op": "hello", "pid": os.getpid()})
    return own


def _fork_sibling() -> int:
    """Fork so that the child's parent is this process's parent, the zygote.

    The zygote then reaps it, and its parent-death signal means the zygote's death, not ours.
    """
    if MACHINE in ("x86_64", "aarch64") and sys.platform == "linux":
        return clone_parent()
    return _fork_twice()


def _fork_twice() -> int:
    # The child of a child that ends at once goes to the nearest subreaper: the zygote.
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return middle
    try:
        inner = os.fork()
    except OSError:
        os._exit(1)
    if inner:
        os._exit(0)
    return 0
