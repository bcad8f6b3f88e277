import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimo2.config import AnswerType, SalvageConfig, SolveConfig
from aimo2.deadline import Deadline
from aimo2.errors import ModelUnavailable
from aimo2.llm import Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.sandbox import CellResult
from aimo2.sandbox.fake import FakeKernel, FakeSandbox
from aimo2.solver import Solver, Tools
from aimo2.types import Outcome, Problem, StopReason
from tests.scripted import (
    PROBLEM,
    HangingJudge,
    InstantJudge,
    Recorder,
    config,
    execute,
    model,
    run_solver,
)
from tests.virtual import run_virtual


def boxed(value: object, after: float = 1.0) -> list[Step]:
    return [Delay(after), f"\\boxed{{{value}}}"]


def test_the_majority_wins_and_every_rollout_is_recorded() -> None:
    run = run_solver(model(boxed(42), boxed(7), boxed(42)), config(num_rollouts=3, stop="never"))
    outcome = run.solved.outcome
    assert (outcome.answer, outcome.votes) == ("42", {"42": 2.0, "7": 1.0})
    assert (outcome.stop_reason, outcome.num_rollouts, outcome.correct) == ("exhausted", 3, True)
    assert [trace.rollout for trace in run.solved.traces] == [0, 1, 2]
    assert outcome.num_sampled_tokens == sum(trace.num_tokens for trace in run.solved.traces)
    assert outcome.seconds == run.seconds == 3.0


def test_a_decided_vote_cancels_what_is_still_running() -> None:
    run = run_solver(
        model(boxed(42), boxed(42), boxed(7, after=500)), config(num_rollouts=4, concurrency=4)
    )
    assert run.solved.outcome.stop_reason == "majority"
    assert run.seconds == 1.0
    assert [trace.stop_reason for trace in run.solved.traces] == [
        "answered", "answered", "cancelled", "cancelled",
    ]  # fmt: skip
    assert [call.state for call in run.model.calls][2:] == ["closed", "closed"]


def test_a_decided_vote_opens_no_further_rollout() -> None:
    run = run_solver(model(boxed(42)), config(num_rollouts=8, concurrency=1))
    assert run.solved.outcome.num_rollouts == 4


def test_no_more_rollouts_stream_at_once_than_allowed() -> None:
    open_now = most = 0

    def script(conversation: Conversation, sampling: Sampling) -> Iterator[Step]:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        yield Delay(1)
        open_now -= 1
        yield "\\boxed{1}"

    run_solver(ScriptedModel(script), config(num_rollouts=9, concurrency=3, stop="never"))
    assert most == 3


@pytest.mark.parametrize("seconds", [0.1, 1.0, 10.0])
def test_the_deadline_is_never_passed_and_the_votes_so_far_decide(seconds: float) -> None:
    run = run_solver(
        model(boxed(42, after=0.2), boxed(7, after=1e6)),
        config(num_rollouts=4, concurrency=2),
        seconds=seconds,
    )
    outcome = run.solved.outcome
    assert run.seconds <= seconds
    assert outcome.stop_reason == "deadline"
    assert outcome.answer == ("42" if seconds > 0.7 else None)


def test_a_cell_that_never_ends_does_not_pass_the_deadline() -> None:
    run = run_solver(
        model("```python\nwhile True: pass\n```\n"),
        config(num_rollouts=2),
        seconds=8.0,
        script=lambda code, space: CellResult("", seconds=1e9),
    )
    assert run.seconds <= 8.0


def test_an_interrupt_keeps_the_votes_so_far() -> None:
    run = run_solver(
        model(boxed(42), boxed(7, after=100)), config(num_rollouts=2), interrupt_after=10
    )
    outcome = run.solved.outcome
    assert (outcome.answer, outcome.stop_reason, run.seconds) == ("42", "interrupted", 10.0)
    assert run.solved.traces[1].stop_reason == "cancelled"


def test_rollouts_without_answer_do_not_vote() -> None:
    run = run_solver(model("I do not know.", boxed(42)), config(num_rollouts=2, stop="never"))
    assert run.solved.outcome.votes == {"42": 1.0}


def test_no_answer_at_all_is_explained() -> None:
    run = run_solver(model("So \\boxed{x^2+1}"), config(num_rollouts=2))
    outcome = run.solved.outcome
    assert (outcome.answer, outcome.votes, outcome.correct) == (None, {}, False)
    assert outcome.stop_reason == "exhausted"
    assert outcome.note is not None


def test_a_dead_server_fails_the_question_with_its_reason() -> None:
    run = run_solver(model([ModelUnavailable("connection refused")]), config(num_rollouts=3))
    assert run.solved.outcome.stop_reason == "failed"
    assert run.solved.outcome.note == "connection refused"


def test_one_failed_rollout_does_not_fail_the_question() -> None:
    run = run_solver(model([ModelUnavailable("lost")], boxed(42)), config(num_rollouts=3))
    assert run.solved.outcome.answer == "42"


def test_a_bug_is_raised_and_everything_is_closed() -> None:
    with pytest.raises(ZeroDivisionError):
        run_solver(
            model([ZeroDivisionError()], boxed(1, 100)), config(num_rollouts=2, concurrency=2)
        )


