"""One kernel as its user sees it: cells in order, forks, recovery. Knows no wire format.

A kernel outlives its process. Where a cell kills it, the kernel goes on from the checkpoint (a
fork made before the cell), and where there is none, it says that its variables are gone and
starts again empty.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from aimo2.deadline import NEVER, Deadline
from aimo2.errors import SandboxError
from aimo2.sandbox import CellResult
from aimo2.sandbox.guest.frames import MAX_FRAME
from aimo2.sandbox.link import Link, LinkLost
from aimo2.sandbox.parent import ZygoteProcess
from aimo2.types import ErrorKind

if TYPE_CHECKING:
    from aimo2.sandbox.forkserver import ForkSandbox

__all__ = ["ForkKernel"]

_GRACE: Final = 0.5
"""Seconds between the interrupt of a cell and the kill of its process."""
_AGAIN: Final = 0.15
"""Seconds between interrupts: a cell's own `except:` may swallow the first."""
_FORK_SECONDS: Final = 5.0
_EXIT_PATIENCE: Final = 0.2
_MAX_CODE: Final = MAX_FRAME // 16
"""Characters; one takes up to twelve bytes in a frame."""
_MAX_TRACEBACK: Final = 8_000
_KINDS: Final = frozenset(get_args(ErrorKind))
_TOO_LATE: Final = "TimeoutError: no time was left to start the cell"
_LOST: Final = "all variables are gone"
_KEPT: Final = "variables are as they were before this cell"


