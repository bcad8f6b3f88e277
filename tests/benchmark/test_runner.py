"""The benchmark from end to end, on fake replicas with a latency model and a virtual clock."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aimo2.benchmark import runner
from aimo2.benchmark.figures import Figures
from aimo2.benchmark.load import HopelessError, Progress
from aimo2.benchmark.runner import (
    Bench,
    Layout,
    Load,
    Target,
    best_layout,
    compare_layouts,
    run_benchmark,
)
from aimo2.deadline import Deadline
from aimo2.errors import ServerError
from aimo2.llm.router import RoutedModel
from aimo2.serving.serve import ServeOptions
from tests.llm.test_router import FakeReplica
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


def test_what_was_finished_before_an_interruption_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with_replicas(monkeypatch, lambda options: [FakeReplica()])
    load = Load(concurrent=(1, 2), max_tokens=10, duration=10.0)
    notes = Notes()

    async def main() -> Any:
        task = asyncio.create_task(run_benchmark(None, "m", ServeOptions(), load, notes, no_file))
        await asyncio.sleep(15)  # the first has taken 11.5 s, the second is on its way
        task.cancel()
        return await task

    report = run(main())
    assert [figures.concurrent for figures in report.results] == [1]
    assert "interrupted: what was finished is kept" in notes.lines


class Wide(FakeReplica):
    """Tensor parallel over `width` cards: a token comes sooner, by less than the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_seconds = 0.010 / width**0.7


def test_every_layout_is_measured_and_one_that_does_not_start_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(options: ServeOptions) -> list[FakeReplica]:
        if options.tensor_parallel == 2:
            return []
        return [Wide(options.tensor_parallel) for _ in range(options.replicas)]

    with_replicas(monkeypatch, make)
    load = Load(concurrent=(1, 64), max_tokens=20, duration=10.0)
    notes = Notes()
    chosen = [Layout(4, 1), Layout(2, 2), Layout(1, 4)]
    reports = run(compare_layouts("m", ServeOptions(), load, notes, no_file, chosen))
    assert [layout for layout, _ in reports] == [Layout(4, 1), Layout(1, 4)]
    assert "layout 2 x tensor parallel 2 is left out: it does not fit" in notes.lines
    best = best_layout(reports)
    assert best == {("decode", 1): Layout(1, 4), ("decode", 64): Layout(4, 1)}