def test_the_modulus_is_applied_outside_the_model() -> None:
    run = run_solver(
        model(boxed(41040)),
        config(modulus=1000),
        problem=Problem(id="p", statement="s", gold="40"),
    )
    assert (run.solved.outcome.answer, run.solved.outcome.correct) == ("40", True)
    assert "1000" not in run.model.calls[0].conversation.messages[0].content


def test_answers_that_cannot_be_right_have_no_vote_and_stop_nothing() -> None:
    run = run_solver(
        model(boxed(123456), boxed(123456), boxed(42), boxed(-1)),
        config(num_rollouts=4, lowest=0, highest=99_999),
        problem=Problem(id="p", statement="s", gold="42"),
    )
    outcome = run.solved.outcome
    assert (outcome.answer, outcome.votes, outcome.correct) == ("42", {"42": 1.0}, True)
    assert outcome.num_rollouts == 4
    assert {trace.error for trace in run.solved.traces if trace.answer is None} <= {
        "cannot be right: 123456 is above 99999",
        "cannot be right: -1 is below 0",
    }


def test_the_range_is_that_of_the_reduced_answer() -> None:
    run = run_solver(model(boxed(41040)), config(modulus=1000, lowest=0, highest=999))
    assert run.solved.outcome.answer == "40"


def test_a_bare_output_weighs_less_than_a_boxed_answer() -> None:
    code = "```python\nprint(7)\n```\n"
    run = run_solver(model(code, "Done.", boxed(42)), config(num_rollouts=2, stop="never"))
    assert run.solved.outcome.votes == {"42": 1.0, "7": 0.25}


def test_equal_expressions_vote_together_under_the_first_one_written() -> None:
    run = run_solver(
        model(boxed("\\frac{1}{2}"), boxed("3"), boxed("0.5")),
        config(num_rollouts=3, answer_type="expr", stop="never"),
        problem=Problem(id="p", statement="s", gold="1/2"),
    )
    outcome = run.solved.outcome
    assert list(outcome.votes.values()) == [2.0, 1.0]
    assert outcome.correct is True


@pytest.mark.parametrize(("answer_type", "votes"), [("expr", {"3, 5": 1.0}), ("int", {"5": 1.0})])
def test_boxes_in_a_list_are_one_expression_and_the_last_one_an_integer(
    answer_type: AnswerType, votes: dict[str, float]
) -> None:
    said = "They are $\\boxed{3}$ and $\\boxed{5}$.\n"
    run = run_solver(model(said), config(num_rollouts=1, answer_type=answer_type))
    assert run.solved.outcome.votes == votes


def test_a_judge_that_hangs_neither_passes_the_deadline_nor_loses_a_vote() -> None:
    """The second answer is compared for ever; the others queue behind it, a forced one too."""

    def script(conversation: Conversation, sampling: Sampling) -> list[Step]:
        if conversation.reply.endswith("\\boxed{"):
            return ["5}"]
        return next(replies)

    talking: list[Step] = ["Well. ", Delay(1e6)]
    replies = iter([boxed("x+1", 1), boxed("1+x", 2), boxed("7", 3), talking])
    run = run_solver(
        ScriptedModel(script),
        config(
            num_rollouts=4,
            concurrency=4,
            answer_type="expr",
            stop="never",
            salvage=SalvageConfig(),
        ),
        problem=Problem(id="p", statement="s"),
        seconds=10.0,
        judge=HangingJudge(),
    )
    outcome = run.solved.outcome
    assert run.seconds <= 10.0
    assert outcome.stop_reason == "deadline"
    assert outcome.votes == {"x+1": 1.0, "1+x": 1.0, "7": 1.0, "5": 0.25}
    assert [trace.weight for trace in run.solved.traces] == [1.0, 1.0, 1.0, 0.25]


def test_without_a_deadline_a_judge_that_hangs_costs_its_own_time_limit_once() -> None:
    judge = HangingJudge(takes=3.0)
    run = run_solver(
        model(boxed("x+1"), boxed("1+x"), boxed("x+1"), boxed("1+x")),
        config(num_rollouts=4, answer_type="expr", stop="never"),
        problem=Problem(id="p", statement="s"),
        judge=judge,
    )
    assert run.solved.outcome.votes == {"x+1": 2.0, "1+x": 2.0}
    assert (judge.num_asked, run.seconds) == (1, 7.0)


def test_an_expression_that_is_guessed_votes_once() -> None:
    run = run_solver(
        model("It may be 7 or so.", "}"),
        config(answer_type="expr", salvage=SalvageConfig()),
        problem=Problem(id="p", statement="s"),
    )
    assert run.solved.outcome.votes == {"7": 0.1}


class SlowToClose(FakeKernel):
    async def close(self) -> None:
        await asyncio.sleep(60)


class Sticky(FakeSandbox):
    """Its kernels are left to it rather than awaited."""

    async def create(self) -> FakeKernel:
        return SlowToClose(self.script)


