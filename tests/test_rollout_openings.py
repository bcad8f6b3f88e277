"""A rollout starts as its opening says, is led to code, and is told in its own language."""

from collections.abc import Iterable

import pytest

from aimo2 import prompts
from aimo2.config import OpeningConfig, SamplingConfig
from aimo2.llm import Conversation, Sampling
from aimo2.llm.fake import ScriptedModel, Step
from aimo2.prompts import families, find_opening
from tests.scripted import Ran, config, model, run_rollout

LATE = OpeningConfig(name="soon", fence_after=6, fence_at_hedge=True, lead="I compute it:")
CODE = "print(6*7)\n```\n"
END = "So \\boxed{42}.\n"


def test_a_code_block_is_begun_behind_the_sentence_of_doubt() -> None:
    scripted = model("Six. Maybe seven? Then more text\n", CODE, END)
    ran = run_rollout(scripted, config(openings=("soon",), custom_openings=(LATE,)))
    assert ran.trace.turns[0].text == "Six. Maybe seven? "
    assert ran.trace.turns[0].injected == "\nI compute it:\n```python\n"
    assert ran.trace.turns[1].run is not None
    assert (ran.trace.answer, ran.trace.opening) == ("42", "soon")
    assert ran.trace.text == ran.trace.prefix + "".join(
        turn.text + turn.injected for turn in ran.trace.turns
    )


def test_a_code_block_is_begun_after_so_many_tokens_and_once() -> None:
    scripted = model("One two three.\nFour five six.\nSeven.\n", CODE, "Wait. Hmm.\n" * 3 + END)
    ran = run_rollout(scripted, config(openings=("soon",), custom_openings=(LATE,)))
    assert ran.trace.turns[0].text == "One two three.\nFour five six.\n"
    assert [turn.injected.count("```python") for turn in ran.trace.turns] == [1, 0, 0]
    assert ran.trace.answer == "42"


def test_a_model_that_writes_code_itself_is_left_alone() -> None:
    scripted = model("```python\n" + CODE, "Wait. Maybe.\n" + END)
    ran = run_rollout(scripted, config(openings=("soon",), custom_openings=(LATE,)))
    assert len(ran.model.calls) == 2
    assert "I compute it" not in ran.trace.text


@pytest.mark.parametrize("ending", ["It is \\boxed{41}.\n", "It is 41."])
def test_an_answer_without_code_is_verified_before_it_counts(ending: str) -> None:
    ran = run_rollout(model(ending, CODE, END), config(openings=("verify",)))
    lead = find_opening("verify").lead
    assert ran.trace.turns[0].injected.endswith(f"{lead}\n```python\n")
    assert ran.trace.answer == "42"
    assert ran.trace.stop_reason == "answered"


def test_an_answer_that_code_stands_behind_is_not_verified_again() -> None:
    ran = run_rollout(model("```python\n" + CODE, END), config(openings=("verify",)))
    assert len(ran.trace.turns) == 2


def test_without_code_nothing_is_forced_and_the_opening_is_plain() -> None:
    settings = config(openings=("late-zh",), max_code_runs=0)
    ran = run_rollout(model("也许是42。" * 300 + END), settings)
    assert ran.trace.opening == "plain-zh"
    assert "```" not in ran.trace.text


def test_an_opening_without_code_runs_none() -> None:
    ran = run_rollout(
        model("```python\nprint(1)\n```\nSo \\boxed{42}\n"), config(openings=("reason",))
    )
    assert ran.trace.num_code_runs == 0
    assert ran.trace.answer == "42"


def hints(ran: Ran) -> list[str]:
    """The last line behind each code run."""
    return [turn.injected.strip().splitlines()[-1] for turn in ran.trace.turns if turn.run]


def test_hints_speak_the_openings_language_and_change_after_repairs() -> None:
    replies = ["x(\n```\n", *(f"```python\n{bad}\n```\n" for bad in ("x)", "x=", "x]")), END]
    settings = config(openings=("code-zh",), repairs=2, max_code_runs=6)
    ran = run_rollout(model(*replies), settings)
    opening = find_opening("code-zh")
    first = prompts.hint("syntax", opening)
    assert hints(ran) == [first, first, prompts.line("changed_approach", opening), first]