class ForkKernel:
    """One kernel of a `ForkSandbox`; see `aimo2.sandbox.Kernel` for its methods' contracts."""

    def __init__(self, sandbox: "ForkSandbox", link: Link, zygote: ZygoteProcess) -> None:
        self._sandbox = sandbox
        self._link = link
        self._zygote = zygote
        self._checkpoint: Link | None = None
        self._changed = True  # whether a cell ran since the checkpoint
        self._lock = asyncio.Lock()
        self._closed = False
        self._told = False  # whether the user knows that the process is gone
        self._renewal: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, for records and tests; `None` where there is no process now."""
        return None if self._link.lost else self._link.pid

    async def run(
        self, code: str, *, timeout: float | None = None, deadline: Deadline = NEVER
    ) -> CellResult:
        """Run one cell. `timeout`: seconds; `None` takes the configuration's."""
        self._require_open()
        if len(code) > _MAX_CODE:
            text = f"SyntaxError: a cell may have {_MAX_CODE:,} characters, not {len(code):,}"
            return CellResult("", "syntax", text)
        if deadline.remaining() <= 0:
            return CellResult("", "timeout", _TOO_LATE)
        try:
            async with asyncio.timeout_at(deadline.when()):
                unheard = await self._take_turn()
        except TimeoutError:
            return CellResult("", "timeout", _TOO_LATE)
        if unheard is not None:
            self._end_turn()
            return unheard
        cell = _Cell(self._link, self._end_turn)
        limit = self._sandbox.config.cell_timeout if timeout is None else timeout
        await cell.start(code, min(limit, deadline.remaining()))
        return await self._finish(cell)

    async def _take_turn(self) -> CellResult | None:
        """Wait for the kernel and for a core, and have a process with a checkpoint.

        A result where the process was lost and nobody has been told.
        """
        await self._lock.acquire()
        try:
            await self._sandbox.turns.acquire()
            try:
                self._require_open()
                unheard = await self._revive() if self._link.lost else None
                await self._renew()
            except BaseException:
                self._sandbox.turns.release()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._changed = True
        return unheard

    def _end_turn(self) -> None:
        self._sandbox.turns.release()
        self._lock.release()

    async def _revive(self) -> CellResult | None:
        """A process for a kernel that has lost its own between cells."""
        text = f"the interpreter was lost between cells ({self._link.why}): "
        if await self._promote():
            # Without a cell since the checkpoint, nothing at all is lost.
            text += "the last cell is undone, and this one was not run"
            return CellResult("", "died", text) if self._changed else None
        link, zygote = await self._sandbox.new_link()
        self._link.dispose()
        self._link, self._zygote = link, zygote
        told, self._told = self._told, False
        text += f"{_LOST}, and this cell was not run"
        return None if told else CellResult("", "died", text, state_lost=True)

    async def _promote(self) -> bool:
        """Go on from the checkpoint, if it is alive."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None:
            return False
        try:
            async with asyncio.timeout(_FORK_SECONDS):
                await checkpoint.greeted()
        except (TimeoutError, LinkLost):
            checkpoint.dispose()
            return False
        except BaseException:
            self._checkpoint = checkpoint
            raise
        if self._closed:
            checkpoint.dispose()
            return False
        self._link.dispose()
        self._link = checkpoint
        return True

    async def _renew(self) -> None:
        """Make a checkpoint, where the last one is not the state of now."""
        stale = self._changed or self._checkpoint is None or self._checkpoint.lost
        if not self._sandbox.checkpoints or not stale or self._link.lost:
            return
        if self._checkpoint is not None:
            self._checkpoint.dispose()
            self._checkpoint = None
        try:
            # It need not have greeted: this kernel can go on meanwhile.
            self._checkpoint = await self._fork_link()
        except SandboxError:
            return  # a kernel that cannot be forked now runs without
        self._changed = False

    def _renew_soon(self) -> None:
        # While the model thinks about the output, so that the next cell need not wait.
        if self._sandbox.checkpoints and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew_when_idle())

    async def _renew_when_idle(self) -> None:
        async with self._lock:  # noqa: SIM117 - what is stopped is known only inside
            # To fork a kernel with threads is to let them run: that takes a turn like a cell.
            async with self._sandbox.turns if self._link.stopped else contextlib.nullcontext():
                if not self._closed:
                    await self._renew()

    async def _finish(self, cell: "_Cell") -> CellResult:
        try:
            reply = await cell.answer
        except LinkLost:
            return await self._epitaph(cell)
        except asyncio.CancelledError:
            cell.stop()
            raise
        output, dropped = self._link.read_output()
        self._link.calm()
        cell.settle()
        self._renew_soon()
        error, text = _checked(reply)
        return CellResult(output, error, text, cell.seconds, dropped)

    async def _epitaph(self, cell: "_Cell") -> CellResult:
        """The result of a cell whose process is gone."""
        try:
            self._require_open()
            output, dropped = self._link.read_output()
            kind, text = await self._cause(cell)
            self._require_open()
            kept = await self._promote()
        finally:
            cell.settle()
        self._told = not kept
        text += f"; {_KEPT if kept else _LOST}"
        return CellResult(output, kind, text, cell.seconds, dropped, state_lost=not kept)

    async def _cause(self, cell: "_Cell") -> tuple[ErrorKind, str]:
        if self._link.unsent:
            return "died", f"the interpreter was lost before this cell ({self._link.why})"
        if cell.killed:
            return "timeout", "TimeoutError: the cell ran out of time and had to be killed"
        status = await self._zygote.exit_status(self._link.guest_pid, _EXIT_PATIENCE)
        return _cause(status, self._link.why)

    async def fork(self, *, reseed: int | None = None) -> "ForkKernel":
        """A second kernel with the same namespace."""
        self._require_open()
        async with self._lock:
            self._require_open()
            link = await self._sibling()
            try:
                async with asyncio.timeout(_FORK_SECONDS):
                    await link.greeted()
                    if reseed is not None:
                        await (await link.ask({"op": "reseed", "seed": reseed}))
            except (TimeoutError, LinkLost) as error:
                link.give_up("the new process did not greet")
                link.dispose()
                raise SandboxError(f"the kernel cannot be forked: {link.why}") from error
            except BaseException:
                link.dispose()
                raise
        self._renew_soon()
        kernel = ForkKernel(self._sandbox, link, self._zygote)
        try:
            self._sandbox.adopt(kernel)
        except SandboxError:
            link.dispose()
            raise
        return kernel

    async def _sibling(self) -> Link:
        """A process with the same namespace; the checkpoint, if it is of now, is one."""
        if self._link.lost and (self._changed or not await self._promote()):
            raise SandboxError("the kernel cannot be forked: its interpreter was lost")
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None and not checkpoint.lost and not self._changed:
            return checkpoint
        if checkpoint is not None:
            checkpoint.dispose()
        return await self._fork_link()

    async def _fork_link(self) -> Link:
        """A process with the same namespace, which may not have greeted yet."""
        child = self._sandbox.open_link()
        self._zygote.enlist(child, self._link.family)
        try:
            async with asyncio.timeout(_FORK_SECONDS):
                self._zygote.grant(self._link.guest_pid)
                answer = await self._link.ask({"op": "fork"}, child.ends)
                child.close_ends()
                reply = await answer
                self._link.calm()
                if "refused" in reply:
                    raise SandboxError(f"the kernel cannot be forked: {reply['refused']!s:.200}")
        except BaseException as error:
            child.dispose()
            if isinstance(error, SandboxError) and not isinstance(error, LinkLost):
                raise
            # Its answer may still come, to nobody: this process cannot be talked to any more.
            self._link.give_up("it did not answer a fork")
            if isinstance(error, TimeoutError | LinkLost):
                raise SandboxError(f"the kernel cannot be forked: {self._link.why}") from error
            raise
        return child

    async def close(self) -> None:
        """Kill the process. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
        self._link.dispose()
        if self._checkpoint is not None:
            self._checkpoint.dispose()
        self._sandbox.forget(self)

    def patrol(self) -> None:
        """See to it that the processes are idle where they should be."""
        self._link.patrol()
        if self._checkpoint is not None:
            self._checkpoint.patrol()

    def _require_open(self) -> None:
        if self._closed:
            raise SandboxError("the kernel is closed: create a new one")


