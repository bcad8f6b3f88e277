"""The benchmark from end to end, on fake replicas with a latency model and a virtual clock."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aimo2.benchmark import runner
from aimo2.benchmark.figures import Figures
from aimo2.benchmark.load import HopelessError, Progress
from aimo2.benchmark.prompts import drawn_problems
from aimo2.benchmark.report import Report
from aimo2.benchmark.runner import (
    Bench,
    Layout,
    Load,
    Target,
    best_layout,
    compare_layouts,
    decode_prompts,
    run_benchmark,
)
from aimo2.benchmark.workloads import Setting, decode
from aimo2.config import ServerConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.errors import ConfigError, ServerError
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.llm.client import OpenAIModel
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.llm.router import RoutedModel
from aimo2.sandbox import CellResult
from aimo2.sandbox.fake import FakeSandbox
from aimo2.serving import gpu
from aimo2.serving.gpu import Card
from aimo2.serving.serve import ServeOptions
from tests.llm.fake_server import FakeServer, Knobs
from tests.llm.test_router import FakeReplica
from tests.scripted import InstantJudge
from tests.virtual import run_virtual


class Notes:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.begun_: list[tuple[str, int]] = []
        self.num_tokens = 0

    def notice(self, line: str) -> None:
        self.lines.append(line)

    def begun(self, workload: str, concurrent: int, load: Load) -> None:
        self.begun_.append((workload, concurrent))

    def tokens(self, number: int, progress: Progress) -> None:
        self.num_tokens += number

    def ended(self, figures: Figures) -> None:
        self.lines.append(f"{figures.workload} ended")


def target_of(*replicas: FakeReplica) -> tuple[Target, RoutedModel]:
    model = RoutedModel(replicas, [f"r{index}" for index in range(len(replicas))])
    return Target(model, (), "fake", None, tuple), model


def measured(load: Load, *replicas: FakeReplica) -> tuple[list[Figures], Notes]:
    notes = Notes()

    async def main() -> list[Figures]:
        target, model = target_of(*replicas)
        await model.connect(Deadline.after(1))
        bench = Bench(target, load, notes)
        await bench.run()
        return bench.results

    return run_virtual(main()), notes


def test_tokens_a_second_are_those_of_the_latency_model() -> None:
    load = Load(concurrent=(1, 8), max_tokens=50, duration=20.0)
    one, eight = measured(load, FakeReplica())[0]
    # 11 ms a token alone, 18 ms with seven more streams; prompts cost up to 40 ms.
    assert one.tokens_per_second == pytest.approx(1 / 0.011, rel=0.1)
    assert eight.tokens_per_second == pytest.approx(8 / 0.018, rel=0.1)
    assert one.between_tokens is not None
    assert one.between_tokens.median == pytest.approx(0.011)
    assert one.num_failed == eight.num_failed == 0


def test_two_replicas_give_almost_twice_the_tokens_of_one() -> None:
    load = Load(concurrent=(32,), max_tokens=50, duration=20.0)
    (alone,) = measured(load, FakeReplica())[0]
    (both,) = measured(load, FakeReplica(), FakeReplica())[0]
    assert both.tokens_per_second > 1.5 * alone.tokens_per_second


def test_a_tree_has_its_branches_sooner_than_independent_ones_since_it_samples_less() -> None:
    seconds = {}
    for workload in ("tree", "independent"):
        replicas = (FakeReplica(), FakeReplica())
        load = Load(workloads=(workload,), concurrent=(9,), max_tokens=40, requests=12)
        (figures,), notes = measured(load, *replicas)
        assert figures.num_units == 12
        assert figures.num_tokens == 12 * (3 * 20 + 9 * 20 if workload == "tree" else 9 * 40)
        assert notes.begun_ == [(workload, 9)]
        seconds[workload] = figures.seconds
        assert sum(replica.num_cached for replica in replicas) > 0
    assert seconds["tree"] < 0.8 * seconds["independent"]


def test_a_requests_run_counts_every_token_from_the_first_request_to_the_last() -> None:
    load = Load(workloads=("decode",), concurrent=(3,), max_tokens=25, requests=10)
    (figures,), notes = measured(load, FakeReplica())
    assert (figures.num_units, figures.num_tokens) == (10, 250)
    assert notes.num_tokens >= 250  # the warm-up's are heard, too


def test_a_dead_server_ends_the_run_and_says_so() -> None:
    replica = FakeReplica()

    async def main() -> None:
        target, model = target_of(replica)
        await model.connect(Deadline.after(1))
        replica.alive = False
        await Bench(target, Load(duration=5.0, max_tokens=5), Notes()).run()

    with pytest.raises(HopelessError, match="no token came"):
        run_virtual(main())


def with_replicas(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[ServeOptions], list[FakeReplica]]
) -> None:
    """`run_benchmark` starts these instead of servers."""

    @asynccontextmanager
    async def opened(
        served: object, model: str, options: ServeOptions, *rest: object
    ) -> AsyncGenerator[Target, None]:
        replicas = make(options)
        if not replicas:
            raise ServerError("it does not fit")
        target, routed = target_of(*replicas)
        await routed.connect(Deadline.after(1))
        yield target

    monkeypatch.setattr(runner, "open_target", opened)


def no_file(name: str) -> Path:
    raise AssertionError(name)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return run_virtual(main)


LOAD = Load(concurrent=(1, 2), max_tokens=10, duration=10.0)


async def benchmark(load: Load, kept: list[Report], before: Report | None = None) -> None:
    """A run of `run_benchmark`; `kept` hears of its reports."""
    await run_benchmark(
        None, "m", ServeOptions(), load, Notes(), no_file, kept.append, before=before
    )


async def broken_off(load: Load, kept: list[Report], seconds: float) -> None:
    task = asyncio.create_task(benchmark(load, kept))
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def streams(report: Report) -> list[int]:
    return [figures.concurrent for figures in report.results]


def test_each_measurement_is_handed_over_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    with_replicas(monkeypatch, lambda options: [FakeReplica()])
    kept: list[Report] = []
    run(benchmark(LOAD, kept))
    assert [(streams(each), each.complete) for each in kept] == [([1], False), ([1, 2], True)]


def test_an_interrupted_run_is_not_complete_and_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_replicas(monkeypatch, lambda options: [FakeReplica()])
    kept: list[Report] = []
    run(broken_off(LOAD, kept, 15))  # the first has taken 11.5 s, the second is on its way
    assert [(streams(each), each.complete) for each in kept] == [([1], False)]
    run(benchmark(LOAD, kept, before=kept[-1]))
    assert len(kept) == 2  # one measurement more
    assert (streams(kept[-1]), kept[-1].complete) == ([1, 2], True)
    assert kept[-1].results[0].tokens_per_second == kept[0].results[0].tokens_per_second


def test_nothing_is_started_for_a_report_that_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    with_replicas(monkeypatch, lambda options: [FakeReplica()])
    kept: list[Report] = []
    run(benchmark(LOAD, kept))
    with_replicas(monkeypatch, lambda options: [])
    run(benchmark(LOAD, kept, before=kept[-1]))
    assert kept[-1] == kept[-2]


def test_a_report_of_other_conditions_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    with_replicas(monkeypatch, lambda options: [FakeReplica()])
    kept: list[Report] = []
    run(broken_off(LOAD, kept, 15))
    with pytest.raises(ConfigError, match=r"temperature was 0\.7 in that report and is 1\.0 now"):
        run(benchmark(replace(LOAD, temperature=1.0), kept, before=kept[-1]))


def test_measurements_with_failures_are_made_again() -> None:
    kept = measured(LOAD, FakeReplica())[0]
    failed = kept[1].model_copy(update={"num_failed": 3})
    assert LOAD.missing(kept) == []
    assert LOAD.missing([kept[0], failed]) == [("decode", 2)]
    assert replace(LOAD, max_tokens=11).missing(kept) == [("decode", 1), ("decode", 2)]


def test_what_was_measured_while_a_server_died_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @asynccontextmanager
    async def opened(*rest: object) -> AsyncGenerator[Target, None]:
        target, routed = target_of(FakeReplica())
        await routed.connect(Deadline.after(1))
        died = asyncio.get_running_loop().time() + 15

        def failures() -> list[str]:
            return ["it died"] if asyncio.get_running_loop().time() > died else []

        yield replace(target, failures=failures)

    monkeypatch.setattr(runner, "open_target", opened)
    kept: list[Report] = []
    with pytest.raises(ServerError, match="it died"):
        run(benchmark(LOAD, kept))
    assert [(streams(each), each.complete) for each in kept] == [([1], False)]


class Activity:
    """Counts streams and cells that run, and the most of both together."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    def enter(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)