def test_code_that_fails_again_unchanged_changes_the_approach() -> None:
    bad = "```python\nx(\n```\n"
    settings = config(openings=("plain",), repairs=2, max_code_runs=9)
    ran = run_rollout(model(bad, bad, bad, END), settings)
    change = prompts.line("changed_approach", find_opening("plain"))
    assert hints(ran) == [prompts.nudge("syntax"), change, change]


def test_a_good_cell_ends_the_row_of_failures() -> None:
    bad, good = "```python\nx(\n```\n", "```python\nprint(1)\n```\n"
    ran = run_rollout(
        model(bad, good, bad, END), config(openings=("plain",), repairs=1, max_code_runs=9)
    )
    assert hints(ran) == [prompts.nudge("syntax"), "```", prompts.nudge("syntax")]


def test_a_thinking_model_runs_code_inside_its_thinking() -> None:
    family = families()["deepseek-r1"]
    scripted = model("print(6*7)\n```\n", "It is \\boxed{1}? No.\n</think>\n\n" + END)
    ran = run_rollout(scripted, config(openings=("code",)), family=family)
    assert ran.trace.prefix == "<think>\n```python\n"
    assert ran.trace.turns[0].run is not None
    assert ran.trace.answer == "42"
    assert scripted.calls[0].conversation.messages[0].role == "user"


@pytest.mark.parametrize("opening", ["code", "late", "verify"])
@pytest.mark.parametrize("name", ["deepseek-r1", "qwen"])
def test_nothing_is_begun_for_a_model_that_cannot_go_on_from_a_reply(
    opening: str, name: str
) -> None:
    scripted = model("I compute.\n" * 40 + "```python\nprint(6*7)\n```\n", END)
    settings = config(openings=(opening,), max_tokens=4000)
    ran = run_rollout(scripted, settings, family=families()[name], continues=False)
    assert ran.trace.prefix == scripted.calls[0].conversation.reply == ""
    assert [turn.run.output for turn in ran.trace.turns if turn.run] == ["42"]
    assert (ran.trace.stop_reason, ran.trace.answer) == ("answered", "42")


def test_an_answer_in_a_new_message_is_not_checked_by_a_begun_block() -> None:
    ran = run_rollout(model("So \\boxed{42}.\n"), config(openings=("verify",)), continues=False)
    assert (ran.trace.answer, len(ran.trace.turns)) == ("42", 1)


def test_boxes_in_the_analysis_channel_do_not_end_a_rollout() -> None:
    family = families()["gpt-oss"]
    switch = "<|end|><|start|>assistant<|channel|>final<|message|>"
    scripted = model("Perhaps \\boxed{1}\nor not.\n" + switch + END)
    ran = run_rollout(scripted, config(openings=("plain",)), family=family)
    assert ran.trace.answer == "42"
    assert all(call.sampling.special_tokens for call in scripted.calls)


def test_a_family_recommends_sampling_that_the_user_overrides() -> None:
    asked: list[Sampling] = []

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        asked.append(sampling)
        return [END]

    for sampling in (SamplingConfig(), SamplingConfig(temperature=0.1)):
        run_rollout(ScriptedModel(script), config(sampling=sampling), family=families()["llama"])
    assert [(each.temperature, each.top_p) for each in asked] == [(0.6, 0.9), (0.1, 0.9)]


def test_a_family_with_tool_calls_of_its_own_gets_them() -> None:
    family = families()["openmath-nemotron"]
    soon = LATE.model_copy(update={"fence_after_thinking": 4})
    scripted = model("One two three four five.\n", "print(6*7)\n</tool_call>\n", END)
    settings = config(openings=("soon",), custom_openings=(soon,))
    ran = run_rollout(scripted, settings, family=family)
    assert ran.trace.turns[0].injected.endswith("I compute it:\n<tool_call>\n")
    assert ran.trace.turns[1].injected == "```output\n42\n```\n"
    assert ran.trace.num_code_runs == 1
    first = run_rollout(scripted, config(openings=("code",)), family=family)
    assert first.trace.prefix == "<think>\n<tool_call>\n"
