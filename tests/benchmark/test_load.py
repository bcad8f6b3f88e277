"""Loads and workloads on a virtual clock, with a model that takes a known time a token."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from aimo2.benchmark.load import MOST_WINDOWS, HopelessError, Plan, Progress, run_load
from aimo2.benchmark.meter import MeteredModel, MeteredSandbox
from aimo2.benchmark.prompts import drawn_problems
from aimo2.benchmark.workloads import Setting, Solving, Tir, decode, tree
from aimo2.config import SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.errors import ModelUnavailable
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.sandbox import CellResult
from aimo2.sandbox.fake import FakeKernel, FakeSandbox
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


def test_every_request_is_seeded_and_children_of_a_tree_differ_by_it() -> None:
    async def main() -> None:
        model = ScriptedModel(steady)
        await tree(model, SETTING, shared=True)(drawn_problems(1, 1)[0], NEVER)
        seeds = [call.sampling.seed for call in model.calls]
        assert None not in seeds
        assert len(set(seeds)) == 12

    run_virtual(main())


def with_code(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
    """A cell, and 4 tokens behind it that nobody keeps; then an answer, after a second."""
    if "```output" not in conversation.reply:
        yield Chunk("print(6 * 7)\n```\n" + "and words that are dropped", 12)
    else:
        yield Delay(1)
        yield Chunk("So it is \\boxed{42}.", 6)


def kept_of_12() -> float:
    kept, sent = len("print(6 * 7)\n```\n"), len("print(6 * 7)\n```\nand words that are dropped")
    return 12 * kept / sent


def half_a_second(code: str, space: object) -> CellResult:
    return CellResult("42\n", seconds=0.5)


@asynccontextmanager
async def tools(
    gate: asyncio.Semaphore | None = None,
) -> AsyncGenerator[tuple[Tools, MeteredModel, MeteredSandbox], None]:
    async with FakeSandbox(half_a_second) as sandbox, InstantJudge() as judge:
        metered = MeteredSandbox(sandbox, gate)
        model = MeteredModel(ScriptedModel(with_code), gate=gate)
        yield Tools(model, metered, judge, model_name="Qwen2.5-7B"), model, metered


PROBLEM = Problem(id="1", statement="What is 6 times 7?")


def test_what_a_rollout_drops_is_known_before_it_has_ended() -> None:
    async def main() -> None:
        async with tools() as (given, _, sandbox):
            tir = Tir(given, SolveConfig(openings=("code",)))
            task = asyncio.create_task(tir.work(PROBLEM, Deadline(100)))
            await asyncio.sleep(1)  # its cell has run, its answer is on the way
            assert tir.dropped.between(0, 1) == pytest.approx(12 - kept_of_12())
            assert tir.dropped.between(0.6, 1) == 0
            await task
            assert len(tir.dropped.turns) == 1
            assert [(cell.ended - cell.begun, cell.seconds) for cell in sandbox.cells] == [
                (0.5, 0.5)
            ]

    run_virtual(main())


def test_a_solver_s_question_counts_shared_turns_once() -> None:
    async def main() -> None:
        config = SolveConfig(
            openings=("code",), num_rollouts=9, concurrency=9, branch="bfs", stop="never"
        )
        async with tools() as (given, model, sandbox):
            solving = Solving(given, config)
            await solving.work(PROBLEM, Deadline(1000))
            dropped = solving.dropped.between(0, 1000)
        assert len(sandbox.cells) == 3  # one a root; the branches share them
        assert dropped == pytest.approx(3 * (12 - kept_of_12()))
        assert sum(call.num_tokens for call in model.calls) == 3 * 12 + 9 * 6

    run_virtual(main())


def test_a_slot_is_held_by_a_stream_or_by_a_cell_and_its_wait_belongs_to_neither() -> None:
    async def main() -> None:
        async with tools(asyncio.Semaphore(2)) as (given, model, sandbox):
            tir = Tir(given, SolveConfig(openings=("code",)))
            await asyncio.gather(*(tir.work(PROBLEM, NEVER) for _ in range(6)))
            spans = [(call.begun, call.ended) for call in model.calls]
            spans += [(cell.begun, cell.ended) for cell in sandbox.cells]
            for instant in (at + 1e-6 for at, _ in spans):
                assert sum(begun <= instant < ended for begun, ended in spans) <= 2
            assert all(cell.ended - cell.begun == pytest.approx(0.5) for cell in sandbox.cells)

    run_virtual(main())


class SlowStart(FakeSandbox):
    """A kernel takes two seconds to make."""

    async def create(self) -> FakeKernel:
        await asyncio.sleep(2)
        return await super().create()


def test_the_making_of_a_kernel_is_its_first_cell_s() -> None:
    async def main() -> None:
        async with SlowStart(half_a_second) as slow:
            sandbox = MeteredSandbox(slow)
            kernel = await sandbox.create()
            for _ in range(2):
                await kernel.run("1", timeout=1, deadline=NEVER)
            await (await kernel.fork()).run("1", timeout=1, deadline=NEVER)
            taken = [cell.ended - cell.begun for cell in sandbox.cells]
            assert taken == pytest.approx([2.5, 0.5, 0.5])
            assert all(cell.done and not cell.failed for cell in sandbox.cells)

    run_virtual(main())


def test_a_model_s_name_tells_the_rollouts_how_it_wants_to_be_asked() -> None:
    async def main() -> tuple[str, ...]:
        asked = ScriptedModel(with_code)
        async with tools() as (given, _, _):
            tir = Tir(replace(given, model=asked, model_name="DeepSeek-R1"), SolveConfig())
            await tir.work(PROBLEM, NEVER)
        return tuple(message.role for message in asked.calls[0].conversation.messages)

    assert run_virtual(main()) == ("user",)  # the family wants no system message


def test_drawn_problems_are_different_and_the_same_for_the_same_seed() -> None:
    first, again, other = (drawn_problems(500, seed) for seed in (1, 1, 2))
    assert first == again
    assert len({problem.statement for problem in first}) == 500
    assert first != other
    assert all(20 <= len(problem.statement.split()) <= 130 for problem in first)
