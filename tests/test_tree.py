"""Questions that grow as trees: shapes, prefixes, kernels, and nothing left over."""

import asyncio
import random
from collections.abc import Iterable, Sequence

import pytest

from aimo2.attempt import Attempt
from aimo2.config import BranchConfig, SalvageConfig
from aimo2.deadline import Deadline
from aimo2.errors import ContextFull, DeadlinePassed, ModelUnavailable, SandboxError
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.sandbox import CellResult
from aimo2.types import StopReason, Trace
from tests.scripted import SolverRun, config, execute, run_solver

CODE = "```python\nx = 6 * 7\nprint(x)\n```\n"


def by_progress(first: str, then: str) -> ScriptedModel:
    """Says `first` in a reply that has no code yet, and `then` afterwards."""

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        return [Delay(1), first if "```output" not in conversation.reply else then]

    return ScriptedModel(script)


def check_tree(traces: Sequence[Trace]) -> None:
    """Every branch's text is rebuilt from its parent's turns and its own."""
    by_index = {trace.rollout: trace for trace in traces}
    for trace in traces:
        if trace.parent is None:
            assert trace.num_shared_turns == 0
            continue
        parent = by_index[trace.parent]
        shared = trace.num_shared_turns
        assert trace.turns[:shared] == parent.turns[:shared]
        own = "".join(turn.text + turn.injected for turn in trace.turns[shared:])
        upto = "".join(turn.text + turn.injected for turn in parent.turns[:shared])
        assert trace.text == parent.prefix + upto + own
        assert trace.opening == parent.opening


def children(run: SolverRun, parent: int | None) -> list[int]:
    return [trace.rollout for trace in run.solved.traces if trace.parent == parent]


def test_bfs_opens_three_roots_and_then_branches_breadth_first() -> None:
    run = run_solver(
        by_progress(CODE, "So \\boxed{42}."),
        config(num_rollouts=9, concurrency=9, stop="never", branch="bfs"),
    )
    assert children(run, None) == [0, 1, 2]
    assert sorted(len(children(run, root)) for root in (0, 1, 2)) == [2, 2, 2]
    check_tree(run.solved.traces)
    outcome = run.solved.outcome
    assert outcome.num_sampled_tokens == sum(trace.num_own_tokens for trace in run.solved.traces)
    assert outcome.num_code_runs == 3
    assert run.seconds == 2.5  # two calls of 1 s and a cell of 0.5 s: no slot ever waits


def test_branches_find_the_variables_of_their_parent() -> None:
    said = (CODE, "```python\nx += 1\nprint(x)\n```\n", "So \\boxed{43}.")

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        return [said[conversation.reply.count("```output")]]

    run = run_solver(
        ScriptedModel(script),
        config(num_rollouts=6, concurrency=1, stop="never", branch={"policy": "bfs", "roots": 1}),
    )
    outputs = [[turn.run.output for turn in trace.turns if turn.run] for trace in run.solved.traces]
    assert outputs == [["42", "43"]] * 6
    assert {trace.num_shared_turns for trace in run.solved.traces} == {0, 1, 2}
    check_tree(run.solved.traces)


def test_one_stream_is_enough_for_a_tree() -> None:
    run = run_solver(
        by_progress(CODE, "So \\boxed{42}."),
        config(num_rollouts=5, concurrency=1, stop="never", branch="bfs"),
    )
    assert [trace.parent for trace in run.solved.traces] == [None, None, None, 0, 1]


def test_nobody_branches_behind_a_cell_that_failed_and_roots_are_opened_instead() -> None:
    run = run_solver(
        by_progress("```python\nnope\n```\n", "So \\boxed{42}."),
        config(num_rollouts=5, concurrency=5, stop="never", branch="bfs"),
    )
    assert children(run, None) == [0, 1, 2, 3, 4]


def test_a_long_text_without_code_branches_at_a_blank_line() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if conversation.reply:
            return ["So \\boxed{42}"]
        return ["I think. " * 40, "\n\nThere is more.\n\n", "And \\boxed{1}"]

    run = run_solver(
        ScriptedModel(script),
        config(
            num_rollouts=3,
            stop="never",
            branch={"policy": "bfs", "roots": 1, "step_tokens": 20},
        ),
    )
    assert [trace.parent for trace in run.solved.traces] == [None, 0, 0]
    assert run.solved.traces[1].turns[0].finish_reason == "closed"
    assert run.solved.traces[1].turns[0].text.endswith("\n\n")
    check_tree(run.solved.traces)


def talking(reply: str, seconds: float = 100.0) -> ScriptedModel:
    """Says `reply` first of all, then talks on, a token a second, and answers."""

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if not conversation.reply and reply:
            yield reply
        yield from (step for _ in range(int(seconds)) for step in (Delay(1), " on"))
        yield "\\boxed{42}"

    return ScriptedModel(script)


def bfs(**more: int) -> dict[str, object]:
    return {"policy": "bfs", "roots": 2, "step_tokens": 10, **more}


