"""Loads and workloads on a virtual clock, with a model that takes a known time a token."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable

import pytest

from aimo2.answers import Canonical, canonical
from aimo2.benchmark.load import MOST_WINDOWS, HopelessError, Plan, Progress, run_load
from aimo2.benchmark.meter import MeteredModel
from aimo2.benchmark.prompts import drawn_problems
from aimo2.benchmark.workloads import Setting, Solving, Tir, decode, tree
from aimo2.config import SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.errors import ModelUnavailable
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.sandbox import CellResult
from aimo2.sandbox.fake import FakeSandbox
from aimo2.solver import Tools
from aimo2.types import Problem
from tests.scripted import InstantJudge
from tests.virtual import run_virtual

SETTING = Setting(max_tokens=10, temperature=0.7, top_p=1.0, seed=3)


def steady(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
    """A token each 0.1 s, up to the limit."""
    for _ in range(sampling.max_tokens):
        yield Delay(0.1)
        yield Chunk("x ", 1)


def drive(plan: Plan, model: MeteredModel, **options: object) -> Progress:
    progress = Progress()

    async def main() -> None:
        problems = itertools.cycle(drawn_problems(7, 1))
        await run_load(decode(model, SETTING), problems, plan, NEVER, progress)

    run_virtual(main())
    return progress


def test_so_many_requests_are_made_and_no_more() -> None:
    model = MeteredModel(ScriptedModel(steady))
    progress = drive(Plan(workers=4, requests=10), model)
    assert progress.num_done == 10
    assert len(model.calls) == 10
    assert progress.end - progress.begin == pytest.approx(3.0)  # three rounds of one second


def test_a_duration_is_kept_and_the_rest_is_cancelled() -> None:
    model = MeteredModel(ScriptedModel(steady))
    progress = drive(Plan(workers=2, duration=5.0, ramp=1.25), model)
    assert (progress.begin, progress.end) == (1.25, 6.25)
    assert Counter(call.state for call in model.calls) == {"finished": 12, "closed": 2}


def test_a_window_that_has_seen_too_little_is_prolonged_up_to_a_bound() -> None:
    model = MeteredModel(ScriptedModel(steady))
    done = [False, False, True]
    plan = Plan(workers=2, duration=2.0, ramp=1.0, enough=lambda: done.pop(0))
    progress = drive(plan, model)
    assert progress.begin == 1.0
    assert progress.end == pytest.approx(7.0)
    never = Plan(workers=2, duration=2.0, ramp=1.0, enough=lambda: False)
    assert drive(never, model).end == pytest.approx(1.0 + 2.0 * MOST_WINDOWS)


def test_single_failures_are_counted_and_the_load_goes_on() -> None:
    calls = itertools.count()

    def flaky(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if next(calls) % 3 == 1:
            yield ModelUnavailable("gone")
        yield from steady(conversation, sampling)

    progress = drive(Plan(workers=2, requests=9), MeteredModel(ScriptedModel(flaky)))
    assert (progress.num_done, progress.num_failed, progress.failure) == (6, 3, "gone")


def test_nothing_but_failures_ends_the_load() -> None:
    broken = ScriptedModel(lambda conversation, sampling: [ModelUnavailable("no server")])
    with pytest.raises(HopelessError, match="no server"):
        drive(Plan(workers=2, requests=1000), MeteredModel(broken))


def test_the_gate_bounds_streams_and_its_wait_belongs_to_no_call() -> None:
    async def main() -> None:
        model = MeteredModel(ScriptedModel(steady), gate=asyncio.Semaphore(2))
        problems = itertools.cycle(drawn_problems(7, 1))
        plan = Plan(workers=6, requests=6)
        await run_load(decode(model, SETTING), problems, plan, NEVER, Progress())
        assert [call.begun for call in model.calls] == pytest.approx([0, 0, 1, 1, 2, 2])

    run_virtual(main())


def test_a_tree_shares_its_openings_and_independent_branches_share_nothing() -> None:
    async def branches(shared: bool) -> list[Conversation]:
        model = ScriptedModel(steady)
        await tree(model, SETTING, shared=shared)(drawn_problems(1, 1)[0], NEVER)
        return [call.conversation for call in model.calls]

    for shared, roots in ((True, 3), (False, 9)):
        asked = run_virtual(branches(shared))
        assert sum(not each.reply for each in asked) == roots
        assert sum(bool(each.reply) for each in asked) == 9
        assert {each.reply for each in asked if each.reply} == {"x " * 5}


def test_children_of_a_tree_differ_by_their_seed_where_seeds_are_sent() -> None:
    async def main() -> None:
        model = ScriptedModel(steady)
        seeded = Setting(10, 0.7, 1.0, 3, request_seeds=True)
        await tree(model, seeded, shared=True)(drawn_problems(1, 1)[0], NEVER)
        seeds = [call.sampling.seed for call in model.calls]
        assert None not in seeds
        assert len(set(seeds)) == 12

    run_virtual(main())


def test_a_rollout_s_code_is_run_and_what_it_cost_is_added_up() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if "```output" not in conversation.reply:
            yield "print(6 * 7)\n```\n"
            yield "and words that nobody keeps"
        else:
            yield "So it is \\boxed{42}."

    async def canonicalise(raw: str) -> Canonical:
        return canonical(raw, "int", None)

    async def main() -> Tir:
        config = SolveConfig(openings=("code",))
        async with FakeSandbox(lambda code, space: CellResult("42\n", seconds=0.5)) as sandbox:
            tir = Tir(ScriptedModel(script), sandbox, canonicalise, config)
            await tir.work(Problem(id="1", statement="What is 6 times 7?"), Deadline(100))
        return tir

    useful = run_virtual(main()).useful
    assert (useful.num_runs, useful.num_failed, useful.running) == (1, 0, 0.5)
    assert useful.asked == pytest.approx(0.5)
    assert 0.5 < useful.share <= 1


def test_a_solver_s_question_counts_shared_turns_once() -> None:
    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if "```output" not in conversation.reply:
            yield "print(6 * 7)\n```\n"
        else:
            yield "So it is \\boxed{42}."

    async def main() -> tuple[Solving, int]:
        config = SolveConfig(
            openings=("code",), num_rollouts=9, concurrency=9, branch="bfs", stop="never"
        )
        model = ScriptedModel(script)
        async with (
            FakeSandbox(lambda code, space: CellResult("42\n", seconds=0.5)) as sandbox,
            InstantJudge() as judge,
        ):
            solving = Solving(Tools(model, sandbox, judge), config)
            await solving.work(Problem(id="1", statement="What is 6 times 7?"), Deadline(1000))
        return solving, sum(call.num_tokens for call in model.calls)

    solving, sampled = run_virtual(main())
    assert solving.useful.num_sampled == sampled
    assert solving.useful.num_runs == 3  # one a root; the branches share them
    assert solving.useful.share == pytest.approx(1.0, abs=0.05)


def test_drawn_problems_are_different_and_the_same_for_the_same_seed() -> None:
    first, again, other = (drawn_problems(500, seed) for seed in (1, 1, 2))
    assert first == again
    assert len({problem.statement for problem in first}) == 500
    assert first != other
    assert all(20 <= len(problem.statement.split()) <= 130 for problem in first)
