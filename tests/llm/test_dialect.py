"""Requests are worded as the server takes them; a refusal is told from a wrong value."""

from typing import Any

import pytest

from aimo2.llm import Conversation, Message, Sampling
from aimo2.llm.dialect import Dialect

ASKED = Conversation((Message("user", "1+1?"),), "It is ")
FULL = Sampling(stop=("x",), seed=-1, logprobs=3)


def chat(**how: Any) -> dict[str, Any]:
    return Dialect("m", "chat", **how).ask_chat(ASKED, FULL)


def test_the_reply_is_the_last_message() -> None:
    assert chat()["messages"] == [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "It is "},
    ]
    assert len(Dialect("m", "chat").ask_chat(Conversation(ASKED.messages), FULL)["messages"]) == 1


def test_thinking_is_not_opened_for_a_server_that_cannot_continue() -> None:
    opened = Conversation(ASKED.messages, "<think>\n")
    begun = Conversation(ASKED.messages, "<think>\nso")
    assert len(Dialect("m", "chat").ask_chat(opened, FULL)["messages"]) == 1
    assert len(Dialect("m", "chat").ask_chat(begun, FULL)["messages"]) == 2
    assert len(Dialect("m", "chat", continues=True).ask_chat(opened, FULL)["messages"]) == 2


def test_a_server_that_can_is_told_to_continue() -> None:
    body = chat(continues=True)
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    assert "continue_final_message" not in chat()


def test_raw_and_chat_ask_for_logprobs_differently() -> None:
    assert Dialect("m").ask_raw("1", FULL)["logprobs"] == 3
    body = chat()
    assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
    assert "logprobs" not in Dialect("m").ask_raw("1", Sampling())


def test_top_logprobs_go_with_logprobs() -> None:
    assert "top_logprobs" not in chat(refused={"logprobs"})


def test_special_tokens_are_not_added_twice() -> None:
    assert Dialect("m", plain_tokens=True).ask_raw("1", FULL)["add_special_tokens"] is False
    assert "add_special_tokens" not in Dialect("m").ask_raw("1", FULL)


def test_special_tokens_stay_in_the_text_only_where_wanted() -> None:
    wanted = Sampling(special_tokens=True)
    assert Dialect("m").ask_raw("1", wanted)["skip_special_tokens"] is False
    assert "skip_special_tokens" not in Dialect("m").ask_raw("1", FULL)
    assert "skip_special_tokens" not in Dialect("m", refused={"skip_special_tokens"}).ask_raw(
        "1", wanted
    )


def test_seeds_fit_every_server() -> None:
    assert 0 <= Dialect("m").ask_raw("1", FULL)["seed"] < 2**31
    assert "seed" not in Dialect("m").ask_raw("1", Sampling())


def test_the_token_limit_is_below_the_context() -> None:
    body = Dialect("m", context_length=100).ask_raw("1", Sampling(max_tokens=500))
    assert body["max_tokens"] == 99


def test_the_token_limit_has_a_new_name() -> None:
    body = chat(refused={"max_tokens"})
    assert body["max_completion_tokens"] == 1024
    assert "max_tokens" not in body


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ('{"error":{"message":"Unknown parameter: \'min_p\'."}}', "min_p"),
        ("Unsupported value: 'temperature' does not support 0.7 with this model.", "temperature"),
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", "max_tokens"),
        ('{"detail":[{"type":"extra_forbidden","loc":["body","min_p"]}]}', "min_p"),
        ("logprobs is not enabled on this server", "logprobs"),
        ("top_logprobs is not supported", "top_logprobs"),
        ("temperature must be at most 2", None),
        ("unknown model", None),
        ("Unknown parameter: 'prompt'", None),
    ],
)
def test_a_refusal_is_told_from_a_wrong_value(said: str, name: str | None) -> None:
    assert Dialect("m", "chat").refusal(400, said, chat()) == name


def test_only_a_bad_request_is_a_refusal() -> None:
    assert Dialect("m", "chat").refusal(404, "unknown parameter seed", chat()) is None