def test_slots_wait_for_branches_no_longer_than_it_takes_to_come_to_one() -> None:
    """Texts without a blank line or code never fork: after 20 tokens all slots get roots."""
    run = run_solver(talking(""), config(num_rollouts=6, concurrency=6, stop="never", branch=bfs()))
    assert children(run, None) == [0, 1, 2, 3, 4, 5]
    assert [round(trace.started) for trace in run.solved.traces] == [0, 0, 20, 20, 20, 20]
    assert run.seconds == 120.0


def test_slots_get_roots_at_once_where_nothing_that_runs_can_fork_any_more() -> None:
    run = run_solver(
        talking("Some words to begin with, more than ten of them all in all.\n\n"),
        config(num_rollouts=8, concurrency=8, stop="never", branch=bfs(max_depth=1)),
    )
    assert [trace.parent for trace in run.solved.traces] == [None, None, 0, 1, 0, 1, None, None]
    assert {trace.started for trace in run.solved.traces} == {0.0}
    check_tree(run.solved.traces)


def test_a_kernel_that_cannot_be_forked_costs_the_branches_only() -> None:
    def script(code: str, namespace: dict[str, object]) -> CellResult:
        namespace["unforkable"] = Unforkable()
        return execute(code, namespace)

    class Unforkable:
        def __deepcopy__(self, memo: object) -> object:
            raise SandboxError("no process could be forked")

    run = run_solver(
        by_progress(CODE, "So \\boxed{42}."),
        config(num_rollouts=4, concurrency=2, stop="never", branch="bfs"),
        script=script,
    )
    assert [trace.stop_reason for trace in run.solved.traces] == ["answered"] * 4
    assert children(run, None) == [0, 1, 2, 3]


def test_entropy_forks_before_the_unsure_token_and_asks_for_candidates() -> None:
    flat = tuple([-1.6] * 5)
    sure = (-0.001, -9.0, -9.0, -9.0, -9.0)

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        assert sampling.logprobs == 5
        if conversation.reply:
            return ["\\boxed{42}"]
        return [
            *[Chunk("a ", 1, (-0.1,), None, (sure,)) for _ in range(6)],
            Chunk("perhaps", 1, (-1.6,), None, (flat,)),
            "\\boxed{1}",
        ]

    run = run_solver(
        ScriptedModel(script),
        config(
            num_rollouts=3,
            stop="never",
            branch={"policy": "entropy", "roots": 1, "step_tokens": 16, "entropy": 1.2},
        ),
    )
    assert [trace.parent for trace in run.solved.traces] == [None, 0, 0]
    assert all(trace.turns[0].text == "a a a a a a " for trace in run.solved.traces)
    check_tree(run.solved.traces)


class Prefers:
    """A scorer that likes replies with a word in them."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.asked: list[int] = []

    async def score(
        self, waiting: Sequence[Attempt], ended: Sequence[Attempt], deadline: Deadline
    ) -> list[float]:
        self.asked.append(len(waiting))
        return [float(self.word in rollout.text) for rollout in waiting]


def steps(good_at: int = 0) -> ScriptedModel:
    """Three steps by blank lines, then an answer; one root says a good word."""
    calls = iter(range(10_000))

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        number = next(calls)
        done = conversation.reply.count("\n\n")
        if done >= 3:
            return [f"\\boxed{{{7 if 'good' in conversation.reply else 8}}}"]
        word = "good" if number == good_at else "step"
        return [Delay(1), f"A {word} of it.\n\n", "Further text"]

    return ScriptedModel(script)


@pytest.mark.parametrize("policy", ["beam", "dvts", "rebase"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_searches_by_steps_go_on_with_what_the_scorer_likes(policy: str, concurrency: int) -> None:
    scorer = Prefers("good")
    run = run_solver(
        steps(),
        config(
            num_rollouts=4,
            concurrency=concurrency,
            stop="never",
            branch={"policy": policy, "step_tokens": 6},
        ),
        scorer=scorer,
    )
    assert run.solved.outcome.answer == "7"
    assert set(run.solved.outcome.votes) == {"7"}
    check_tree(run.solved.traces)
    assert scorer.asked[0] == 4
    pruned = [trace for trace in run.solved.traces if trace.stop_reason == "pruned"]
    assert len(pruned) >= 3
    assert all(trace.answer is None for trace in pruned)


class Broken:
    """A scorer whose model fails, or never answers and knows no deadline."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.num_asked = 0

    async def score(
        self, waiting: Sequence[Attempt], ended: Sequence[Attempt], deadline: Deadline
    ) -> list[float]:
        self.num_asked += 1
        if self.error is not None:
            raise self.error
        await asyncio.sleep(1e9)
        raise AssertionError


@pytest.mark.parametrize("error", [None, ModelUnavailable("gone")])
def test_a_scorer_that_fails_is_asked_once_and_the_search_goes_on(error: Exception | None) -> None:
    scorer = Broken(error)
    run = run_solver(
        steps(-1),
        config(num_rollouts=2, concurrency=2, stop="never", branch="beam"),
        scorer=scorer,
    )
    assert scorer.num_asked == 1
    assert run.seconds == 3.0 + (0.0 if error else 10.0)
    assert run.solved.outcome.answer == "8"
    assert run.solved.outcome.note == (
        "searched without scores: gone"
        if error
        else "searched without scores: no scores within 10 s"
    )


