"""Completion events become chunks: text, token counts, log-probabilities, finish reasons."""

from typing import Any

import orjson
import pytest

from aimo2.errors import RequestRejected
from aimo2.llm import Chunk, PromptUse
from aimo2.llm.events import BrokenStreamError, ReplyReader, ReportedError
from aimo2.llm.sse import MAX_LINE


def event(**choice: Any) -> bytes:
    return data({"choices": [choice]})


def counted_event(text: str, total: int) -> bytes:
    return data({"choices": [{"text": text}], "usage": {"completion_tokens": total}})


def data(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def test_events_of_one_read_make_one_chunk() -> None:
    reader = ReplyReader()
    assert reader.feed(event(text="a") + event(text="b") + event(text="")) == Chunk("ab", 2)


def test_a_read_without_a_token_makes_no_chunk() -> None:
    assert ReplyReader().feed(event(delta={"role": "assistant", "content": None})) is None


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["a", "b"], "token_logprobs": [-0.5, -1.5], "top_logprobs": None},
        {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]},
    ],
)
def test_both_shapes_of_logprobs_are_read(logprobs: Any) -> None:
    assert ReplyReader().feed(event(text="ab", logprobs=logprobs)) == Chunk("ab", 2, (-0.5, -1.5))


COMPLETIONS = {
    "tokens": ["a", "b"],
    "token_logprobs": [-0.5, -4.0],
    # vLLM puts the sampled token first, besides the two asked for.
    "top_logprobs": [{"a": -0.5, "c": -1.0}, {"b": -4.0, "d": -0.25, "e": -2.0}],
}
CHAT = {
    "content": [
        {
            "token": "a",
            "logprob": -0.5,
            "top_logprobs": [{"token": "a", "logprob": -0.5}, {"token": "c", "logprob": -1.0}],
        },
        {
            "token": "b",
            "logprob": -4.0,
            "top_logprobs": [{"token": "d", "logprob": -0.25}, {"token": "e", "logprob": -2.0}],
        },
    ]
}


@pytest.mark.parametrize("logprobs", [COMPLETIONS, CHAT])
def test_top_candidates_are_read_from_both_shapes(logprobs: Any) -> None:
    chunk = ReplyReader(candidates=2).feed(event(text="ab", logprobs=logprobs))
    assert chunk == Chunk("ab", 2, (-0.5, -4.0), None, ((-0.5, -1.0), (-0.25, -2.0)))


