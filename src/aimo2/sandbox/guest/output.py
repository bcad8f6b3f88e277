"""Bounded output of a cell in memory shared with the host. Knows no cells.

The memory outlives the kernel, so that what was printed before a kill is not lost, and its size
is fixed, so that a flood costs the host nothing. Layout: eight bytes, little-endian, the number
of bytes ever written; then the first half of what was written; then a ring with the last half.
"""

import io
import mmap
import os
import struct
import sys
import threading
from typing import Final

__all__ = ["HEADER", "Output", "OutputFlood", "assemble", "written"]

HEADER: Final = 8
"""Bytes before the data."""

_COUNT: Final = struct.Struct("<Q")


class OutputFlood(BaseException):
    """The cell wrote so much that it is stopped. Not an `Exception`: a cell must not eat it."""


class Output(io.TextIOBase):
    """`sys.stdout` and `sys.stderr` of a cell: what is written lands in the shared memory."""

    def __init__(self, fd: int, flood: int) -> None:
        """`fd`: the shared memory, closed here. `flood`: bytes after which writing raises."""
        self._flood = flood
        self._left_behind: dict[int, threading.Thread | None] = {}
        self._bytes = _Bytes(self)
        self.total = 0
        self._take_memory(fd)

    def _take_memory(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)
        data = len(self._memory) - HEADER
        self._head = data // 2
        self._ring = data - self._head

    def move(self, fd: int) -> None:
        """In a forked kernel: from now on write there; the old memory is the other kernel's.

        The object stays: logging handlers and variables of the cells go on writing to it.
        """
        self._memory.close()
        self._take_memory(fd)

    def reset(self) -> None:
        """Forget what was written, and from now on what threads that run now will write.

        They belong to earlier cells: their words are no part of the next cell's output.
        """
        own = threading.get_ident()
        known = threading._active  # type: ignore[attr-defined] # none where a module made it
        self._left_behind = {
            ident: known.get(ident) for ident in sys._current_frames() if ident != own
        }
        self.total = 0
        _COUNT.pack_into(self._memory, 0, 0)

    def _is_heard(self) -> bool:
        """Whether the calling thread belongs to the running cell. Idents are used again."""
        ident = threading.get_ident()
        if ident not in self._left_behind:
            return True
        known = threading._active  # type: ignore[attr-defined]
        return known.get(ident) is not self._left_behind[ident]

    def detach_memory(self) -> None:
        """Unmap."""
        self._memory.close()

    def write(self, text: str) -> int:
        """Append; raises `OutputFlood` from the flood limit on."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.write_bytes(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Append bytes; the count goes up by all of them even where few are kept."""
        if self._left_behind and not self._is_heard():
            return
        start = self.total
        self._store(start, data)
        self.total = start + len(data)
        _COUNT.pack_into(self._memory, 0, self.total)
        if self.total > self._flood:
            raise OutputFlood(f"the cell wrote more than {self._flood} bytes")

    def _store(self, start: int, data: bytes) -> None:
        if start < self._head:
            kept = data[: self._head - start]
            self._memory[HEADER + start : HEADER + start + len(kept)] = kept
            data = data[len(kept) :]
            start += len(kept)
        if not data:
            return
        # Only the last ring's worth of the rest can survive.
        skip = max(0, len(data) - self._ring)
        place = (start + skip - self._head) % self._ring
        base = HEADER + self._head
        first = data[skip : skip + self._ring - place]
        self._memory[base + place : base + place + len(first)] = first
        second = data[skip + len(first) :]
        self._memory[base : base + len(second)] = second

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What `print` and libraries ask for."""
        return "utf-8"

    @property
    def buffer(self) -> "_Bytes":
        """For `sys.stdout.buffer.write(...)`."""
        return self._bytes

    def writable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Nothing: the next cell prints here, too."""

    def reconfigure(self, **options: object) -> None:
        """Nothing: what is written is there at once, as UTF-8."""


class _Bytes(io.RawIOBase):
    """The byte side of an `Output`."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, data: object) -> int:
        plain = bytes(memoryview(data))  # type: ignore[arg-type]
        self._output.write_bytes(plain)
        return len(plain)

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        pass


def written(memory: bytes) -> int:
    """Bytes that were ever written, by the header of the shared memory."""
    (total,) = _COUNT.unpack_from(memory, 0)
    return int(total)


def assemble(memory: bytes, size: int | None = None) -> tuple[bytes, bytes, int]:
    """What the host reads back from the shared memory, which may hold anything.

    `size`: of all the memory, where `memory` is only its beginning; that must hold what was
    written. Returns (first part, last part, bytes dropped between them).
    """
    total = written(memory)
    room = (len(memory) if size is None else size) - HEADER
    if total <= room:
        return memory[HEADER : HEADER + total], b"", 0
    data = memory[HEADER:]
    head = room // 2
    ring = data[head:]
    turn = (total - head) % len(ring)
    return data[:head], ring[turn:] + ring[:turn], total - room
