"""Frames survive any split of the stream; nothing else gets through."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.sandbox.guest.frames import Decoder, FrameError, encode

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)
frames = st.dictionaries(st.text(), values, max_size=4)


@given(st.lists(frames, max_size=3), st.lists(st.integers(1, 200), max_size=20))
def test_any_split_gives_the_same_frames(sent: list[dict[str, object]], sizes: list[int]) -> None:
    stream = b"".join(encode(frame) for frame in sent)
    decoder, received = Decoder(), []
    for size in (*sizes, len(stream)):
        received += decoder.feed(stream[:size])
        stream = stream[size:]
    assert received == sent
    assert decoder.pending == 0


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_garbage_gives_frames_or_a_frame_error_and_never_piles_up(chunks: list[bytes]) -> None:
    decoder = Decoder(limit=32)
    try:
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                assert isinstance(frame, dict)
            assert decoder.pending < 4 + 32
    except FrameError:
        pass


def test_a_length_over_the_limit_is_refused_before_its_body_comes() -> None:
    with pytest.raises(FrameError, match="limit of 100"):
        Decoder(limit=100).feed((101).to_bytes(4, "big"))
    with pytest.raises(FrameError, match="limit of 5"):
        encode({"a": "long"}, limit=5)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"nul", b"\xff", b'{"a":', b"[" * 50_000, b'{"a":' * 20_000],
    ids=lambda body: repr(body[:6]),
)
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        Decoder().feed(len(body).to_bytes(4, "big") + body)


def test_a_lone_surrogate_passes() -> None:
    frame = {"code": "print('\ud800')"}
    assert Decoder().feed(encode(frame)) == [frame]
    assert json.loads(encode(frame)[4:]) == frame