class _Cell:
    """One running cell: its answer, its clock, and what happens when its time is over."""

    def __init__(self, link: Link, release: Callable[[], None]) -> None:
        self._link = link
        self._release: Callable[[], None] | None = release
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._begun = self._loop.time()
        self._ended: float | None = None
        self._abandoned = False
        self.killed = False
        self.answer: asyncio.Future[dict[str, Any]]

    async def start(self, code: str, limit: float) -> None:
        """Send the cell. From `limit` seconds on it is interrupted, then killed."""
        self._link.reset_output()
        self._timer = self._loop.call_later(limit, self._interrupt, self._begun + limit + _GRACE)
        self._link.on_answer = self._on_answer
        try:
            self.answer = await self._link.ask({"op": "run", "code": code})
        except BaseException:
            # What the kernel got of the cell is unknown.
            self._link.give_up("the cell was cancelled while it was sent")
            self.settle()
            raise

    def _on_answer(self) -> None:
        self._ended = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
        if self._abandoned:
            self._link.calm()
            self.settle()

    def _interrupt(self, kill_at: float) -> None:
        now = self._loop.time()
        if now >= kill_at:
            self.killed = True
            self._link.give_up("the cell ran out of time")
            return
        self._link.signal(signal.SIGINT)
        self._timer = self._loop.call_at(min(kill_at, now + _AGAIN), self._interrupt, kill_at)

    def stop(self) -> None:
        """Nobody waits any more: interrupt now, and free the kernel when it has answered."""
        if self._ended is not None:
            self.settle()
            return
        self._abandoned = True
        if self._timer is not None:
            self._timer.cancel()
        self._interrupt(self._loop.time() + _GRACE)

    def settle(self) -> None:
        """Let the next cell have its turn. Idempotent."""
        release, self._release = self._release, None
        if release is not None:
            release()

    @property
    def seconds(self) -> float:
        """Wall-clock time from sending the cell to its answer."""
        return (self._loop.time() if self._ended is None else self._ended) - self._begun


def _checked(reply: dict[str, Any]) -> tuple[ErrorKind | None, str]:
    """The kernel's own words on its cell, as far as they can be true."""
    error, text = reply.get("error"), reply.get("traceback")
    if error is None:
        return None, ""
    known = isinstance(error, str) and error in _KINDS
    kind = cast(ErrorKind, error) if known else "other"
    if not isinstance(text, str):
        return kind, ""
    # Half a surrogate pair could not be stored as UTF-8.
    return kind, text[:_MAX_TRACEBACK].encode("utf-8", "backslashreplace").decode()


def _cause(status: int | None, why: str) -> tuple[ErrorKind, str]:
    """(kind, sentence) for a process that ended under its cell."""
    if status is None:
        return "died", f"the interpreter died: {why}"
    if os.WIFEXITED(status):
        return "died", f"the cell ended the interpreter (exit code {os.WEXITSTATUS(status)})"
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL:
        return "memory", "MemoryError: the interpreter was killed, most likely for its memory"
    if number == getattr(signal, "SIGXCPU", None):
        return "timeout", "TimeoutError: the interpreter used up its processor time"
    return "died", f"the interpreter crashed ({_signal_name(number)})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