def solve_stickily(scripted: ScriptedModel, asked: SolveConfig, seconds: float) -> Outcome:
    async def main() -> Outcome:
        async with InstantJudge() as judge:
            tools = Tools(scripted, Sticky(execute), judge)
            solved = await Solver(PROBLEM, asked, tools, Recorder()).solve(Deadline.after(seconds))
            return solved.outcome

    return run_virtual(main())


def test_an_answer_counts_though_its_kernel_does_not_close_in_time() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> list[Step]:
        if conversation.reply.endswith("\\boxed{"):
            return ["5}"]
        if "```output" in conversation.reply:
            return ["On and", Delay(1e6)]
        return ["1\n```\n"] if "```python" in conversation.reply else boxed(7, 1)

    asked = config(
        openings=("code", "plain"), num_rollouts=2, concurrency=2, salvage=SalvageConfig()
    )
    outcome = solve_stickily(ScriptedModel(script), asked, 3)
    assert outcome.num_code_runs == 1
    assert outcome.votes == {"7": 1.0, "5": 0.25}


def test_nothing_is_unassailable_while_votes_are_under_way() -> None:
    """Two have answered and close their kernels when the third votes."""

    def script(conversation: Conversation, sampling: Sampling) -> list[Step]:
        if "```output" in conversation.reply:
            return boxed(5, 0.1)
        return ["1\n```\n"] if "```python" in conversation.reply else boxed(7, 1)

    asked = config(
        openings=("code", "code", "plain"), num_rollouts=3, concurrency=3, stop="unassailable"
    )
    outcome = solve_stickily(ScriptedModel(script), asked, 60)
    assert (outcome.answer, outcome.votes) == ("5", {"5": 2.0, "7": 1.0})


def test_openings_are_taken_in_turn() -> None:
    run = run_solver(
        model(boxed(1)), config(num_rollouts=4, openings=("code", "plain"), stop="never")
    )
    assert [trace.opening for trace in run.solved.traces] == ["code", "plain", "code", "plain"]


@settings(deadline=None)  # other work on the machine must not fail it
@given(st.permutations([0.1, 0.2, 0.3, 0.4, 0.5]))
def test_the_vote_does_not_depend_on_the_order_of_arrival(delays: list[float]) -> None:
    answers = (3, 1, 2, 1, 3)
    run = run_solver(
        model(*(boxed(value, delay) for value, delay in zip(answers, delays, strict=True))),
        config(num_rollouts=5, concurrency=5, stop="never"),
    )
    assert run.solved.outcome.answer == "3"
    assert run.solved.outcome.votes == {"3": 2.0, "1": 2.0, "2": 1.0}


@pytest.mark.parametrize("reason", ["interrupted", "no_progress"])
def test_an_interrupt_before_the_start_ends_it_at_once(reason: StopReason) -> None:
    run = run_solver(
        model(boxed(42)), config(num_rollouts=2), interrupt_after=0.0, interrupt_reason=reason
    )
    assert (run.solved.outcome.stop_reason, run.seconds) == (reason, 0.0)


def test_a_running_question_can_be_read() -> None:
    async def main() -> None:
        sandbox = FakeSandbox(execute)
        async with sandbox, InstantJudge() as judge:
            tools = Tools(model(boxed(7, 2), boxed(42, 50)), sandbox, judge)
            solver = Solver(PROBLEM, config(num_rollouts=2, stop="never"), tools, Recorder())
            assert (solver.rollouts, solver.tally.leader, solver.num_tokens) == ((), None, 0)
            task = asyncio.create_task(solver.solve(Deadline.after(100)))
            await asyncio.sleep(10)
            assert [rollout.state for rollout in solver.rollouts] == ["done", "sampling"]
            assert (solver.tally.leader, len(solver.votes)) == ("7", 1)
            assert solver.num_tokens == solver.rollouts[0].num_tokens > 0
            assert solver.deadline == Deadline(100.0)
            solver.extend(Deadline(30.0))
            solved = await task
            assert asyncio.get_running_loop().time() <= 30.0
            assert solved.outcome.stop_reason == "deadline"

    run_virtual(main())


@settings(deadline=None, max_examples=30)
@given(st.permutations([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), st.sampled_from(["short_first", "count"]))
def test_live_weights_do_not_depend_on_the_order_of_arrival(delays: list[float], rule: str) -> None:
    texts = ["a ", "a b c ", "a b c d e ", "", "a b ", "a b c d "]
    replies: list[list[Step]] = [
        [text, Delay(delay), f"\\boxed{{{value}}}"]
        for text, delay, value in zip(texts, delays, (3, 1, 2, 1, 3, 2), strict=True)
    ]
    settled = config(
        num_rollouts=6, concurrency=6, stop="never", weigh={"rule": rule, "trivial": 0.6}
    )
    outcomes = [
        run_solver(model(*replies), settled).solved.outcome.votes,
        run_solver(
            model(*([text, f"\\boxed{{{value}}}"] for text, value in
                    zip(texts, (3, 1, 2, 1, 3, 2), strict=True))),
            settled,
        ).solved.outcome.votes,
    ]  # fmt: skip
    assert outcomes[0] == outcomes[1]
