"""Rules end single rollouts of a live question; side requests neither block nor leak."""

from collections.abc import Iterable, Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from aimo2.config import CutConfig, SalvageConfig, SamplingConfig, VerifyConfig
from aimo2.errors import ModelUnavailable
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.solver import Solved
from aimo2.types import Trace
from tests.scripted import config, model, run_rollout, run_solver

WORDS = "So we go on and on with case {}.\n"


def slowly(text: str) -> Iterator[Step]:
    """One word a second."""
    for word in text.split(" "):
        yield from (Delay(1), word + " ")


def reasoning(num_lines: int = 200) -> Iterator[Step]:
    for number in range(num_lines):
        yield from slowly(WORDS.format(number * number))


def is_probe(conversation: Conversation) -> bool:
    return conversation.reply.endswith("\\boxed{")


def probed(*answers: Step, then: str = "") -> ScriptedModel:
    """Reasons on and on; its probes say `answers` in turn, the last one again and again."""
    asked = count()

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if is_probe(conversation):
            return [Delay(2), answers[min(next(asked), len(answers) - 1)]]
        return [*reasoning(), then]

    return ScriptedModel(script)


def only(solved: Solved) -> Trace:
    assert len(solved.traces) == 1
    return solved.traces[0]


def test_agreeing_probes_end_a_rollout_with_their_answer() -> None:
    scripted = probed("42}.")
    run = run_solver(scripted, config(cut=CutConfig(probe="high"), max_tokens=4000))
    trace = only(run.solved)
    assert (trace.stop_reason, trace.answer, trace.answer_source) == ("certain", "42", "forced")
    # Two probes, at 64 and 128 tokens; each is answered two seconds and a word later.
    assert 128 <= trace.num_tokens < 160
    assert trace.num_side_tokens == sum(c.num_tokens for c in scripted.calls[1:]) > 0
    assert run.solved.outcome.num_sampled_tokens == trace.num_tokens + trace.num_side_tokens


def test_a_probe_continues_the_rollouts_own_text() -> None:
    scripted = probed("42}.")
    trace = only(run_solver(scripted, config(cut=CutConfig(probe="high"))).solved)
    side = scripted.calls[1].conversation
    assert side.messages == scripted.calls[0].conversation.messages
    shared = side.reply.partition("The final answer")[0].rstrip()
    assert trace.text.startswith(shared)
    assert scripted.calls[1].sampling.max_tokens == 20


@pytest.mark.parametrize("said", ["no, wait", "} but", "42} Hmm", "", ModelUnavailable("busy")])
def test_probes_that_say_nothing_sure_end_nothing(said: Step) -> None:
    run = run_solver(
        probed(said, then="\\boxed{7}\n"),
        config(cut=CutConfig(probe="crazy"), max_tokens=4000),
    )
    trace = only(run.solved)
    assert (trace.stop_reason, trace.answer) == ("answered", "7")


def test_a_probe_under_way_is_hung_up_on_when_its_rollout_ends() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if is_probe(conversation):
            return [Delay(10_000), "42}"]
        return [*reasoning(12), "So \\boxed{42}.\n"]

    scripted = ScriptedModel(script)
    run = run_solver(scripted, config(cut=CutConfig(probe="mid")))
    assert [call.state for call in scripted.calls[1:]] == ["closed"]
    assert run.seconds < 200


def test_tokens_of_a_probe_that_is_hung_up_on_are_counted() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if is_probe(conversation):
            return ["4", Chunk("2", 3), Delay(10_000), "}"]
        return [*reasoning(12), "So \\boxed{42}.\n"]

    scripted = ScriptedModel(script)
    outcome = run_solver(scripted, config(cut=CutConfig(probe="mid"))).solved.outcome
    assert [(call.state, call.num_tokens) for call in scripted.calls[1:]] == [("closed", 4)]
    assert outcome.num_sampled_tokens == sum(call.num_tokens for call in scripted.calls)