@pytest.mark.parametrize("reason", ["deadline", "no_progress"])
def test_rollouts_that_wait_for_a_score_are_made_to_answer_in_time(reason: StopReason) -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        forced = conversation.reply.endswith("\\boxed{")
        return ["42}"] if forced else [Delay(1), "A step of it.\n\n", "Further"]

    run = run_solver(
        ScriptedModel(script),
        config(
            num_rollouts=3,
            concurrency=3,
            stop="never",
            branch="beam",
            salvage=SalvageConfig(),
        ),
        scorer=Broken(),
        seconds=6.0 if reason == "deadline" else None,
        interrupt_after=3.0 if reason == "no_progress" else None,
        interrupt_reason=reason,
    )
    assert run.solved.outcome.stop_reason == reason
    assert run.solved.outcome.votes == {"42": 0.75}
    assert run.solved.outcome.note is None
    assert [trace.stop_reason for trace in run.solved.traces] == ["salvaged"] * 3
    assert run.seconds <= 6.0


def test_after_the_last_step_every_beam_goes_on_by_itself() -> None:
    scorer = Prefers("step")
    run = run_solver(
        steps(-1),
        config(num_rollouts=2, stop="never", branch={"policy": "beam", "max_steps": 1}),
        scorer=scorer,
    )
    assert scorer.asked == [2]
    assert run.solved.outcome.stop_reason == "exhausted"


def test_branches_differ_as_the_configuration_says() -> None:
    scripted = by_progress(CODE, "So \\boxed{42}.")
    branch = BranchConfig(
        policy="bfs", roots=1, temperatures=(0.2, 1.4), nudges=("", "Let me check this.\n")
    )
    run = run_solver(scripted, config(num_rollouts=3, stop="never", branch=branch))
    assert [call.sampling.temperature for call in scripted.calls] == [0.7, 0.7, 0.2, 1.4]
    assert run.solved.traces[2].turns[1].injected == "Let me check this.\n"
    assert len({call.sampling.seed for call in scripted.calls}) == 4


STEPS: list[Step] = [
    CODE,
    "```python\nnope\n```\n",
    "Some words.\n\nAnd more of them.\n\n",
    "So \\boxed{42}.\n",
    "So \\boxed{7}.\n",
    "I do not know.",
    Delay(0.3),
    Delay(5),
    Delay(1000),
    ModelUnavailable("lost"),
    ContextFull("full"),
    DeadlinePassed("late"),
    Chunk("", 0, (), "length"),
]
POLICIES = ("independent", "bfs", "entropy", "rebase", "beam", "dvts")


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_leaks_whatever_fails_when(policy: str) -> None:
    """`run_solver` checks streams, kernels and tasks; 1,000 schedules over all policies."""
    for seed in range(1000 // len(POLICIES) + 1):
        chance = random.Random(f"{policy} {seed}")

        def script(
            conversation: Conversation, sampling: Sampling, chance: random.Random = chance
        ) -> Iterable[Step]:
            return chance.choices(STEPS, k=chance.randint(1, 4))

        def cell(
            code: str, namespace: dict[str, object], chance: random.Random = chance
        ) -> CellResult:
            if chance.random() < 0.1:
                raise SandboxError("no kernel")
            seconds = chance.choice([0.0, 0.5, 50.0])
            return CellResult("42", seconds=seconds, state_lost=chance.random() < 0.1)

        seconds = chance.choice([None, 0.4, 3.0, 20.0])
        interrupt = chance.choice([None, None, 0.2, 2.0])
        moved = chance.choice([None, None, (1.0, 2.5), (1.0, 60.0)])
        run = run_solver(
            ScriptedModel(script),
            config(
                num_rollouts=chance.randint(1, 6),
                concurrency=chance.randint(1, 4),
                stop=chance.choice(["majority", "never", "k_equal", "unassailable"]),
                branch={"policy": policy, "step_tokens": 8, "max_steps": 6},
                salvage=SalvageConfig(enabled=chance.random() < 0.7),
                max_tokens=200,
                timeout=chance.choice([None, 4.0]),
            ).model_copy(update={"max_tokens": chance.choice([None, 60])}),
            seconds=seconds,
            interrupt_after=interrupt,
            interrupt_reason=chance.choice(["interrupted", "no_progress"]),
            extend=moved if seconds is not None else None,
            script=cell,
        )
        check_tree(run.solved.traces)
        due = None if seconds is None else moved[1] if moved and seconds > 1 else seconds
        if due is not None and moved is None:
            assert run.seconds <= due
        outcome = run.solved.outcome
        assert sum(outcome.votes.values()) >= 0
        texts = any(trace.num_tokens for trace in run.solved.traces)
        assert outcome.num_rollouts == len(run.solved.traces)
        assert texts or outcome.answer is None
