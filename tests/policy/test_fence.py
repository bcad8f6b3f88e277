"""A code block is begun for the model once, behind a sentence, and never inside a formula."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.config import OpeningConfig
from aimo2.policy.fence import FenceRule

HEDGED = "First, n = 3.5 here. Wait, is it? Then \\[ a.\nb \\] we go on.\nEnd"
AT_HEDGE = OpeningConfig(name="x", fence_at_hedge=True)


def rule(after: int | None = None, **rest: object) -> FenceRule:
    opening = OpeningConfig.model_validate({"name": "x", "fence_after": after, **rest})
    return FenceRule(opening)


def by_words(fence: FenceRule, text: str) -> str | None:
    """The text before the block, where each word is one token and one chunk."""
    for count, word in enumerate(text.split(" "), 1):
        at = fence.feed(word + " ", count, in_block=False)
        if at is not None:
            return text[:at]
    return None


@given(st.lists(st.integers(0, len(HEDGED)), max_size=10))
def test_doubt_begins_it_behind_its_sentence_wherever_the_chunks_end(cuts: list[int]) -> None:
    fence = FenceRule(AT_HEDGE)
    found = [
        fence.feed(HEDGED[start:end], 1, in_block=False)
        for start, end in pairwise([0, *sorted(cuts), len(HEDGED)])
    ]
    assert [HEDGED[:at] for at in found if at is not None] == ["First, n = 3.5 here. Wait, is it? "]


def test_after_so_many_tokens_the_next_sentence_ends_it() -> None:
    assert by_words(rule(3), "a b. c d e. f") == "a b. c d e. "
    assert by_words(rule(30), "a b. c d e. f") is None


def test_a_displayed_formula_is_not_cut() -> None:
    assert by_words(rule(2), "so \\[ x = 1.\n + 2. \\] done.\nNow") == (
        "so \\[ x = 1.\n + 2. \\] done.\n"
    )
    assert by_words(rule(2), "so $$ x = 1.\n $$ done.\nNow") == "so $$ x = 1.\n $$ done.\n"


def test_text_without_an_end_is_cut_at_last() -> None:
    text = "x " * 300
    cut = by_words(rule(10), text)
    assert cut is not None
    assert len(cut) == 2 * (10 + 64)


@pytest.mark.parametrize("fence", [rule(), rule(5, fence_at_hedge=False)])
def test_without_its_condition_it_says_nothing(fence: FenceRule) -> None:
    assert fence.feed("Wait. Hmm.\n", 1, in_block=False) is None


def test_a_block_of_the_models_own_ends_the_rule() -> None:
    fence = rule(1)
    assert fence.feed("```python\n", 1, in_block=True) is None
    assert fence.over
    assert fence.feed("Wait.\n", 50, in_block=False) is None


def test_it_says_it_once() -> None:
    fence = rule(1)
    assert fence.feed("a.\n", 1, in_block=False) == 3
    assert fence.feed("b.\n", 2, in_block=False) is None


def test_offsets_count_from_the_call() -> None:
    fence = rule(5)
    assert fence.feed("a sentence.\n", 3, in_block=False) is None
    fence.begin()
    assert fence.feed("b.\n", 6, in_block=False) == 3


def test_a_model_that_thinks_is_given_more_time() -> None:
    opening = OpeningConfig(name="x", fence_after=1, fence_after_thinking=100)
    fence = FenceRule(opening, thinks=True)
    assert fence.feed("a.\n", 50, in_block=False) is None
    assert fence.feed("b.\n", 100, in_block=False) == 6
    assert FenceRule(OpeningConfig(name="x", fence_after=1), thinks=True).feed(
        "a.\n", 1, in_block=False
    )