class Server(ScriptedModel):
    """Writes a cell, and answers when its output is there; a token takes 0.1 s."""

    features = FakeReplica.features
    context_length = 4096
    name = "m"

    def __init__(self, activity: Activity) -> None:
        super().__init__(self.script)
        self.activity = activity

    def script(self, conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        text = "So it is \\boxed{42}." if "```output" in conversation.reply else "6 * 7\n```\n"
        for _ in range(10):
            yield Delay(0.1)
            yield Chunk("", 1)
        yield Chunk(text, 1)

    async def stream(self, *args: Any) -> AsyncGenerator[Chunk, None]:
        self.activity.enter()
        try:
            async for chunk in super().stream(*args):
                yield chunk
        finally:
            self.activity.now -= 1


def solving(workload: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Figures, int]:
    """One measurement of 6 slots, and the most streams and cells that ran together."""
    activity = Activity()

    def cell(code: str, space: object) -> CellResult:
        activity.enter()
        asyncio.get_running_loop().call_later(1.0, leave)
        return CellResult("42\n", seconds=1.0)

    def leave() -> None:
        activity.now -= 1

    class Ready(FakeSandbox):
        async def report(self) -> None:
            """It is."""

    monkeypatch.setattr(runner, "make_sandbox", lambda kernel: Ready(cell))
    monkeypatch.setattr(runner, "Judge", InstantJudge)

    async def main() -> Figures:
        target = Target(Server(activity), (), "fake", None, tuple)  # type: ignore[arg-type]
        load = Load(workloads=(workload,), concurrent=(6,), duration=30.0, **options)
        bench = Bench(target, load, Notes())
        await bench.run()
        return bench.results[0]

    return run_virtual(main()), activity.most


@pytest.mark.parametrize("workload", ["tir", "solver"])
def test_so_many_rollouts_stream_or_run_code_as_are_asked_for(
    workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, most = solving(workload, monkeypatch)
    assert most == 6
    assert figures.code is not None
    assert figures.code.num_runs > 20
    assert figures.code.waiting == pytest.approx(0)


def test_oversubscribed_rollouts_stream_while_others_run_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures, _ = solving("tir", monkeypatch)
    more, most = solving("tir", monkeypatch, oversubscribed=True)
    assert 6 < most <= 12
    assert more.tokens_per_second > 1.2 * figures.tokens_per_second


def test_plain_solving_runs_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    figures, most = solving("plain", monkeypatch)
    assert figures.code is not None
    assert (figures.code.num_runs, most) == (0, 6)
    assert figures.num_units > 0


CARDS = tuple(Card(n, "A", 80_000, 8_000, (9, 0), f"GPU-{n}") for n in (0, 1, 2))


def cards_of(*urls: str) -> tuple[tuple[int, ...], bool]:
    cards, others = runner._cards_of(ServerConfig(base_url=urls[0], more_urls=urls[1:]))
    return tuple(card.index for card in cards), others


def test_the_cards_of_a_server_here_are_those_of_the_processes_behind_its_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind = {8000: frozenset({70, 71}), 8001: frozenset({80}), 80: frozenset({90})}
    computing = {71: "GPU-1", 80: "GPU-2"}
    monkeypatch.setattr(gpu, "cards", lambda: CARDS)
    monkeypatch.setattr(runner, "serving", lambda port: behind.get(port, frozenset()))
    monkeypatch.setattr(
        gpu, "_query", lambda *_: "\n".join(f"{pid}, {uuid}" for pid, uuid in computing.items())
    )
    assert cards_of("http://127.0.0.1:8000/v1") == ((1,), False)
    assert cards_of("http://127.0.0.1:8000/v1", "http://localhost:8001/v1") == ((1, 2), False)
    assert cards_of("http://far.example:8000/v1") == ((), False)
    # Nothing of it is seen: all that hold a model, and others' may be among them.
    assert cards_of("http://127.0.0.1/v1") == ((0, 1, 2), True)
    assert cards_of("http://127.0.0.1:9/v1") == ((0, 1, 2), True)
    monkeypatch.setattr(gpu, "cards", lambda: (replace(CARDS[0], free_mib=79_990), CARDS[1]))
    assert cards_of("http://127.0.0.1:9/v1") == ((1,), False)


@pytest.mark.parametrize("flavour", ["llamacpp", "vllm"])
def test_prompts_for_other_programs_are_as_decode_sends_them(flavour: Any) -> None:
    async def main() -> tuple[Sequence[str], list[str]]:
        async with FakeServer(Knobs(flavour=flavour)) as server, OpenAIModel(server.url) as model:
            served = ServerConfig(base_url=server.url)
            texts = await decode_prompts(served, 3, 5, lambda line: None)
            await model.connect(NEVER)
            for problem in drawn_problems(3, 5):
                await decode(model, Setting(4, 0.7, 1.0, 0))(problem, NEVER, 1.0)
            return texts, [request.body["prompt"] for request in server.completions]

    texts, sent = asyncio.run(main())
    assert len(set(texts)) == 3
    assert texts == sent


def test_a_server_that_takes_messages_only_has_no_prompts_for_other_programs() -> None:
    async def main() -> None:
        async with FakeServer(Knobs(chat_only=True)) as server:
            await decode_prompts(ServerConfig(base_url=server.url), 3, 5, lambda line: None)

    with pytest.raises(ConfigError, match="asked by messages"):
        asyncio.run(main())


class Wide(FakeReplica):
    """Tensor parallel over `width` cards: a token comes sooner, by less than the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_seconds = 0.010 / width**0.7


def of_width(options: ServeOptions) -> list[FakeReplica]:
    if options.tensor_parallel == 2:
        return []
    return [Wide(options.tensor_parallel) for _ in range(options.replicas)]


def compared(
    monkeypatch: pytest.MonkeyPatch,
    num_cards: int,
    make: Callable[[ServeOptions], list[FakeReplica]] = of_width,
    seconds: float | None = None,
) -> tuple[dict[Layout, Report], Notes]:
    """`compare_layouts`, cancelled after so many seconds."""
    with_replicas(monkeypatch, make)
    load = Load(concurrent=(1, 64), max_tokens=20, duration=4.0)
    notes, reports = Notes(), dict[Layout, Report]()

    async def main() -> None:
        task = asyncio.create_task(
            compare_layouts(
                "m", ServeOptions(), load, notes, no_file, num_cards, reports.__setitem__
            )
        )
        if seconds is None:
            await task
            return
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    return reports, notes


def test_every_layout_is_measured_and_one_that_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports, notes = compared(monkeypatch, 4)
    assert list(reports) == [Layout(4, 1), Layout(1, 4)]
    assert "layout 2 x tensor parallel 2 broke off: it does not fit" in notes.lines
    best = best_layout(reports)
    assert best == {("decode", 1): Layout(1, 4), ("decode", 64): Layout(4, 1)}


def test_idle_cards_of_a_layout_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _, notes = compared(monkeypatch, 3)
    assert "layout: 1 x tensor parallel 2, 1 of 3 GPUs idle" in notes.lines


def test_an_error_of_another_kind_costs_no_other_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(options: ServeOptions) -> list[FakeReplica]:
        if options.tensor_parallel == 2:
            raise ConfigError("not with this model")
        return of_width(options)

    reports, notes = compared(monkeypatch, 4, make)
    assert list(reports) == [Layout(4, 1), Layout(1, 4)]
    assert "layout 2 x tensor parallel 2 broke off: not with this model" in notes.lines


def test_an_interruption_starts_no_other_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    reports, notes = compared(monkeypatch, 4, seconds=8)
    assert [(layout, streams(report)) for layout, report in reports.items()] == [
        (Layout(4, 1), [1])
    ]
    assert [line for line in notes.lines if line.startswith("layout")] == [
        "layout: 4 x tensor parallel 1"
    ]
