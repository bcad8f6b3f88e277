"""Openings are data: built-in ones, a user's own, mixes of them, and what a rollout is told."""

from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2 import prompts
from aimo2.config import AnswerType, OpeningConfig
from aimo2.errors import ConfigError
from aimo2.prompts import families, find_opening, hint, openings, parse_mix, read_openings, start
from aimo2.types import ErrorKind

ASKED = "  What is 6 times 7?\n"
BUILT_IN = [
    "code",
    "code-zh",
    "late",
    "late-zh",
    "plain",
    "plain-zh",
    "reason",
    "verify",
    "verify-zh",
]


def test_the_built_in_openings_are_there() -> None:
    assert sorted(openings()) == BUILT_IN
    assert all(opening.about for opening in openings().values())


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("kind", get_args(AnswerType))
@pytest.mark.parametrize("family", families())
def test_every_opening_asks_for_a_box_and_holds_the_problem(
    name: str, kind: AnswerType, family: str
) -> None:
    begun = start(ASKED, name, kind, code=True, family=families()[family])
    said = "".join(message.content for message in begun.messages)
    assert "\\boxed{}" in said
    assert begun.messages[-1].role == "user"
    assert begun.messages[-1].content.endswith("What is 6 times 7?")
    assert ("system" in [message.role for message in begun.messages]) == families()[family].system


def test_code_first_begins_inside_the_thinking_of_a_model_that_thinks() -> None:
    r1, qwen3, oss = (families()[name] for name in ("deepseek-r1", "qwen3", "gpt-oss"))
    assert start(ASKED, "code", "int", code=True).prefix == "```python\n"
    assert start(ASKED, "code", "int", code=True, family=r1).prefix == "<think>\n```python\n"
    assert start(ASKED, "plain", "int", code=True, family=oss).prefix == (
        "<|channel|>analysis<|message|>"
    )
    off = start(ASKED, "code", "int", code=True, family=qwen3, thinking="off")
    assert off.prefix == "<think>\n\n</think>\n\n```python\n"
    assert not off.thinks


@pytest.mark.parametrize("name", BUILT_IN)
def test_without_code_no_opening_offers_or_begins_it(name: str) -> None:
    begun = start(ASKED, name, "int", code=False)
    assert begun.prefix == ""
    assert not begun.with_code
    assert "```" not in "".join(message.content for message in begun.messages)


def test_reasoning_in_words_is_never_offered_code() -> None:
    assert not start(ASKED, "reason", "int", code=True).with_code


def test_a_chinese_opening_speaks_chinese_throughout() -> None:
    begun = start(ASKED, "code-zh", "int", code=True)
    assert "请" in begun.messages[0].content
    assert begun.prefix.endswith("\n```python\n")
    assert "错误" in hint("syntax", begun.opening)


def test_a_family_words_the_task_and_an_opening_words_it_again() -> None:
    family = families()["qwen-math"]
    general = start(ASKED, "code", "int", code=True).messages[0].content
    trained = start(ASKED, "code", "int", code=True, family=family).messages[0].content
    own = OpeningConfig(name="code", task="Count.")
    custom = start(ASKED, "code", "int", code=True, family=family, custom=[own])
    assert general != trained
    assert custom.messages[0].content.startswith("Count. The answer is an integer.")


def test_every_cause_has_a_hint_in_every_language() -> None:
    for name in ("plain", "plain-zh"):
        said = [hint(kind, find_opening(name)) for kind in get_args(ErrorKind)]
        assert len(set(said)) == len(get_args(ErrorKind))
    assert "closed form" in prompts.nudge("timeout")


def test_another_approach_is_asked_for_in_the_same_words_whatever_failed() -> None:
    for name in ("plain", "plain-zh"):
        said = {hint(kind, find_opening(name), "change") for kind in get_args(ErrorKind)}
        assert said == {prompts.line("changed_approach", find_opening(name))}


def test_an_opening_brings_hints_of_its_own() -> None:
    own = OpeningConfig(name="mine", nudges={"timeout": "Slow:"})
    assert hint("timeout", own) == "Slow:"
    assert hint("name", own) == prompts.nudge("name")


@given(st.dictionaries(st.sampled_from(BUILT_IN), st.integers(1, 100), min_size=1))
def test_a_mix_has_each_opening_as_often_as_its_weight_says(weights: dict[str, int]) -> None:
    text = ",".join(f"{name}:{weight}" for name, weight in weights.items())
    assert Counter(parse_mix(text)) == Counter(weights)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 40))
def test_any_first_rollouts_are_mixed_in_proportion(first: int, second: int, count: int) -> None:
    order = parse_mix(f"code:{first},late:{second}")
    taken = [order[index % len(order)] for index in range(count)]
    assert abs(taken.count("code") - count * first / (first + second)) < 1


def test_names_without_weights_stand_as_written() -> None:
    assert parse_mix("late, code,code") == ("late", "code", "code")
    assert parse_mix("code:3,late") == ("code", "code", "late", "code")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kode:2", r"'kode'.*plain"),
        ("code:0", r"'code:0'.*1 to 100"),
        ("code:-1", "whole number"),
        ("code:1.5", "whole number"),
        ("code:x", "whole number"),
        ("code:101", "whole number"),
        ("code:²", "whole number"),
        (" , ", "no opening is named"),
    ],
)
def test_a_bad_mix_is_refused_with_the_mend(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_mix(text)


def test_a_users_file_adds_and_replaces_openings(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'mix = "mine:2,code"\n[[opening]]\nname = "mine"\nfence_after = 50\nlead = "Compute:"\n'
        '[[opening]]\nname = "code"\nprefix = "I compute.\\n```python\\n"\n'
    )
    read = read_openings(file)
    assert read.mix is not None
    assert parse_mix(read.mix, read.openings) == ("mine", "code", "mine")
    begun = start(ASKED, "code", "int", code=True, custom=read.openings)
    assert begun.prefix == "I compute.\n```python\n"
    assert find_opening("mine", read.openings).fence_after == 50


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[opening]", "cannot be read as TOML"),
        ("openings = 3", "'openings' is unknown"),
        ("opening = 3", r"\[\[opening\]\]"),
        ("mix = 3", "mix"),
        ('mix = "nobody"', "'nobody'"),
        ('[[opening]]\nname = "A b"', "opening 1: name"),
        ('[[opening]]\nname = "a"\nfence_after = 0', "opening 1: fence_after"),
        ('[[opening]]\nname = "a"\nfence = 1', "opening 1: fence"),
        ('[[opening]]\nname = "a"\nnudges = { sintax = "x" }', "opening 1: nudges"),
        ('[[opening]]\nname = "a"\n[[opening]]\nname = "a"', "two openings are called 'a'"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_openings(file)
    assert str(file) in str(caught.value) or "nobody" in said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        read_openings(tmp_path / "gone.toml")
