"""Cut a byte stream into server-sent events. Knows no HTTP and no JSON.

Follows the event stream format of the HTML standard (section 9.2.6) with two differences: a lone
carriage return ends no line (no server writes one), and fields other than `data` are ignored,
but for the `error: {...}` lines of older llama.cpp servers, which become `data`.
"""

MAX_LINE = 8 * 1024 * 1024
"""Bytes; a longer line is not an event that we asked for."""


class SseDecoder:
    """Turns network reads into the data of whole events; a read may end anywhere."""

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """The data of every event that ends in `received`.

        Raises `ValueError` where a line is longer than `MAX_LINE`.
        """
        lines = (self._tail + received if self._tail else received).split(b"\n")
        self._tail = lines.pop()
        if len(self._tail) > MAX_LINE:
            raise ValueError(f"a line of an event stream is longer than {MAX_LINE} bytes")
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif not line or line == b"\r":
                self._end_event(events)
            elif line.startswith(b"error:"):
                self._data.append(b'{"error":%s}' % line[6:].strip())
        return events

    def flush(self) -> list[bytes]:
        """The data of an event that the stream's end cut before its blank line."""
        return self.feed(b"\n\n")

    def _end_event(self, events: list[bytes]) -> None:
        if len(self._data) == 1:
            events.append(self._data[0])
        elif self._data:
            events.append(b"\n".join(self._data))
        self._data.clear()
