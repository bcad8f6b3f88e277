"""A verifier compares in parallel, within the deadline, and survives its model."""

import re
from collections.abc import Iterable

import pytest

from aimo2.config import VerifyConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.errors import ModelUnavailable
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.policy.select import Candidate
from aimo2.prompts import UNKNOWN, families
from aimo2.prompts.families import Family
from aimo2.verifier import Verdict, Verifier, candidate
from tests.scripted import config, model, run_rollout
from tests.virtual import run_virtual

CANDIDATES = [Candidate(0, "41", "It is 41."), Candidate(1, "42", "It is 42.")]


def number_of(answer: str, conversation: Conversation) -> str:
    found = re.search(rf"Solution (\d) \(answer: {answer}\)", conversation.messages[-1].content)
    assert found is not None
    return found[1]


def judge(
    scripted: ScriptedModel,
    *,
    comparisons: int = 4,
    concurrency: int = 2,
    seconds: float | None = None,
    family: Family = UNKNOWN,
) -> Verdict:
    async def main() -> Verdict:
        verifier = Verifier(scripted, family, VerifyConfig(comparisons=comparisons), concurrency)
        deadline = NEVER if seconds is None else Deadline.after(seconds)
        verdict = await verifier.judge("What is 6*7?", CANDIDATES, 7, deadline)
        assert all(call.state != "open" for call in scripted.calls)
        return verdict

    return run_virtual(main())


def right(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
    return [Delay(1), f"So \\boxed{{{number_of('42', conversation)}}}."]


def test_each_comparison_chooses_by_number_whatever_the_order() -> None:
    scripted = ScriptedModel(right)
    verdict = judge(scripted)
    assert [pick.answer for pick in verdict.picks] == ["42"] * 4
    assert verdict.num_tokens == sum(call.num_tokens for call in scripted.calls)
    assert len({call.sampling.seed for call in scripted.calls}) == 4
    assert {call.conversation.messages[-1].content.count("###") for call in scripted.calls} == {2}


def test_a_verifier_that_does_not_choose_is_made_to() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        forced = conversation.reply.endswith("\\boxed{")
        return [number_of("41", conversation) + "} yes" if forced else "Hard to say."]

    verdict = judge(ScriptedModel(script), comparisons=1)
    assert [pick.answer for pick in verdict.picks] == ["41"]


@pytest.mark.parametrize("steps", [["\\boxed{9}"], [ModelUnavailable("gone")], [""]])
def test_a_comparison_without_a_choice_is_left_out(steps: list[Step]) -> None:
    verdict = judge(ScriptedModel(lambda conversation, sampling: steps))
    assert (verdict.picks, verdict.num_comparisons) == ((), 4)


def test_the_deadline_ends_it_with_what_there_is() -> None:
    verdict = judge(ScriptedModel(right), comparisons=6, concurrency=2, seconds=2.5)
    assert len(verdict.picks) == 4


def test_equal_answers_need_no_verifier() -> None:
    async def main() -> Verdict:
        verifier = Verifier(model("no"), UNKNOWN, VerifyConfig(comparisons=3))
        return await verifier.judge("?", CANDIDATES[:1] * 3, 1, NEVER)

    assert run_virtual(main()) == Verdict((), 0, 0)


def test_boxes_in_a_verifiers_thinking_do_not_choose() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        assert conversation.reply.startswith("<think>\n")
        wrong, good = (number_of(answer, conversation) for answer in ("41", "42"))
        return [f"\\boxed{{{wrong}}}?\n</think>\n\n\\boxed{{{good}}}"]

    verdict = judge(ScriptedModel(script), comparisons=2, family=families()["deepseek-r1"])
    assert [pick.answer for pick in verdict.picks] == ["42", "42"]


def test_a_box_in_thinking_that_was_cut_off_does_not_choose() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        wrong, good = (number_of(answer, conversation) for answer in ("41", "42"))
        if conversation.reply.endswith("\\boxed{"):
            assert "</think>" in conversation.reply
            return [good + "}"]
        return [Chunk(f"Is it \\boxed{{{wrong}}}? Or", 9, (), "length")]

    scripted = ScriptedModel(script)
    verdict = judge(scripted, comparisons=2, family=families()["deepseek-r1"])
    assert [pick.answer for pick in verdict.picks] == ["42", "42"]
    assert len(scripted.calls) == 4


def test_a_solution_is_shown_without_its_thinking_and_shortened() -> None:
    family = families()["deepseek-r1"]
    reply = (
        "long thoughts\n</think>\n\nBecause. "
        + " ".join(map(str, range(900)))
        + " So \\boxed{42}.\n"
    )
    trace = run_rollout(model(reply), config(max_tokens=5000), family=family).trace
    found = candidate(trace, family, 500)
    assert found is not None
    assert found.answer == "42"
    assert found.summary.startswith("Because.")
    assert found.summary.endswith("\\boxed{42}.")
    assert len(found.summary) < 600
    assert "characters cut" in found.summary


def test_a_rollout_without_an_answer_is_no_candidate() -> None:
    assert candidate(run_rollout(model("no idea"), config()).trace, UNKNOWN, 500) is None
