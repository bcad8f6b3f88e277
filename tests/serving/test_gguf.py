import struct
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aimo2.serving.gguf import Shape, read_shape

U32, F32, STRING, ARRAY, U64 = 4, 6, 8, 9, 10


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def field(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def u32(key: str, value: int) -> bytes:
    return field(key, U32, struct.pack("<I", value))


def array(key: str, kind: int, items: list[bytes]) -> bytes:
    return field(key, ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def model(*fields: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + b"".join(fields)


ARCHITECTURE = field("general.architecture", STRING, text("toy"))
# 28 layers, 2 heads for keys and values of 128 numbers: Qwen2.5-1.5B
QWEN = (
    ARCHITECTURE,
    array("general.tags", STRING, [text("maths"), text("code")]),
    u32("toy.block_count", 28),
    u32("toy.context_length", 32768),
    u32("toy.embedding_length", 1536),
    u32("toy.attention.head_count", 12),
    u32("toy.attention.head_count_kv", 2),
    field("toy.rope.freq_base", F32, struct.pack("<f", 1e6)),
)


def shape_of(tmp_path: Path, content: bytes) -> Shape | None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return read_shape(path)


def test_the_cache_of_a_token_is_keys_and_values_of_every_layer(tmp_path: Path) -> None:
    assert shape_of(tmp_path, model(*QWEN)) == Shape(32768, 28 * 2 * (128 + 128) * 2)


def test_given_widths_of_keys_and_values_count(tmp_path: Path) -> None:
    widths = u32("toy.attention.key_length", 64), u32("toy.attention.value_length", 32)
    assert shape_of(tmp_path, model(*QWEN, *widths)) == Shape(32768, 28 * 2 * (64 + 32) * 2)


def test_of_a_number_for_each_layer_the_largest_counts(tmp_path: Path) -> None:
    heads = [struct.pack("<I", count) for count in (1, 4, 2)]
    fields = (*QWEN[:-2], array("toy.attention.head_count_kv", U32, heads))
    assert shape_of(tmp_path, model(*fields)) == Shape(32768, 28 * 4 * (128 + 128) * 2)


def test_without_key_heads_every_head_has_keys(tmp_path: Path) -> None:
    fields = (*QWEN[:-2], field("toy.size", U64, struct.pack("<Q", 1 << 40)))
    assert shape_of(tmp_path, model(*fields)) == Shape(32768, 28 * 12 * (128 + 128) * 2)


def test_reading_ends_at_the_tokenizers_tables(tmp_path: Path) -> None:
    assert shape_of(tmp_path, model(*QWEN, text("tokenizer.ggml.tokens"))) is not None


def test_a_file_that_says_nothing_of_its_shape_has_no_cache(tmp_path: Path) -> None:
    assert shape_of(tmp_path, model(ARCHITECTURE)) == Shape(0, 0)


def test_lists_of_lists_and_unknown_types_are_not_understood(tmp_path: Path) -> None:
    assert shape_of(tmp_path, model(array("a", ARRAY, [b""]))) is None
    assert shape_of(tmp_path, model(field("a", 99, b""))) is None


def test_an_unbelievable_size_is_not_read(tmp_path: Path) -> None:
    huge = text("a") + struct.pack("<IQ", STRING, 1 << 62)
    assert shape_of(tmp_path, model(huge)) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(4, 399), st.integers(1, 255))))
def test_no_damage_raises(tmp_path: Path, cut: int, flips: list[tuple[int, int]]) -> None:
    content = bytearray(model(*QWEN))
    for position, flip in flips:
        content[position % len(content)] ^= flip
    shape = shape_of(tmp_path, bytes(content[:cut]))
    assert shape is None or isinstance(shape, Shape)
