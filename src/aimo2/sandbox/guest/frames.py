"""Length-prefixed JSON frames, for hostile input. Knows no sockets and no meaning of a frame.

A frame is four bytes of length, big-endian, and that many bytes of UTF-8 JSON: one object.
A decoder never holds more than one frame of the largest size plus what it was fed last.
"""

import json
from typing import Any, Final

__all__ = ["MAX_FRAME", "Decoder", "FrameError", "encode"]

MAX_FRAME: Final = 2 * 1024 * 1024
"""Bytes of JSON in the largest frame: a cell's text with room for escapes."""

_HEADER: Final = 4

Frame = dict[str, Any]


class FrameError(ValueError):
    """The other side sent something that is not a frame."""


def encode(frame: Frame, limit: int = MAX_FRAME) -> bytes:
    """The bytes of one frame. Raises `FrameError` where it is larger than `limit` bytes."""
    # ASCII escapes also carry lone surrogates, which model-written text may hold.
    body = json.dumps(frame, separators=(",", ":")).encode("ascii")
    if len(body) > limit:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {limit}")
    return len(body).to_bytes(_HEADER, "big") + body


class Decoder:
    """Cuts a byte stream into frames. After a `FrameError` it is of no more use."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order.

        Raises `FrameError` on a length over the limit (before its body is read), on text that is
        not JSON, on anything but an object, and on nesting too deep to parse.
        """
        self._buffer += data
        frames = []
        while (body := self._take()) is not None:
            frames.append(_parse(body))
        return frames

    def _take(self) -> bytes | None:
        if len(self._buffer) < _HEADER:
            return None
        length = int.from_bytes(self._buffer[:_HEADER], "big")
        if length > self._limit:
            raise FrameError(f"a frame of {length} bytes is over the limit of {self._limit}")
        end = _HEADER + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEADER:end])
        del self._buffer[:end]
        return body

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame held."""
        return len(self._buffer)


def _parse(body: bytes) -> Frame:
    try:
        frame = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame is not JSON: {error}") from error
    if not isinstance(frame, dict):
        raise FrameError(f"a frame must be an object, not {type(frame).__name__}")
    return frame