@pytest.mark.parametrize("logprobs", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("asked", [0, 1])
def test_top_candidates_are_kept_only_where_asked_for(logprobs: Any, asked: int) -> None:
    chunk = ReplyReader(asked).feed(event(text="ab", logprobs=logprobs))
    assert chunk == Chunk("ab", 2, (-0.5, -4.0))


@pytest.mark.parametrize(
    "candidates",
    [
        {"top_logprobs": [{"a": -0.5, "c": -9999.0, "d": None, "e": -1.0}, None, {}]},
        {
            "content": [
                {"logprob": -0.5, "top_logprobs": [{"logprob": -0.5}, {}, {"logprob": -1.0}]}
            ]
        },
    ],
)
def test_an_impossible_or_missing_candidate_is_left_out(candidates: Any) -> None:
    logprobs = (
        {"token_logprobs": [-0.5], **candidates} if "content" not in candidates else candidates
    )
    chunk = ReplyReader(candidates=5).feed(event(text="a", logprobs=logprobs))
    assert chunk is not None
    assert chunk.top_logprobs == ((-0.5, -1.0),)


def test_an_impossible_sampled_token_has_no_logprob_but_counts() -> None:
    logprobs = {"token_logprobs": [-9999.0, -1.0]}
    assert ReplyReader().feed(event(text="ab", logprobs=logprobs)) == Chunk("ab", 2, (-1.0,))


def test_the_last_read_brings_its_candidates_too() -> None:
    reader = ReplyReader(candidates=2)
    reader.feed(event(text="a", finish_reason="stop"))
    reader.feed(event(text="ab", logprobs=COMPLETIONS).rstrip(b"\n") + b"\n")
    assert reader.end().top_logprobs == ((-0.5, -1.0), (-0.25, -2.0))


def test_a_missing_logprob_still_counts_its_token() -> None:
    logprobs = {"token_logprobs": [None, -1.0]}
    assert ReplyReader().feed(event(text="ab", logprobs=logprobs)) == Chunk("ab", 2, (-1.0,))


def test_half_a_character_with_logprobs_counts_as_a_token() -> None:
    logprobs = {"token_logprobs": [-1.0]}
    assert ReplyReader().feed(event(text="", logprobs=logprobs)) == Chunk("", 1, (-1.0,))


def test_hidden_reasoning_is_counted_but_is_no_text() -> None:
    assert ReplyReader().feed(event(delta={"reasoning_content": "hm"})) == Chunk("", 1)


def test_the_server_s_count_corrects_ours() -> None:
    reader = ReplyReader()
    reader.feed(event(text="three tokens in one"))
    reader.feed(event(text="", finish_reason="stop"))
    last = reader.feed(data({"choices": [], "usage": {"completion_tokens": 4}}) + DONE)
    assert last == Chunk("", 3)
    assert reader.end() == Chunk("", 0, (), "stop")
    assert reader.num_tokens == 4


def test_a_count_with_every_event_is_followed_as_it_comes() -> None:
    reader = ReplyReader()
    counted = [
        reader.feed(counted_event("eight tokens", 8)),
        reader.feed(counted_event("five", 13) + counted_event("one", 14)),
    ]
    assert [chunk.num_tokens for chunk in counted if chunk] == [8, 6]


def test_a_count_below_ours_changes_nothing() -> None:
    reader = ReplyReader()
    reader.feed(event(text="a") + event(text="b", finish_reason="stop"))
    reader.feed(data({"choices": [], "usage": {"completion_tokens": 1}}) + DONE)
    assert reader.end() == Chunk("", 0, (), "stop")


@pytest.mark.parametrize(
    ("said", "reason"),
    [("stop", "stop"), ("length", "length"), ("eos_token", "stop"), ("max_tokens", "length")],
)
def test_finish_reasons_are_translated(said: str, reason: str) -> None:
    reader = ReplyReader()
    reader.feed(event(text="a", finish_reason=said) + DONE)
    assert reader.done
    assert reader.end().finish_reason == reason


def test_text_after_the_last_blank_line_is_not_lost() -> None:
    reader = ReplyReader()
    reader.feed(event(text="a"))
    reader.feed(event(text="b", finish_reason="stop").rstrip())
    assert reader.end() == Chunk("b", 1, (), "stop")


@pytest.mark.parametrize("said", ["abort", "error"])
def test_a_reply_that_the_server_gave_up_is_broken(said: str) -> None:
    reader = ReplyReader()
    reader.feed(event(text="a", finish_reason=said) + DONE)
    with pytest.raises(BrokenStreamError, match=said):
        reader.end()


def test_a_content_filter_is_a_rejection() -> None:
    reader = ReplyReader()
    reader.feed(event(text="a", finish_reason="content_filter") + DONE)
    with pytest.raises(RequestRejected, match="content filter"):
        reader.end()


def test_a_stream_without_finish_is_broken() -> None:
    reader = ReplyReader()
    reader.feed(event(text="a"))
    with pytest.raises(BrokenStreamError):
        reader.end()


def test_an_endless_line_is_a_broken_stream() -> None:
    with pytest.raises(BrokenStreamError, match="longer"):
        ReplyReader().feed(b"x" * (MAX_LINE + 1))


def test_an_empty_stream_is_broken() -> None:
    with pytest.raises(BrokenStreamError):
        ReplyReader().end()


def test_a_stream_of_something_else_is_a_rejection() -> None:
    reader = ReplyReader()
    reader.feed(data({"content": "llama.cpp's own format", "stop": False}))
    with pytest.raises(RequestRejected, match="/v1"):
        reader.end()


@pytest.mark.parametrize(
    "garbage", [b"data: {oops\n\n", b"data: []\n\n", b'data: {"choices":3}\n\n']
)
def test_garbage_is_a_broken_stream(garbage: bytes) -> None:
    with pytest.raises(BrokenStreamError):
        ReplyReader().feed(garbage)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 400, "message": "x"}, 400),
        ({"message": "x"}, 500),
        ("x", 500),
        ({"code": "y"}, 500),
    ],
)
def test_an_error_event_is_reported_with_its_status(error: Any, status: int) -> None:
    with pytest.raises(ReportedError) as caught:
        ReplyReader().feed(event(text="a") + data({"error": error}))
    assert caught.value.status == status
    assert orjson.loads(caught.value.body) == {"error": error}


def test_the_last_chunk_says_how_much_of_the_prompt_was_cached() -> None:
    reader = ReplyReader()
    usage = {
        "completion_tokens": 1,
        "prompt_tokens": 46,
        "prompt_tokens_details": {"cached_tokens": 40},
    }
    reader.feed(data({"choices": [{"text": "a", "finish_reason": "length"}]}))
    reader.feed(data({"choices": [], "usage": usage}) + DONE)
    assert reader.end().prompt == PromptUse(46, 40)


@pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None}])
def test_a_server_that_does_not_say_is_not_guessed(details: object) -> None:
    reader = ReplyReader()
    usage = {"completion_tokens": 1, "prompt_tokens": 46, "prompt_tokens_details": details}
    reader.feed(data({"choices": [{"text": "a", "finish_reason": "stop"}]}))
    reader.feed(data({"choices": [], "usage": usage}) + DONE)
    assert reader.end().prompt is None
