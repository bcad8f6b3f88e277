"""What a cell printed is kept at both ends, counted in full, and bounded."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.sandbox.guest.output import HEADER, Output, OutputFlood, assemble


def make(size: int, flood: int = 10**9) -> tuple[Output, int]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, HEADER + size)
    return Output(os.dup(fd), flood), fd


@given(st.integers(2, 50), st.lists(st.binary(max_size=60), max_size=12))
def test_head_and_tail_are_those_of_all_that_was_written(size: int, parts: list[bytes]) -> None:
    output, fd = make(size)
    for part in parts:
        output.write_bytes(part)
    whole = b"".join(parts)
    first, last, dropped = assemble(os.pread(fd, HEADER + size, 0))
    os.close(fd)
    output.detach_memory()
    if len(whole) <= size:
        assert (first, last, dropped) == (whole, b"", 0)
    else:
        head = size // 2
        assert (first, last) == (whole[:head], whole[-(size - head) :])
        assert dropped == len(whole) - size


@given(st.binary(min_size=HEADER + 2, max_size=80))
def test_any_memory_can_be_read(memory: bytes) -> None:
    first, last, dropped = assemble(memory)
    assert len(first) + len(last) <= len(memory) - HEADER
    assert dropped >= 0


def test_a_flood_is_stopped_after_it_was_counted() -> None:
    output, fd = make(8, flood=10)
    output.write("12345")
    with pytest.raises(OutputFlood, match="10 bytes"):
        output.write("678901")
    assert assemble(os.pread(fd, HEADER + 8, 0)) == (b"1234", b"8901", 3)
    output.reset()
    assert assemble(os.pread(fd, HEADER + 8, 0)) == (b"", b"", 0)
    os.close(fd)
    output.detach_memory()


def test_it_is_a_text_stream() -> None:
    output, fd = make(64)
    assert output.write("é\ud800") == 2
    output.buffer.write(b"!")
    assert output.writable()
    assert output.encoding == "utf-8"
    assert assemble(os.pread(fd, HEADER + 64, 0))[0] == "é\\ud800!".encode()
    with pytest.raises(TypeError, match="must be str"):
        output.write(b"bytes")  # type: ignore[arg-type]
    os.close(fd)
    output.detach_memory()
