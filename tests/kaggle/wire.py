"""Protobuf's wire format by hand, from its specification, and the protocol's bytes with it.

Knows nothing of our own messages: what it writes and reads is the other end's view.
"""

import struct
from collections.abc import Iterator


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def zigzag(number: int) -> int:
    return number * 2 if number >= 0 else -number * 2 - 1


def field(number: int, content: bytes | str) -> bytes:
    """A length-delimited field."""
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def integer(value: int) -> bytes:
    return number_field(3, zigzag(value))


def single(value: float) -> bytes:
    return varint(4 << 3 | 5) + struct.pack("<f", value)


def sequence(number: int, *payloads: bytes) -> bytes:
    """A list (6) or a tuple (7)."""
    return field(number, b"".join(field(1, each) for each in payloads))


def entry(number: int, key: str, payload: bytes) -> bytes:
    """One entry of a map."""
    return field(number, field(1, key) + field(2, payload))


def mapping(**payloads: bytes) -> bytes:
    return field(8, b"".join(entry(1, key, each) for key, each in payloads.items()))


def request(name: str, *args: bytes, **kwargs: bytes) -> bytes:
    positional = b"".join(field(2, each) for each in args)
    return field(1, name) + positional + b"".join(entry(3, k, v) for k, v in kwargs.items())


def response(payload: bytes) -> bytes:
    return field(1, payload)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in order: number and content."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        if tag & 7 == 0:
            value, at = read_varint(data, at)
            yield tag >> 3, value
            continue
        if tag & 7 == 5:
            size = 4
        else:
            assert tag & 7 == 2
            size, at = read_varint(data, at)
        yield tag >> 3, data[at : at + size]
        at += size


def only(data: bytes, number: int) -> bytes:
    """The content of a message's one field."""
    [(found, content)] = fields(data)
    assert found == number
    assert isinstance(content, bytes)
    return content


def npy(descr: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """A `.npy` file, version 1.0, from numpy's own description of the format."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data