def test_no_probe_is_begun_inside_a_code_block() -> None:
    lines = [step for number in range(20) for step in (Delay(1), f"x{number} = {number}\n")]

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        assert not is_probe(conversation)
        return [*reasoning(1), "```python\n", *lines]

    settings = config(cut=CutConfig(probe="crazy"), max_tokens=90)
    assert only(run_solver(ScriptedModel(script), settings).solved).num_tokens == 90


def sure(confidence: float, num_tokens: int) -> list[Step]:
    top = ((-confidence, -confidence),)
    return [Chunk(f"w{n} ", 1, (-confidence,), None, top) for n in range(num_tokens)]


def test_a_rollout_less_sure_than_the_first_ones_is_cut_and_does_not_vote() -> None:
    """Replies of 20 tokens; windows of 4. The third loses confidence, the fourth does not."""
    replies = iter(
        [
            [*sure(3, 20), "So \\boxed{42}.\n"],
            [*sure(4, 20), "So \\boxed{42}.\n"],
            [*sure(4, 10), *sure(1, 10), "So \\boxed{41}.\n"],
            [*sure(4, 20), "So \\boxed{43}.\n"],
        ]
    )
    scripted = ScriptedModel(lambda conversation, sampling: next(replies))
    cut = CutConfig(confidence=True, warm_up=2, window=4)
    settings = config(cut=cut, num_rollouts=4, stop="never", branch="independent")
    run = run_solver(scripted, settings)
    stops = [trace.stop_reason for trace in run.solved.traces]
    assert stops == ["answered", "answered", "unsure", "answered"]
    assert run.solved.traces[2].answer is None
    assert run.solved.traces[2].num_tokens < 20
    assert sorted(run.solved.outcome.votes) == ["42", "43"]
    assert {call.sampling.logprobs for call in scripted.calls} == {20}


def test_a_rollout_far_longer_than_its_answered_siblings_is_cut() -> None:
    replies = iter([[*sure(1, 10), "So \\boxed{42}.\n"]] * 2 + [sure(1, 500)])
    scripted = ScriptedModel(lambda conversation, sampling: next(replies))
    settings = config(
        cut=CutConfig(length=2, length_after=2),
        num_rollouts=3,
        stop="never",
        branch="independent",
        max_tokens=600,
    )
    run = run_solver(scripted, settings)
    last = run.solved.traces[2]
    assert (last.stop_reason, last.answer) == ("too_long", None)
    assert last.num_tokens < 50


def test_an_answer_that_its_code_printed_ends_a_rollout_in_its_thinking() -> None:
    code = "<think>\n```python\nprint(6*7)\n```\n"
    on = config(cut=CutConfig(confirmed=True), stop_at_answer=False)
    scripted = model(code, "Not \\boxed{41}. It is \\boxed{42}. " + "And so on.\n" * 9)
    trace = run_solver(scripted, on).solved.traces[0]
    assert (trace.stop_reason, trace.answer, trace.answer_source) == ("answered", "42", "boxed")
    assert "And" not in trace.text


def test_without_a_rule_nobody_watches() -> None:
    trace = run_rollout(model("So \\boxed{42}.\n"), config(sampling=SamplingConfig())).trace
    assert trace.num_side_tokens == 0


def test_a_verifier_turns_a_vote_and_is_counted() -> None:
    replies = iter([["\\boxed{41}\n"], ["\\boxed{41}\n"], ["\\boxed{42}\n"]])

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        asked = conversation.messages[-1].content
        if "## Solutions" not in asked:
            return next(replies)
        number = 1 if asked.index("answer: 42") < asked.index("answer: 41") else 2
        return [f"\\boxed{{{number}}}"]

    settings = config(
        num_rollouts=3,
        stop="never",
        branch="independent",
        verify=VerifyConfig(comparisons=4),
    )
    scripted = ScriptedModel(script)
    outcome = run_solver(scripted, settings).solved.outcome
    assert outcome.answer == "42"
    assert outcome.votes == {"42": 4.0, "41": 2.0}
    assert outcome.num_sampled_tokens == sum(call.num_tokens for call in scripted.calls)


