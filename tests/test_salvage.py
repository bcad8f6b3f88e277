"""Forcing answers: the text, the rollout, the question, and thinking that is too short or long."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimo2.answers import Extracted
from aimo2.config import SalvageConfig
from aimo2.errors import ContextFull, ModelUnavailable
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.prompts.families import UNKNOWN, style_of
from aimo2.salvage import ThinkingMeter, box_end, forced, guess
from tests.scripted import config, model, run_rollout, run_solver

FORCE = SalvageConfig()
STYLE = style_of(UNKNOWN)


def slowly(number: int, seconds: float) -> list[Step]:
    """Different words, so that no loop is seen, one every few seconds."""
    return [step for word in range(number) for step in (f"w{word} ", Delay(seconds))]


def is_forced(conversation: Conversation) -> bool:
    return conversation.reply.endswith("\\boxed{")


def answering(*steps: Step, answer: str = "42}.") -> ScriptedModel:
    """Does `steps` when asked, and fills in a forced answer."""

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        return [answer] if is_forced(conversation) else steps

    return ScriptedModel(script)


def test_a_box_of_the_models_own_in_the_forced_one_is_its_answer() -> None:
    found = forced("The answer is \\boxed{42}.")
    assert found.answer == Extracted("42", "forced")
    assert found.text + found.closing == "The answer is \\boxed{42}."


@pytest.mark.parametrize(
    ("sampled", "kept", "closing", "answer"),
    [
        ("42}. That is", "42}", "", "42"),
        ("\\frac{1}{2}}$", "\\frac{1}{2}}", "", "\\frac{1}{2}"),
        ("42", "42", "}", "42"),
        ("42\n\nSo the", "42", "}", "42"),
        ("\\frac{1}{2", "\\frac{1}{2", "}}", "\\frac{1}{2"),
        ("\\{1\\}}", "\\{1\\}}", "", "\\{1\\}"),
        ("", "", "}", None),
        ("}", "}", "", None),
        ("?}", "?}", "", None),
    ],
)
def test_the_forced_box_is_read_up_to_its_brace(
    sampled: str, kept: str, closing: str, answer: str | None
) -> None:
    read = forced(sampled)
    assert (read.text, read.closing) == (kept, closing)
    if answer is None:
        assert read.answer is None
    else:
        assert read.answer is not None
        assert read.answer.source == "forced"
        assert read.answer.raw.startswith(answer)


@given(st.text(alphabet="{}\\a1 \n", max_size=30))
def test_the_kept_box_is_always_balanced(sampled: str) -> None:
    read = forced(sampled)
    assert box_end(read.text + read.closing) in (len(read.text + read.closing), None)
    assert sampled.lstrip().startswith(read.text.strip()) or read.text == sampled[: len(read.text)]


@pytest.mark.parametrize(
    ("text", "output", "found"),
    [
        ("so 3 or 1,234.", None, "1234"),
        ("so 3", "x = 17\n", "17"),
        ("so -3/4 it is", "", "-3/4"),
        ("nothing", None, None),
        ("9" * 100, None, None),
    ],
)
def test_a_guess_is_the_last_number(text: str, output: str | None, found: str | None) -> None:
    expected = None if found is None else Extracted(found, "guessed")
    assert guess(text, output) == expected


@given(st.lists(st.integers(min_value=0, max_value=60), max_size=8))
def test_thinking_is_metered_wherever_the_chunks_end(cuts: list[int]) -> None:
    text = "ab<think>cd ef</think>gh<think>ij</think>kl"
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    meter = ThinkingMeter(STYLE, inside=False)
    ended = [meter.feed(text[start:end], 1) for start, end in pairwise(edges)]
    assert 1 <= sum(ended) <= 2
    assert not meter.inside


def test_a_limit_of_tokens_is_followed_by_a_forced_answer_that_counts_a_quarter() -> None:
    run = run_solver(
        answering("word " * 100),
        config(num_rollouts=1, max_tokens=10, salvage=FORCE, stop="never"),
    )
    (trace,) = run.solved.traces
    assert (trace.stop_reason, trace.answer, trace.answer_source) == ("salvaged", "42", "forced")
    assert run.solved.outcome.votes == {"42": 0.25}
    assert trace.turns[0].injected.endswith("\\boxed{")
    assert trace.turns[1].text == "42}"
    last = run.model.calls[-1]
    assert (last.sampling.max_tokens, last.sampling.temperature) == (32, 0.0)
    assert last.state == "closed"


@pytest.mark.parametrize("steps", [
    ["I do not know."],
    ["Text ", Chunk("", 0, (), "length")],
    ["I try ", ContextFull("full")],
    ["and again and so on, " * 500],
    ["```python\nprint(1)\n```\n"],
])  # fmt: skip
def test_every_end_without_an_answer_is_salvaged(steps: list[Step]) -> None:
    ran = run_rollout(
        answering(*steps),
        config(salvage=FORCE, max_tokens=2000, max_code_runs=1),
        canonicalise=None,
    )
    assert ran.trace.answer in ("42", None)
    if not any(isinstance(step, ContextFull | Chunk) for step in steps):
        assert (ran.trace.answer, ran.trace.stop_reason) == ("42", "salvaged")


def test_a_full_context_gives_up_its_last_words_for_the_answer() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if len(conversation.reply) > 3000:
            return [ContextFull("full")]
        return (
            ["42}"]
            if is_forced(conversation)
            else ["".join(f"w{word} " for word in range(550)), ContextFull("full")]
        )

    ran = run_rollout(ScriptedModel(script), config(salvage=FORCE, max_tokens=10_000))
    assert (ran.trace.answer, ran.trace.stop_reason) == ("42", "salvaged")
    assert 2000 <= len(ran.trace.turns[0].text) < 3000


def test_an_open_block_and_open_thinking_are_closed_before_the_answer() -> None:
    ran = run_rollout(
        answering("<think>\nI compute\n```python\nx = 1 # and so on and on and on"),
        config(salvage=FORCE, max_tokens=12),
    )
    injected = ran.trace.turns[0].injected
    assert injected.index("```") < injected.index("</think>") < injected.index("\\boxed{")
    assert ran.trace.answer == "42"


def test_an_answer_that_stands_in_the_text_is_not_forced_again() -> None:
    ran = run_rollout(model("The answer is 17.\nAnd"), config(salvage=FORCE))
    assert (ran.trace.answer, ran.trace.answer_source) == ("17", "stated")
    assert len(ran.model.calls) == 1


def test_a_dead_model_is_not_asked_again() -> None:
    ran = run_rollout(model(["so ", ModelUnavailable("lost")]), config(salvage=FORCE))
    assert len(ran.model.calls) == 1
    assert ran.trace.stop_reason == "model_error"


@pytest.mark.parametrize("seconds", [2.0, 10.0, 100.0])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_before_the_deadline_every_live_rollout_is_made_to_answer(
    seconds: float, concurrency: int
) -> None:
    run = run_solver(
        answering(*slowly(4000, 0.05)),
        config(
            num_rollouts=3, concurrency=concurrency, salvage=FORCE, max_tokens=10_000, stop="never"
        ),
        seconds=seconds,
    )
    outcome = run.solved.outcome
    assert (outcome.answer, outcome.stop_reason) == ("42", "deadline")
    assert run.seconds <= seconds
    assert run.seconds >= 0.5 * seconds
    assert [trace.stop_reason for trace in run.solved.traces] == ["salvaged"] * concurrency


def test_salvage_begins_as_early_as_a_slow_model_needs() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if is_forced(conversation):
            return [Delay(3), *[step for _ in range(8) for step in ("4", Delay(0.5))], "}"]
        return [Delay(3), *slowly(400, 0.5)]

    run = run_solver(
        ScriptedModel(script),
        config(num_rollouts=1, salvage=FORCE, max_tokens=10_000),
        seconds=120.0,
    )
    assert run.solved.outcome.answer == "4" * 8
    assert run.seconds <= 120.0


def test_the_seconds_of_salvage_can_be_given() -> None:
    run = run_solver(
        answering(*slowly(4000, 0.05)),
        config(num_rollouts=1, salvage=SalvageConfig(seconds=20), max_tokens=10_000, stop="never"),
        seconds=100.0,
    )
    assert 79.0 < run.seconds < 80.0


def test_a_model_that_gives_nothing_usable_leaves_a_guess_at_a_lower_weight_still() -> None:
    run = run_solver(
        answering("I found 17 at first.", answer="?}"),
        config(num_rollouts=1, salvage=FORCE),
    )
    assert run.solved.outcome.votes == {"17": 0.1}
    assert run.solved.traces[0].answer_source == "guessed"
    assert run.solved.traces[0].weight == 0.1


def test_guesses_do_not_count_where_anybody_voted() -> None:
    replies = iter(["I found 17.", "?}", "\\boxed{3}"])
    run = run_solver(
        ScriptedModel(lambda conversation, sampling: [next(replies)]),
        config(num_rollouts=2, salvage=FORCE, stop="never"),
    )
    assert run.solved.outcome.votes == {"3": 1.0}


def test_a_budget_of_tokens_for_the_question_ends_it_with_answers() -> None:
    run = run_solver(
        answering(*slowly(1000, 0.1)),
        config(num_rollouts=4, concurrency=2, salvage=FORCE, stop="never").model_copy(
            update={"max_tokens": 50}
        ),
    )
    outcome = run.solved.outcome
    assert (outcome.stop_reason, outcome.answer) == ("max_tokens", "42")
    assert outcome.num_sampled_tokens <= 50 + 2 * 3
    assert outcome.num_rollouts == 2


def test_no_progress_makes_the_live_rollouts_answer_first() -> None:
    run = run_solver(
        answering("word ", Delay(1000)),
        config(num_rollouts=2, concurrency=2, salvage=FORCE),
        interrupt_after=5.0,
        interrupt_reason="no_progress",
    )
    assert (run.solved.outcome.stop_reason, run.solved.outcome.answer) == ("no_progress", "42")
    assert run.seconds == 5.0


@pytest.mark.parametrize(("extended", "seconds"), [(100.0, 60.0), (20.0, 20.0)])
def test_a_running_question_s_deadline_can_be_moved(extended: float, seconds: float) -> None:
    run = run_solver(
        answering("word ", Delay(60), "\\boxed{7}\n"),
        config(num_rollouts=1, salvage=FORCE),
        seconds=40.0,
        extend=(10.0, extended),
    )
    assert run.solved.outcome.answer == ("7" if extended > 60 else "42")
    assert run.seconds <= extended


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            ["word 5 ", Delay(0.4), Delay(9.0), "```python\nprint(3)\n```\n", "\n\n", "hm"]
        ),
        max_size=6,
    ),
    st.sampled_from([3.0, 10.0, 40.0]),
    st.integers(min_value=1, max_value=3),
    st.sampled_from(["independent", "bfs", "beam", "rebase"]),
    st.sampled_from(["42}", "4", "x}", ""]),
)
def test_there_is_an_answer_whenever_any_rollout_has_text_with_a_number_or_the_model_answers(
    steps: list[Step], seconds: float, concurrency: int, policy: str, answer: str
) -> None:
    run = run_solver(
        answering(*steps, answer=answer),
        config(
            num_rollouts=4,
            concurrency=concurrency,
            salvage=FORCE,
            branch={"policy": policy, "step_tokens": 4},
            max_tokens=40,
        ),
        seconds=seconds,
    )
    assert run.seconds <= seconds
    sampled = "".join(turn.text for trace in run.solved.traces for turn in trace.turns)
    has_text = any(trace.num_tokens for trace in run.solved.traces)
    if has_text and (answer in ("42}", "4") or any(letter.isdigit() for letter in sampled)):
        assert run.solved.outcome.answer is not None


def test_thinking_that_ends_too_early_goes_on() -> None:
    replies = iter([["<think>\nEasy.</think>\nIt is \\boxed{1}"], ["Hm.</think>\n\\boxed{2}\n"]])
    ran = run_rollout(
        ScriptedModel(lambda conversation, sampling: next(replies)),
        config(min_thinking_tokens=50, max_waits=1),
    )
    assert "</think>" not in ran.trace.turns[0].text
    assert "Wait" in ran.trace.turns[0].injected
    assert ran.trace.answer == "2"


def test_thinking_that_is_long_enough_ends_as_it_likes() -> None:
    ran = run_rollout(
        model("<think>\nI look at it.</think>\n\\boxed{1}\n"), config(min_thinking_tokens=3)
    )
    assert (ran.trace.answer, len(ran.model.calls)) == ("1", 1)


def test_thinking_that_does_not_end_is_ended_and_the_answer_asked_for() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if "</think>" in conversation.reply:
            return ["\\boxed{5}\n"]
        return ["<think>\n", "on and on and further " * 50]

    ran = run_rollout(ScriptedModel(script), config(max_thinking_tokens=20))
    assert ran.trace.answer == "5"
    assert ran.trace.answer_source == "boxed"
    assert ran.trace.num_tokens < 40
    assert "</think>" in ran.trace.turns[0].injected
