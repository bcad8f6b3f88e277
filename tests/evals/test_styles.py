"""Grading of right and wrong answers written in many styles; the golds are made up here."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from aimo2.answers import Judge
from aimo2.config import SolveConfig
from benchmarks.grading_styles import accepts, written

T = TypeVar("T")
INTEGERS = ("0", "7", "1234", "90210")
EXPRESSIONS = (
    r"\frac{3}{7}",
    r"2\sqrt{5}",
    r"(1, -2)",
    r"x^2 + 3x - 1",
    r"\frac{\pi}{4}",
    r"-12",
    r"[0, 1)",
    r"0.125",
)
REFUSED = {"with a heading mark"}
"""`#### 73` alone is a heading; only a sentence or a box is an answer."""


def judged(work: Callable[[Judge], Awaitable[T]]) -> T:
    async def main() -> T:
        async with Judge() as judge:
            return await work(judge)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("golds", "config"),
    [
        (INTEGERS, SolveConfig(answer_type="int")),
        (INTEGERS + EXPRESSIONS, SolveConfig(answer_type="expr")),
    ],
    ids=["int", "expr"],
)
def test_a_right_answer_is_accepted_in_each_of_forty_styles(
    golds: tuple[str, ...], config: SolveConfig
) -> None:
    async def refused(judge: Judge) -> list[tuple[str, str]]:
        return [
            (gold, style)
            for gold in golds
            for style, reply in written(gold).items()
            if style not in REFUSED and not await accepts(gold, reply, config, judge)
        ]

    assert all(len(written(gold)) >= 40 for gold in golds)
    assert judged(refused) == []


def test_a_wrong_answer_is_refused_in_every_style() -> None:
    config = SolveConfig(answer_type="expr")

    async def taken(judge: Judge) -> list[tuple[str, str, str]]:
        found = []
        for at, gold in enumerate(EXPRESSIONS):
            other = EXPRESSIONS[(at + 1) % len(EXPRESSIONS)]
            for style, reply in written(other).items():
                if await accepts(gold, reply, config, judge):
                    found.append((gold, other, style))
        return found

    assert judged(taken) == []


@pytest.mark.parametrize(
    ("gold", "near"),
    [
        ("73", "37"),
        ("73", "730"),
        ("73", "73.5"),
        (r"\frac{3}{7}", "0.428"),
        (r"2\sqrt{5}", "4.47"),
        ("(1, -2)", "(-2, 1)"),
        ("[0, 1)", "[0, 1]"),
        ("x^2 + 3x - 1", "x^2 - 3x - 1"),
        (r"\frac{\pi}{4}", "0.785"),
    ],
)
def test_a_near_miss_is_a_miss(gold: str, near: str) -> None:
    config = SolveConfig(answer_type="expr")
    assert not judged(lambda judge: accepts(gold, rf"\boxed{{{near}}}", config, judge))