def test_a_unanimous_vote_needs_no_verifier() -> None:
    settings = config(
        num_rollouts=2, stop="never", branch="independent", verify=VerifyConfig(comparisons=4)
    )
    scripted = model("\\boxed{42}\n")
    assert run_solver(scripted, settings).solved.outcome.votes == {"42": 2.0}
    assert len(scripted.calls) == 2


@pytest.mark.parametrize("ended_by", ["deadline", "interrupt"])
def test_a_verifier_never_passes_the_deadline_and_can_be_interrupted(ended_by: str) -> None:
    replies = iter([["\\boxed{41}\n"], ["\\boxed{41}\n"], ["\\boxed{42}\n"]])

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if "## Solutions" in conversation.messages[-1].content:
            return [Delay(10_000), "\\boxed{1}"]
        return next(replies)

    settings = config(
        num_rollouts=3,
        stop="never",
        branch="independent",
        verify=VerifyConfig(comparisons=4),
    )
    run = run_solver(
        ScriptedModel(script),
        settings,
        seconds=100 if ended_by == "deadline" else None,
        interrupt_after=5 if ended_by == "interrupt" else None,
    )
    assert run.seconds <= (100 if ended_by == "deadline" else 6)
    assert run.solved.outcome.votes == {"41": 2.0, "42": 1.0}


def test_time_for_the_verifier_is_kept_at_the_questions_end() -> None:
    steps: list[list[Step]] = [["\\boxed{41}\n"], ["\\boxed{42}\n"], [Delay(10_000)]]
    replies = iter(steps)

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if "## Solutions" in conversation.messages[-1].content:
            return [Delay(15), "\\boxed{1}"]
        return next(replies)

    settings = config(
        num_rollouts=3,
        stop="never",
        branch="independent",
        verify=VerifyConfig(comparisons=1, seconds=20),
    )
    run = run_solver(ScriptedModel(script), settings, seconds=100)
    assert run.seconds <= 100
    assert max(run.solved.outcome.votes.values()) == 3.0


CUTS = st.builds(
    CutConfig,
    confirmed=st.booleans(),
    probe=st.sampled_from([None, "crazy", "high", "mild"]),
    confidence=st.booleans(),
    warm_up=st.integers(1, 3),
    window=st.sampled_from([1, 8]),
    length=st.sampled_from([None, 1.1, 3.0]),
    length_after=st.integers(1, 2),
)
PIECES = st.sampled_from(
    [
        "Maybe \\boxed{42}? ",
        "So we go on.\n",
        "```python\nprint(42)\n```\n",
        "```output\n7\n```\n",
        "\\boxed{41}\n",
        "</think>\n",
    ]
)
STEPS = st.one_of(
    PIECES,
    st.floats(0, 40).map(Delay),
    st.floats(0.1, 9).map(lambda value: Chunk("w ", 1, (-value,), None, ((-value, -value),))),
    st.just(ModelUnavailable("gone")),
)


@trying(max_examples=60, deadline=None)
@given(CUTS, st.lists(st.lists(STEPS, max_size=30), min_size=1, max_size=6), st.integers(5, 300))
def test_whatever_happens_every_rollout_ends_once_and_nothing_leaks(
    cut: CutConfig, replies: list[list[Step]], seconds: int
) -> None:
    """`run_solver` itself checks that no stream, kernel or task stays open."""
    calls = count()

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        return replies[next(calls) % len(replies)]

    ran = run_solver(
        ScriptedModel(script),
        config(
            cut=cut,
            openings=("plain", "late", "verify", "code"),
            num_rollouts=5,
            concurrency=2,
            max_tokens=200,
            verify=VerifyConfig(comparisons=2),
            salvage=SalvageConfig(),
        ),
        seconds=seconds,
    )
    assert ran.seconds <= seconds
    for trace in ran.solved.traces:
        assert (trace.answer is None) or trace.stop_reason != "unsure"
        assert trace.text == trace.prefix + "".join(t.text + t.injected for t in trace.turns)
        assert trace.num_code_runs <= 4
