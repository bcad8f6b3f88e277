"""The reasoner reasons, the solver goes on from there, and the reply reads as one."""

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.deadline import NEVER
from aimo2.handover import HandOver, Part
from aimo2.llm import Chunk, Conversation, Message, Model, Sampling
from aimo2.llm.fake import ScriptedModel, Step
from aimo2.prompts import UNKNOWN, families
from aimo2.prompts.families import Family
from tests.scripted import config, run_rollout

R1, QWEN, OSS, GEMMA = (
    families()[name] for name in ("deepseek-r1", "qwen", "gpt-oss", "without-system")
)
ASKED = (Message("system", "Solve."), Message("user", "6*7?"))
THOUGHT = "Six sevens\nare many.\n"


def says(*steps: Step) -> ScriptedModel:
    return ScriptedModel(lambda conversation, sampling: steps)


def both(
    reasoner: Model, solver: Model, family: Family = R1, solver_family: Family = QWEN
) -> HandOver:
    return HandOver(Part(reasoner, family), Part(solver, solver_family))


def drain(model: Model, reply: str = "<think>\n", max_tokens: int = 1000) -> list[Chunk]:
    async def main() -> list[Chunk]:
        asked = Conversation(ASKED, reply)
        sampling = Sampling(max_tokens=max_tokens)
        return [chunk async for chunk in model.stream(asked, sampling, NEVER)]

    return asyncio.run(main())


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_the_solver_goes_on_behind_the_thinking_and_reads_it_as_its_own() -> None:
    reasoner, solver = says(THOUGHT + "</think>\n\nNever said."), says("It is 42.")
    chunks = drain(both(reasoner, solver))
    assert text_of(chunks) == THOUGHT + "</think>It is 42."
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    asked = solver.calls[0].conversation
    assert asked.reply == "Six sevens\nare many.\n\n"
    assert asked.messages == ASKED
    assert reasoner.calls[0].state == "closed"


def test_a_solver_that_thinks_finds_the_reasoning_in_its_own_marks() -> None:
    reasoner, solver = says(THOUGHT + "</think>"), says("42")
    drain(both(reasoner, solver, solver_family=OSS))
    assert solver.calls[0].conversation.reply == (
        "<|channel|>analysis<|message|>Six sevens\nare many."
        "<|end|><|start|>assistant<|channel|>final<|message|>"
    )
    assert solver.calls[0].sampling.special_tokens


def test_a_channel_switch_is_no_part_of_the_reasoning() -> None:
    switch = "<|end|><|start|>assistant<|channel|>final<|message|>"
    reasoner, solver = says(THOUGHT + switch + "no"), says("42")
    chunks = drain(both(reasoner, solver, family=OSS), reply="<|channel|>analysis<|message|>")
    assert text_of(chunks) == f"{THOUGHT}{switch}42"
    assert solver.calls[0].conversation.reply == "Six sevens\nare many.\n\n"


def test_a_reasoner_without_marks_is_followed_to_its_first_code_block() -> None:
    reasoner, solver = says("I compute.\n```python\nprint(1)\n```\n"), says("```python\nprint(2)\n")
    chunks = drain(both(reasoner, solver, family=UNKNOWN), reply="")
    assert text_of(chunks) == "I compute.\n```python\nprint(2)\n"
    assert solver.calls[0].conversation.reply == "I compute.\n\n"


def test_after_the_hand_over_only_the_solver_is_asked() -> None:
    reasoner, solver = says("no"), says(" and so on")
    reply = "<think>\nSix\n</think>\n\nIt is 42.\n```output\n42\n```\n"
    assert text_of(drain(both(reasoner, solver), reply)) == " and so on"
    assert reasoner.calls == []
    assert solver.calls[0].conversation.reply == "Six\n\nIt is 42.\n```output\n42\n```\n"


def test_a_reasoner_that_just_ends_is_closed_for_it() -> None:
    reasoner, solver = says("Six."), says("42")
    chunks = drain(both(reasoner, solver))
    assert text_of(chunks) == "Six.\n</think>\n\n42"
    assert solver.calls[0].conversation.reply == "Six.\n\n"
    assert sum(chunk.num_tokens for chunk in chunks) == 3


def test_a_reasoner_without_marks_that_just_ends_is_followed_by_the_solver() -> None:
    chunks = drain(both(says("Six."), says("42"), family=UNKNOWN), reply="")
    assert text_of(chunks) == "Six.\n42"


@given(st.integers(1, 12))
def test_the_token_limit_holds_for_both_together(limit: int) -> None:
    chunks = drain(both(says("a b c d </think>"), says("e f g")), max_tokens=limit)
    assert sum(chunk.num_tokens for chunk in chunks) <= limit
    assert chunks[-1].finish_reason == ("length" if limit <= 11 else "stop")


def test_a_system_message_is_folded_in_for_a_family_that_takes_none() -> None:
    solver = says("42")
    drain(both(says("a</think>"), solver, solver_family=GEMMA))
    assert solver.calls[0].conversation.messages == (Message("user", "Solve.\n\n6*7?"),)


@pytest.mark.parametrize("family", [R1, UNKNOWN])
def test_a_rollout_runs_on_two_models_as_on_one(family: Family) -> None:
    code = "```python\nprint(6*7)\n```\n"
    reasoner = says("I compute.\n</think>\n\n" if family is R1 else "I compute.\n```python\n1\n")

    def solve(conversation: Conversation, sampling: Sampling) -> list[Step]:
        return ["So \\boxed{42}.\n" if "```output" in conversation.reply else code]

    two = both(reasoner, ScriptedModel(solve), family=family)
    ran = run_rollout(cast(ScriptedModel, two), config(), family=family)
    assert (ran.trace.answer, ran.trace.num_code_runs) == ("42", 1)
    assert len(reasoner.calls) == 1
