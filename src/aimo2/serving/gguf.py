"""Read the few numbers of a GGUF model file that decide its memory. Knows no engine.

The format: `docs/gguf.md` of ggml-org/ggml. Metadata come as key-value pairs before the tensors;
the model's shape stands before the tokenizer's tables, where reading ends, because those hold
hundreds of thousands of strings. A shape written as a list (one number a layer) takes its largest.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_NUMBERS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""Type number in the file -> its letter in `struct`."""
_LONGEST = 1 << 20
"""Bytes of a string and items of a list that we believe; more means that the file is damaged."""

Field = int | float | str
_HALF = 2
"""Bytes of one number of the key-value cache: 16-bit floats."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`context`: tokens that the model was trained for; 0 where the file does not say.

    `cache_bytes`: of keys and values a token, all layers together, as 16-bit floats.
    """

    context: int
    cache_bytes: int


def read_shape(path: Path) -> Shape | None:
    """The model's shape; `None` where the file is no GGUF file or is not understood.

    Raises `OSError` where the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _shape(dict(_fields(file)))
        except (struct.error, ValueError, OverflowError):  # a bad encoding is a ValueError
            return None


def _shape(fields: dict[str, Field]) -> Shape:
    prefix = str(fields.get("general.architecture", ""))

    def number(key: str, default: float = 0) -> int:
        return int(fields.get(f"{prefix}.{key}", default))

    heads = number("attention.head_count")
    of_embedding = number("embedding_length") // heads if heads else 0
    widths = sum(number(f"attention.{which}_length", of_embedding) for which in ("key", "value"))
    per_layer = number("attention.head_count_kv", heads) * widths
    return Shape(number("context_length"), number("block_count") * per_layer * _HALF)


def _fields(file: BinaryIO) -> Iterator[tuple[str, Field]]:
    """Metadata up to the tokenizer's tables. Raises `ValueError` or `struct.error` on nonsense."""
    if file.read(4) != _MAGIC:
        raise ValueError("not a GGUF file")
    _version, _tensors, count = _unpack(file, "<IQQ")
    for _ in range(count):
        key = _string(file)
        if key.startswith("tokenizer."):
            return
        yield key, _value(file, *_unpack(file, "<I"))


def _value(file: BinaryIO, kind: int) -> Field:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        return _largest(file)
    if kind not in _NUMBERS:
        raise ValueError(f"no such type: {kind}")
    number: int | float = _unpack(file, "<" + _NUMBERS[kind])[0]
    return number


def _largest(file: BinaryIO) -> Field:
    """Of a list of numbers the largest; of a list of strings nothing, because none is needed."""
    kind, count = _unpack(file, "<IQ")
    if kind == _ARRAY:
        raise ValueError("a list of lists")
    items = [_value(file, kind) for _ in range(_believable(count))]
    return max((item for item in items if not isinstance(item, str)), default="")


def _string(file: BinaryIO) -> str:
    size = _believable(_unpack(file, "<Q")[0])
    return file.read(size).decode()


def _believable(size: int) -> int:
    if size > _LONGEST:
        raise ValueError(f"a size of {size}")
    return size


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
