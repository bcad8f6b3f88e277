"""Thinking is closed and answers are forced without touching what the model wrote."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aimo2.answers import extract
from aimo2.config import AnswerType
from aimo2.parse import open_fence
from aimo2.prompts.closing import (
    answer_prefix,
    close_thinking,
    go_on_thinking,
    is_thinking,
    outside_thinking,
    thinking_end,
)
from aimo2.prompts.families import UNKNOWN, Family, families

R1, OSS, QWEN = (families()[name] for name in ("deepseek-r1", "gpt-oss", "qwen"))
KINDS: list[AnswerType] = ["int", "expr"]
PIECES = st.lists(
    st.sampled_from(
        [
            "<think>\n",
            "</think>",
            "\n",
            "so x = 3. ",
            "\n```python\n",
            "\n```python",
            "print(1)\n",
            "\n```\n",
            "\n```",
            "\n  ```py\n",
            "\n```output\n42\n```\n",
            "我们算一下",
            "<|end|>",
            "<|start|>assistant",
            "<|channel|>analysis<|message|>",
        ]
    )
).map("".join)


@given(PIECES, st.sampled_from([R1, OSS, QWEN, UNKNOWN]))
def test_closing_leaves_neither_thinking_nor_code_open(reply: str, family: Family) -> None:
    closed = reply + close_thinking(reply, family)
    assert not is_thinking(closed, family)
    assert open_fence(closed) is None
    assert close_thinking(closed, family) == ""


@example("\n```python\n<|channel|>analysis<|message|><|end|>", OSS, "int")
@given(PIECES, st.sampled_from([R1, OSS, QWEN]), st.sampled_from(KINDS))
def test_a_forced_answer_can_be_read_whatever_came_before(
    reply: str, family: Family, kind: AnswerType
) -> None:
    forced = reply + answer_prefix(reply, family, kind)
    found = extract(forced + "73}")
    assert found is not None
    assert (found.raw, found.source) == ("73", "boxed")


def test_a_model_that_does_not_think_has_nothing_to_close() -> None:
    assert close_thinking("x = 3", QWEN) == ""
    assert close_thinking("<think>\na</think>\nx = 3", R1) == ""
    assert answer_prefix("x = 3", QWEN, "int") == "\n\nThe final answer is \\boxed{"


def test_thinking_is_closed_in_the_models_own_voice_and_marks() -> None:
    said = close_thinking("<think>\nso x = 3", R1)
    assert said.startswith("\n\nI have thought")
    assert said.endswith(".\n</think>\n\n")
    assert close_thinking("<think>\nso x = 3", R1, lead=False) == "\n</think>\n\n"
    assert close_thinking("<think>\nso x = 3\n", R1, lead=False) == "</think>\n\n"


def test_a_channel_that_has_begun_to_close_is_closed_from_there() -> None:
    reply = "<|channel|>analysis<|message|>so x = 3"
    whole = close_thinking(reply, OSS, lead=False)
    assert whole == "<|end|><|start|>assistant<|channel|>final<|message|>"
    for size in range(1, len(whole)):
        assert close_thinking(reply + whole[:size], OSS) == whole[size:]
    assert answer_prefix(reply, OSS, "int").endswith("<|message|>The final answer is \\boxed{")


def test_a_chinese_reply_is_ended_in_chinese() -> None:
    reply = "<think>\n我们先计算前几项，然后找出规律。"
    assert "答案" in close_thinking(reply, R1)
    assert answer_prefix(reply, R1, "expr").endswith("最终答案是 $\\boxed{")
    assert go_on_thinking(reply).startswith("\n\n等")


@pytest.mark.parametrize("fence", ["```", "````", "~~~"])
def test_an_open_code_block_is_closed_with_its_own_fence_and_indentation(fence: str) -> None:
    reply = f"So:\n   {fence}python\n   print(1)"
    assert close_thinking(reply, QWEN) == f"\n   {fence}\n"
    assert close_thinking(reply + "\n", QWEN) == f"   {fence}\n"
    assert close_thinking(f"So:\n{fence}python", QWEN) == f"\n{fence}\n"


def test_a_block_that_was_run_is_not_closed_again() -> None:
    ran = "```python\nprint(6*7)\n```\n```output\n42\n```\nSo"
    assert close_thinking(ran, QWEN) == ""
    assert close_thinking(ran.removesuffix("```\nSo"), QWEN) == "```\n"


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("<think>\nx = 3\n</think>\n\nDone", "<think>\nx = 3\n"),
        ("x = 3</think>", "x = 3"),
        ("x = 3", None),
        ("x</think>y<think>z", None),
    ],
)
def test_the_end_of_thinking_can_be_cut_off(text: str, cut: str | None) -> None:
    at = thinking_end(text, R1)
    assert (None if at is None else text[:at]) == cut


def test_the_channels_whole_switch_is_cut_off() -> None:
    text = "<|channel|>analysis<|message|>x = 3"
    at = thinking_end(text + "<|end|><|start|>assistant<|channel|>final<|message|>3", OSS)
    assert at == len(text)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("<think>a</think>b", "b"),
        ("<think>a", ""),
        ("a</think>b", "b"),  # the prompt has begun it
        ("a<think>b</think>c<think>d", "a c"),
        ("<think>a</think>b</think>c", "b c"),
        ("a", "a"),
    ],
)
def test_what_stands_outside_the_thinking_is_said(reply: str, said: str) -> None:
    assert outside_thinking(reply, R1).split() == said.split()


def test_a_text_that_begins_inside_thinking_says_what_follows_it() -> None:
    assert outside_thinking("a</think>b", R1, inside=True) == "b"
    assert outside_thinking("a", R1, inside=True) == ""
    analysis = "<|channel|>analysis<|message|>"
    final = "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert outside_thinking(f"{analysis}a<|end|>{analysis}b{final}c", OSS).strip() == "c"


@given(PIECES, st.sampled_from([R1, OSS, QWEN, UNKNOWN]))
def test_nothing_is_said_at_the_end_of_a_reply_that_thinks(reply: str, family: Family) -> None:
    said = outside_thinking(reply + "last", family).endswith("last")
    assert said is not is_thinking(reply, family)
