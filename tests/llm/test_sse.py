"""Events come out whole, however the bytes were cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.llm.sse import MAX_LINE, SseDecoder

PAYLOADS = st.lists(
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)
    .map(lambda text: text.encode().strip())
    .filter(bool),
    max_size=6,
)


def fed(*reads: bytes) -> list[bytes]:
    decoder = SseDecoder()
    return [event for read in reads for event in decoder.feed(read)]


@given(PAYLOADS, st.sampled_from([b"\n", b"\r\n"]), st.data())
def test_any_split_gives_the_same_events(
    payloads: list[bytes], line_end: bytes, data: st.DataObject
) -> None:
    stream = b"".join(b"data: " + payload + line_end * 2 for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    reads = [stream[a:b] for a, b in pairwise(edges)]
    assert fed(*reads) == payloads


def test_a_character_may_be_split_between_reads() -> None:
    whole = 'data: {"text":"答😀"}\n\n'.encode()
    for cut in range(len(whole)):
        assert fed(whole[:cut], whole[cut:]) == [whole[6:-2]]


def test_comments_and_other_fields_are_no_events() -> None:
    assert fed(b": ping\n\nevent: x\nid: 7\nretry: 3\n\ndata:1\n\n") == [b"1"]


def test_lines_of_one_event_are_joined() -> None:
    assert fed(b"data: {\ndata: }\n\n") == [b"{\n}"]


def test_an_old_llama_cpp_error_line_is_an_event() -> None:
    assert fed(b'error: {"code":500}\n\n') == [b'{"error":{"code":500}}']


def test_an_event_without_its_blank_line_comes_at_the_end() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: [DONE]") == []
    assert decoder.flush() == [b"[DONE]"]


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        SseDecoder().feed(b"x" * (MAX_LINE + 1))
