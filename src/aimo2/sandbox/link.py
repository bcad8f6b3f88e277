"""One connection to one kernel process: its socket, its output memory, its process id.

Knows no limits, no queues and no notebooks. What the kernel sends is hostile: a frame that was
not asked for, is too large or is not a frame ends this kernel and nothing else.
"""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from aimo2.errors import SandboxError
from aimo2.sandbox.guest.frames import Decoder, FrameError, encode
from aimo2.sandbox.guest.output import HEADER, assemble, written

__all__ = ["Link", "LinkLost", "pass_fds"]

_CHUNK: Final = 16 * 1024
_REPLY_LIMIT: Final = 64 * 1024
_IDLE_SECONDS: Final = 0.05
"""Processor seconds between two patrols that are too many for an idle kernel."""
_MARK: Final = "\n[... {} bytes dropped ...]\n"
_MARK_ROOM: Final = 64
_FIRST_LOOK: Final = 4096
"""Bytes of the output memory that are read at once; few cells print more."""
_CREDENTIALS: Final = struct.Struct("3i")


class LinkLost(SandboxError):  # noqa: N818 - reads as a state
    """The kernel's process is gone or has broken the protocol."""


class Link:
    """The host's end of one kernel. `ends` are the kernel's: pass them on, then close them."""

    def __init__(self, output_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        if sys.platform == "linux":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._size = HEADER + output_bytes - _MARK_ROOM
        self._memory = _shared_memory(self._size)
        self.ends: list[int] = [theirs.detach(), os.dup(self._memory)]
        self._decoder = Decoder(_REPLY_LIMIT)
        self._waiting: asyncio.Future[dict[str, Any]] | None = None
        self.on_answer: Callable[[], None] | None = None
        """Called once, within the event that brings the answer to what was asked, or the loss."""
        self._pidfd: int | None = None
        self._next_id = 0
        self._expected_id: int | None = None
        self.stopped = False
        """Whether it stands still until the next command."""
        self._ticks: tuple[int, float] | None = None
        self.pid: int | None = None
        """Process id in the host's view; `None` before the kernel's greeting."""
        self.family = 0
        """The kernel and its forks, as the zygote counts them."""
        self.on_dispose: Callable[[], None] | None = None
        """Called once, when the link is disposed of."""
        self.guest_pid: int | None = None
        """Process id in the zygote's view; `None` before the kernel's greeting."""
        self.unsent = False
        """Whether the last command did not reach it."""
        self.lost = False
        """Whether the kernel is gone, or was given up."""
        self.why = ""
        """One line, where it is lost."""
        self._greeting = self._expect()
        self._loop.add_reader(self._sock, self._on_readable)

    def close_ends(self) -> None:
        """Close the kernel's ends here."""
        while self.ends:
            os.close(self.ends.pop())

    async def greeted(self) -> None:
        """Wait until the kernel is ready. Raises `LinkLost`. May be called more than once."""
        if self.lost:
            raise LinkLost(self.why)
        if self.guest_pid is None:
            await asyncio.shield(self._greeting)

    def _meet(self, frame: dict[str, Any]) -> None:
        """Take in the greeting. Raises `LinkLost`."""
        said = frame.get("pid")
        if sys.platform != "linux" and isinstance(said, int):
            self.pid = said
        if frame.get("op") != "hello" or not isinstance(said, int) or self.pid is None:
            raise LinkLost("it did not greet")
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(self.pid)
        # The zygote lets processes fork by this number: a kernel may not name another one's.
        self.guest_pid = _innermost_pid(self.pid) or said

    async def ask(
        self, frame: dict[str, Any], fds: Sequence[int] = ()
    ) -> asyncio.Future[dict[str, Any]]:
        """Send a command; the future is its answer, or fails with `LinkLost`.

        One at a time: the next command has to wait for it. Cancelling the future does not take
        the command back.
        """
        if self.stopped:
            self.stopped = False
            self.signal(signal.SIGCONT)
        self._next_id += 1
        self._expected_id = self._next_id
        answer = self._expect()
        data = encode(frame | {"id": self._next_id, "fds": len(fds)})
        try:
            if fds:
                await pass_fds(self._sock, data, fds)
            else:
                await self._loop.sock_sendall(self._sock, data)
        except OSError as error:
            self.unsent = True
            self.give_up(f"its socket is closed: {error.strerror}")
        return answer

    def _expect(self) -> asyncio.Future[dict[str, Any]]:
        assert self._waiting is None, "one command at a time"
        answer = self._waiting = self._loop.create_future()
        if self.lost:
            self._fail()
        return answer

    def _fail(self) -> None:
        """Whoever waits learns that the kernel is lost."""
        answer, self._waiting = self._waiting, None
        if answer is None:
            return
        if not answer.done():
            answer.set_exception(LinkLost(self.why))
            answer.exception()  # a failure that nobody is left to hear is not worth a warning
        self._tell()

    def _tell(self) -> None:
        told, self.on_answer = self.on_answer, None
        if told is not None:
            told()

    def _on_readable(self) -> None:
        try:
            data = self._read()
            frames = self._decoder.feed(data) if data else []
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, frames = b"", []
        except FrameError as error:
            self.give_up(f"it broke the protocol: {error}")
            return
        if not data:
            self.give_up("its process ended")
        for frame in frames:
            self._take(frame)

    def _take(self, frame: dict[str, Any]) -> None:
        answer = self._waiting
        if answer is None:
            self.give_up("it spoke without being asked")
        elif self._expected_id is not None and frame.get("id") != self._expected_id:
            self.give_up("it answered another command than the one asked")
        elif self.guest_pid is None:
            try:
                self._meet(frame)
            except LinkLost as error:
                self.give_up(str(error))
            else:
                self._hand_over(answer, frame)
        else:
            self._hand_over(answer, frame)

    def _hand_over(self, answer: asyncio.Future[dict[str, Any]], frame: dict[str, Any]) -> None:
        self._waiting = None
        if not answer.done():
            answer.set_result(frame)
        self._tell()

    def _read(self) -> bytes:
        if self.pid is not None or sys.platform != "linux":
            return self._sock.recv(_CHUNK)
        # The first bytes carry the sender's process id, which the system vouches for.
        data, ancillary, _, _ = self._sock.recvmsg(_CHUNK, socket.CMSG_SPACE(_CREDENTIALS.size))
        for level, kind, payload in ancillary:
            if data and (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                # Without data there is no sender, and the system says 0: never signal that, it
                # would mean our own process group.
                self.pid = _CREDENTIALS.unpack(payload)[0] or None
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        return data

    def reset_output(self) -> None:
        """Forget what was printed: what a lost kernel printed last must not be read twice."""
        os.pwrite(self._memory, bytes(HEADER), 0)

    def read_output(self) -> tuple[str, int]:
        """What the last cell printed, cut in the middle, and how many bytes that cost."""
        # Read, never mapped: the kernel could shorten a mapping under us.
        memory = os.pread(self._memory, _FIRST_LOOK, 0).ljust(HEADER, b"\0")
        if HEADER + written(memory) > len(memory):
            memory = os.pread(self._memory, self._size, 0).ljust(self._size, b"\0")
        first, last, dropped = assemble(memory, self._size)
        if not dropped:
            return first.decode("utf-8", "replace"), 0
        # A cut in the middle of a character costs that character.
        parts = first.decode("utf-8", "ignore"), last.decode("utf-8", "ignore")
        return _MARK.format(dropped).join(parts), dropped

    def signal(self, number: int) -> None:
        """Send a signal to the kernel's process; nothing where it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.pid is not None and self.pid > 1 and not self.lost:
                os.kill(self.pid, number)

    def calm(self) -> None:
        """Stop a kernel that has answered but still has threads, until the next command."""
        try:
            threads = os.stat(f"/proc/{self.pid}/task").st_nlink - 2  # noqa: PTH116 - for each cell
        except OSError:  # gone, or not Linux
            return
        if threads > 1:
            self.stopped = True
            self.signal(signal.SIGSTOP)

    def patrol(self) -> None:
        """Stop a kernel that uses the processor though nothing was asked of it.

        A cell may forge an answer and go on. Called about once a second.
        """
        if self.lost or self.stopped or self._waiting is not None:
            self._ticks = None
            return
        used = _processor_seconds(self.pid)
        before, self._ticks = self._ticks, (self._next_id, used)
        if before is not None and before[0] == self._next_id and used - before[1] > _IDLE_SECONDS:
            self.stopped = True
            self.signal(signal.SIGSTOP)

    def give_up(self, why: str) -> None:
        """Kill the kernel and fail whoever waits for it. Idempotent."""
        if self.lost:
            return
        self.signal(signal.SIGKILL)
        self.lost = True
        self.why = why
        self._loop.remove_reader(self._sock)
        self._sock.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self._fail()

    def dispose(self) -> None:
        """Kill the kernel and free everything. The output cannot be read afterwards."""
        self.give_up("it was closed")
        self.close_ends()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        told, self.on_dispose = self.on_dispose, None
        if told is not None:
            told()


def _innermost_pid(pid: int | None) -> int | None:
    """Process id in the namespace that the process itself is in; `None` where it is not told."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("NSpid:")), "")
    return int(line.split()[-1]) if line else None


def _processor_seconds(pid: int | None) -> float:
    """Processor time of a process and its threads; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def pass_fds(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """Send a small message with descriptors over a non-blocking socket."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            sent = socket.send_fds(sock, [data], list(fds))
            break
        except (BlockingIOError, InterruptedError):
            await _writable(loop, sock)
    await loop.sock_sendall(sock, data[sent:])


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = loop.create_future()

    def on_writable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock, on_writable)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


def _shared_memory(size: int) -> int:
    """A descriptor of zeroed memory that can neither grow nor shrink, where the system has it."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    import fcntl

    fd = os.memfd_create("aimo2-output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
