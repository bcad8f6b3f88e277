"""Loads and workloads on a virtual clock, with a model that takes a known time a token."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from aimo2.benchmark.figures import measure
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


class BatchEngine:
    """An engine's latency model: each step takes `token_seconds` and gives every stream a token,
    and takes `prompt_seconds` more for each prompt that has come since the last one.
    """

    token_seconds = 0.03
    prompt_seconds = 0.02

    def __init__(self) -> None:
        self.new = 0
        self.running: set[asyncio.Queue[None]] = set()
        self.stepping: asyncio.Task[None] | None = None

    async def step(self) -> None:
        while self.running:
            prompts, self.new = self.new, 0
            streams = list(self.running)
            await asyncio.sleep(self.token_seconds + prompts * self.prompt_seconds)
            for stream in streams:
                stream.put_nowait(None)
        self.stepping = None

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        tokens = asyncio.Queue[None]()
        self.running.add(tokens)
        self.new += 1
        self.stepping = self.stepping or asyncio.create_task(self.step())
        try:
            for _ in range(sampling.max_tokens):
                await tokens.get()
                yield Chunk("x ", 1)
        finally:
            self.running.discard(tokens)


STREAMS, LENGTH = 40, 200


def speed_in_a_window(seconds: float, *, in_step: bool) -> float:
    """Tokens a second, measured as a duration is, over those of the steady state."""
    model, progress = MeteredModel(BatchEngine()), Progress()

    async def main() -> None:
        work = decode(model, replace(SETTING, max_tokens=LENGTH))

        async def whole(problem: Problem, deadline: Deadline, part: float) -> None:
            await work(problem, deadline, 1.0)

        problems = itertools.cycle(drawn_problems(7, 1))
        plan = Plan(STREAMS, None, seconds, 0.15 * seconds)
        await run_load(whole if in_step else work, problems, plan, NEVER, progress)

    run_virtual(main())
    window = (progress.begin, progress.end)
    seen = measure(model.calls, *window, workload="decode", concurrent=STREAMS, limit=LENGTH)
    cycle = LENGTH * BatchEngine.token_seconds + STREAMS * BatchEngine.prompt_seconds
    return seen.tokens_per_second / (STREAMS * LENGTH / cycle)


WINDOWS = (5.0, 6.0, 7.0, 8.0, 10.0, 12.0)
"""Seconds, of completions that take 6.8 s in the steady state."""


def test_a_short_window_of_streams_in_step_is_biased_and_one_of_ours_is_not() -> None:
    in_step = [speed_in_a_window(seconds, in_step=True) for seconds in WINDOWS]
    ours = [speed_in_a_window(seconds, in_step=False) for seconds in WINDOWS]
    assert max(in_step) - min(in_step) > 0.10
    assert ours == pytest.approx([1.0] * len(ours), abs=0.015)


def test_the_first_problems_are_cut_only_where_a_duration_is_measured() -> None:
    model = MeteredModel(ScriptedModel(steady))
    drive(Plan(workers=5, duration=5.0, ramp=0.5), model)
    firsts = sorted(call.num_tokens for call in model.calls if call.begun == 0)
    assert firsts == [2, 4, 6, 8, 10]
    whole = MeteredModel(ScriptedModel(steady))
    drive(Plan(workers=5, requests=10), whole)
    assert {call.num_tokens for call in whole.calls} == {10}


@pytest.mark.parametrize(
    ("part", "opening", "child"), [(1.0, 5, 5), (0.8, 3, 5), (0.5, 1, 5), (0.2, 1, 2)]
)
def test_part_of_a_tree_lacks_its_openings_first(part: float, opening: int, child: int) -> None:
    async def main() -> None:
        model = ScriptedModel(steady)
        await tree(model, SETTING, shared=True)(drawn_problems(1, 1)[0], NEVER, part)
        limits = Counter(call.sampling.max_tokens for call in model.calls)
        assert limits == Counter([opening] * 3) + Counter([child] * 9)

    run_virtual(main())


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
        await tree(model, SETTING, shared=shared)(drawn_problems(1, 1)[0], NEVER, 1.0)
        return [call.conversation for call in model.calls]

    for shared, roots in ((True, 3), (False, 9)):
        asked = run_virtual(branches(shared))
        assert sum(not each.reply for each in asked) == roots
        assert sum(bool(each.reply) for each in asked) == 9
        assert {each.reply for each in asked if each.reply} == {"x " * 5}


def test_every_request_is_seeded_and_children_of_a_tree_differ_by_it() -> None:
    async def main() -> None:
        model = ScriptedModel(steady)
        await tree(model, SETTING, shared=True)(drawn_problems(1, 1)[0], NEVER, 1.0)
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
            task = asyncio.create_task(tir.work(PROBLEM, Deadline(100), 1.0))
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
            await solving.work(PROBLEM, Deadline(1000), 1.0)
            dropped = solving.dropped.between(0, 1000)
        assert len(sandbox.cells) == 3  # one a root; the branches share them
        assert dropped == pytest.approx(3 * (12 - kept_of_12()))
        assert sum(call.num_tokens for call in model.calls) == 3 * 12 + 9 * 6

    run_virtual(main())


def test_part_of_a_rollout_has_so_much_of_its_tokens() -> None:
    async def main() -> set[int]:
        async with tools() as (given, _, _):
            asked = ScriptedModel(with_code)
            config = SolveConfig(openings=("code",), rollout={"max_tokens": 200})
            await Tir(replace(given, model=asked), config).work(PROBLEM, NEVER, 0.25)
            return {asked.calls[0].sampling.max_tokens}

    assert run_virtual(main()) == {50}


def test_a_slot_is_held_by_a_stream_or_by_a_cell_and_its_wait_belongs_to_neither() -> None:
    async def main() -> None:
        async with tools(asyncio.Semaphore(2)) as (given, model, sandbox):
            tir = Tir(given, SolveConfig(openings=("code",)))
            await asyncio.gather(*(tir.work(PROBLEM, NEVER, 1.0) for _ in range(6)))
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
            await tir.work(PROBLEM, NEVER, 1.0)
        return tuple(message.role for message in asked.calls[0].conversation.messages)

    assert run_virtual(main()) == ("user",)  # the family wants no system message


def test_drawn_problems_are_different_and_the_same_for_the_same_seed() -> None:
    first, again, other = (drawn_problems(500, seed) for seed in (1, 1, 2))
    assert first == again
    assert len({problem.statement for problem in first}) == 500
    assert first != other
    words = [len(problem.statement.split()) for problem in first]
    assert 10 <= min(words) < max(words) <= 120
    assert 25 <= sum(words) / len(words) <= 50  # MATH-500 has 29 on average, AMC-23 has 47
