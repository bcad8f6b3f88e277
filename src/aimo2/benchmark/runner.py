"""Run the benchmark: start or find a server, warm it up, measure each workload, say what limits.

Knows no terminal: who watches gets events through `Listener`.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import aimo2
from aimo2.answers import Canonical, Judge
from aimo2.benchmark.figures import Code, Figures, limiting, measure, prefix_hits
from aimo2.benchmark.load import HopelessError, Plan, Progress, run_load
from aimo2.benchmark.meter import MeteredModel
from aimo2.benchmark.monitor import Monitor, Source
from aimo2.benchmark.prompts import drawn_problems
from aimo2.benchmark.report import Report, Setup
from aimo2.benchmark.workloads import Setting, Solving, Tir, Useful, Work, decode, tree
from aimo2.config import (
    BranchConfig,
    KernelConfig,
    RolloutConfig,
    SamplingConfig,
    ServerConfig,
    SolveConfig,
    StopConfig,
)
from aimo2.deadline import NEVER, Deadline
from aimo2.engine import ServedModel, open_served, route
from aimo2.errors import ServerError
from aimo2.llm.client import Endpoint
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.serving import gpu, machine
from aimo2.serving.serve import Running, ServeOptions, serve
from aimo2.solver import Tools
from aimo2.types import Problem

WorkloadName = Literal["decode", "tir", "solver", "tree", "independent"]
_DRAWN = 4096
_WARM_TOKENS = 16
_CONNECT_SECONDS = 60.0
_RAMP_SHARE = 0.15
_LONGEST_RAMP = 10.0
_SOLVER_ROLLOUTS = 9
_LEAST_TOKENS = 16
"""A stream: a window with fewer tokens is prolonged."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured. Without `requests`, each measurement lasts `duration` seconds."""

    workloads: tuple[WorkloadName, ...] = ("decode",)
    concurrent: tuple[int, ...] = (1,)
    max_tokens: int = 512
    requests: int | None = None
    duration: float = 30.0
    seed: int = 0
    temperature: float = 0.7
    top_p: float = 1.0
    logprobs: bool = False
    cell_timeout: float = 5.0
    """Seconds of one code run of the workloads `tir` and `solver`."""
    problems: tuple[Problem, ...] = ()
    """Empty takes drawn ones."""


@dataclass(frozen=True, slots=True)
class Target:
    """An open server. `slots`: streams that it takes at once, where that is known."""

    model: ServedModel
    sources: tuple[Source, ...]
    engine: str
    slots: int | None
    failures: Callable[[], Sequence[str]]


class Listener(Protocol):
    """Whoever watches a run."""

    def notice(self, line: str) -> None:
        """Something for a person."""
        ...

    def begun(self, workload: str, concurrent: int, load: Load) -> None:
        """A measurement begins."""
        ...

    def tokens(self, number: int, progress: Progress) -> None:
        """Tokens have arrived."""
        ...

    def ended(self, figures: Figures) -> None:
        """A measurement has ended."""
        ...


@asynccontextmanager
async def open_target(
    served: ServerConfig | None,
    model: str,
    options: ServeOptions,
    listener: Listener,
    local_file: Callable[[str], Path],
) -> AsyncGenerator[Target, None]:
    """Somebody's server, or one of our own. Raises `SetupError`, `ConfigError` or `ModelError`."""
    async with AsyncExitStack() as stack:
        running: Running | None = None
        if served is not None:
            client = await open_served(served, stack, listener.notice)
        else:
            running = await stack.enter_async_context(
                serve(model, options, listener.notice, local_file)
            )
            endpoints = [_endpoint(running, index) for index in range(len(running.servers))]
            client = await route(endpoints, None, None, stack, listener.notice)
        await client.connect(Deadline.after(_CONNECT_SECONDS))
        yield Target(
            client,
            _sources(served, running),
            running.engine if running else "server",
            running.slots if running else None,
            running.failures if running else tuple,
        )


def _endpoint(running: Running, index: int) -> Callable[[], Endpoint]:
    return lambda: Endpoint(*running.servers[index].endpoint())


def _sources(served: ServerConfig | None, running: Running | None) -> tuple[Source, ...]:
    if running is not None:
        return tuple(Source(url, key) for url, key in running.endpoints())
    assert served is not None
    import os

    key = os.environ.get(served.api_key_env) if served.api_key_env else None
    return tuple(Source(url, key) for url in (served.base_url, *served.more_urls))


class Bench:
    """Measures one target. `results` holds what is finished, also after an interruption."""

    def __init__(self, target: Target, load: Load, listener: Listener) -> None:
        self.results: list[Figures] = []
        self._target = target
        self._load = load
        self._listener = listener
        self._with_gpu = bool(gpu.cards())
        self._drawn = load.problems or tuple(drawn_problems(_DRAWN, load.seed))
        self._used = 0

    async def run(self) -> None:
        """Every workload at every concurrency, in turn.

        Raises `ServerError` where the server is gone, `HopelessError` where nothing succeeds.
        """
        self._listener.notice("warming up")
        await self._warm_up()
        for workload, concurrent in itertools.product(self._load.workloads, self._load.concurrent):
            figures = await self._measure(workload, concurrent)
            self.results.append(figures)
            self._listener.ended(figures)
            if failures := self._target.failures():
                raise ServerError(failures[0])

    async def _warm_up(self) -> None:
        """A few tokens on as many streams as will be used: graphs, pools and caches are made."""
        number = min(max(self._load.concurrent), 2 * (self._target.slots or 256))
        work = decode(self._target.model, self._setting(_WARM_TOKENS))
        plan = Plan(workers=number, requests=number)
        await run_load(work, self._problems(), plan, Deadline.after(600), Progress())

    def _setting(self, max_tokens: int) -> Setting:
        load = self._load
        return Setting(max_tokens, load.temperature, load.top_p, load.seed, load.logprobs)

    def _problems(self) -> "itertools.chain[Problem]":
        """Endlessly; what was used for one measurement comes last in the next.

        When all were used, they come again under other names: other seeds, and a prefix cache
        that knows them. With a file of few prompts this cannot be avoided, with drawn ones it is.
        """
        return itertools.chain.from_iterable(self._round(number) for number in itertools.count())

    def _round(self, number: int) -> "list[Problem]":
        del number
        start, self._used = self._used, self._used + len(self._drawn)
        if self._load.problems:
            return [p.model_copy(update={"id": f"{p.id}/{start}"}) for p in self._drawn]
        return list(drawn_problems(_DRAWN, self._load.seed + 1 + start // _DRAWN))

    async def _measure(self, workload: WorkloadName, concurrent: int) -> Figures:
        load, progress = self._load, Progress()
        self._listener.begun(workload, concurrent, load)
        gate = MeteredModel(
            self._target.model,
            lambda number: self._listener.tokens(number, progress),
            asyncio.Semaphore(concurrent),
        )
        plan = Plan(
            workers=_workers(workload, concurrent),
            requests=load.requests,
            duration=load.duration,
            ramp=min(_LONGEST_RAMP, _RAMP_SHARE * load.duration),
            enough=lambda: self._enough(gate, progress, concurrent),
        )
        async with AsyncExitStack() as stack:
            work, useful = await self._work(workload, gate, stack)
            monitor = await stack.enter_async_context(
                Monitor(self._target.sources, with_gpu=self._with_gpu)
            )
            await run_load(work, self._problems(), plan, NEVER, progress, monitor.begin)
            machine_seen = await monitor.end()
        if machine_seen.prefix_hits is None:  # no counters to read: by what each reply said
            hits = prefix_hits(gate.calls, progress.begin, progress.end)
            machine_seen = machine_seen.model_copy(update={"prefix_hits": hits})
        figures = measure(
            gate.calls,
            progress.begin,
            progress.end,
            workload=workload,
            concurrent=concurrent,
            limit=load.max_tokens,
        ).model_copy(update={"machine": machine_seen})
        if not figures.num_tokens and not figures.num_failed:
            raise HopelessError(
                f"{workload} x{concurrent}: no token came in {figures.seconds:.0f} s; "
                "is the server alive, and is anything else using its cores?"
            )
        streaming = sum(call.ended - call.begun for call in gate.calls)
        return self._judged(figures, useful, progress, streaming)

    def _enough(self, gate: MeteredModel, progress: Progress, concurrent: int) -> bool:
        """Whether the window has seen what its streams do, and not only their prompts."""
        streams = min(concurrent, self._target.slots or concurrent)
        seen = sum(
            count
            for call in gate.calls
            for instant, count in zip(call.instants, call.counts, strict=True)
            if instant >= progress.begin
        )
        return seen >= _LEAST_TOKENS * streams

    def _judged(
        self, figures: Figures, useful: Useful | None, progress: Progress, streaming: float
    ) -> Figures:
        units = sum(progress.begin <= at <= progress.end for at in progress.done_at)
        update: dict[str, object] = {"num_units": units}
        if progress.num_failed and not figures.num_failed:
            update |= {"num_failed": progress.num_failed, "failure": progress.failure}
        if useful is not None:
            update["useful_share"] = useful.share
            update["code"] = Code(
                num_runs=useful.num_runs,
                num_failed=useful.num_failed,
                running=useful.running,
                waiting=max(0.0, useful.asked - useful.running),
                share=useful.asked / max(1e-9, useful.asked + streaming),
            )
        figures = figures.model_copy(update=update)
        limit, why = limiting(figures, with_gpu=self._with_gpu, slots=self._target.slots)
        return figures.model_copy(update={"limit": limit, "why": why})

    async def _work(
        self, workload: WorkloadName, model: MeteredModel, stack: AsyncExitStack
    ) -> tuple[Work, Useful | None]:
        setting = self._setting(self._load.max_tokens)
        if workload == "decode":
            return decode(model, setting), None
        if workload not in ("tir", "solver"):
            return tree(model, setting, shared=workload == "tree"), None
        kernels = KernelConfig(cell_timeout=self._load.cell_timeout)
        sandbox = await stack.enter_async_context(ForkSandbox(kernels, zygotes=_zygotes()))
        await sandbox.report()
        judge = await stack.enter_async_context(Judge())

        async def canonicalise(raw: str) -> Canonical:
            return await judge.canonicalise(raw, "int", None)

        load = self._load
        config = SolveConfig(
            seed=load.seed,
            sampling=SamplingConfig(
                temperature=load.temperature, top_p=load.top_p, logprobs=load.logprobs
            ),
            rollout=RolloutConfig(max_tokens=load.max_tokens),
            kernel=kernels,
        )
        if workload == "tir":
            tir = Tir(model, sandbox, canonicalise, config)
            return tir.work, tir.useful
        config = config.model_copy(
            update={
                "num_rollouts": _SOLVER_ROLLOUTS,
                "concurrency": _SOLVER_ROLLOUTS,
                "branch": BranchConfig(policy="bfs"),
                "stop": StopConfig(rule="never"),
            }
        )
        solving = Solving(Tools(model, sandbox, judge), config)
        return solving.work, solving.useful


def _zygotes() -> int:
    """One parent of kernels makes 50 a second."""
    return max(1, min(4, machine.usable_cores() // 4))


def _workers(workload: WorkloadName, concurrent: int) -> int:
    """Problems in work at a time, so that `concurrent` streams are always wanted.

    A rollout that runs code holds no stream, so there are twice as many; a tree begins with three
    streams and goes on with nine, and so does a solver's question.
    """
    if workload == "decode":
        return concurrent
    return 2 * concurrent if workload == "tir" else -(-concurrent // 3)


def setup_of(target: Target, load: Load, options: ServeOptions, prompts: str) -> Setup:
    """What the report says of its conditions."""
    own = target.engine != "server"
    return Setup(
        model=target.model.name,
        engine=target.engine,
        replicas=options.replicas if own else len(target.sources),
        tensor_parallel=options.tensor_parallel,
        presets=options.presets,
        flags=options.extra,
        gpus=tuple(card.name for card in gpu.cards()),
        cpu=machine.cpu_name(),
        cores=machine.usable_cores(),
        seed=load.seed,
        temperature=load.temperature,
        top_p=load.top_p,
        logprobs=load.logprobs,
        prompts=prompts,
        aimo2=aimo2.__version__,
    )


async def run_benchmark(
    served: ServerConfig | None,
    model: str,
    options: ServeOptions,
    load: Load,
    listener: Listener,
    local_file: Callable[[str], Path],
    prompts: str = "drawn",
) -> Report:
    """The whole run; what was finished before an interruption is returned all the same.

    Raises what `open_target` and `Bench.run` raise, where there is nothing to return.
    """
    begun = time.time()
    async with open_target(served, model, options, listener, local_file) as target:
        bench = Bench(target, load, listener)
        try:
            await bench.run()
        except (asyncio.CancelledError, ServerError, HopelessError) as error:
            if not bench.results:
                raise
            listener.notice(str(error) or "interrupted: what was finished is kept")
        setup = setup_of(target, load, options, prompts)
    return Report(begun=begun, setup=setup, results=tuple(bench.results))


@dataclass(frozen=True, slots=True)
class Layout:
    """How GPUs are shared out: `replicas` servers over `tensor_parallel` cards each."""

    replicas: int
    tensor_parallel: int

    def __str__(self) -> str:
        return f"{self.replicas} x tensor parallel {self.tensor_parallel}"


def layouts(num_cards: int) -> list[Layout]:
    """Every way to use all cards evenly with powers of two: 4 cards are 4x1, 2x2 and 1x4."""
    widths = [2**power for power in range(num_cards.bit_length()) if num_cards % 2**power == 0]
    return [Layout(num_cards // width, width) for width in widths]


async def compare_layouts(
    model: str,
    options: ServeOptions,
    load: Load,
    listener: Listener,
    local_file: Callable[[str], Path],
    chosen: Sequence[Layout],
) -> list[tuple[Layout, Report]]:
    """Measure the same load under each layout; one that does not start is told and left out."""
    measured = []
    for layout in chosen:
        listener.notice(f"layout: {layout}")
        placed = replace(options, replicas=layout.replicas, tensor_parallel=layout.tensor_parallel)
        try:
            report = await run_benchmark(None, model, placed, load, listener, local_file)
        except ServerError as error:
            listener.notice(f"layout {layout} is left out: {error}")
            continue
        measured.append((layout, report))
    return measured


def best_layout(measured: Sequence[tuple[Layout, Report]]) -> dict[tuple[str, int], Layout]:
    """(workload, streams) -> the layout with the most useful tokens a second."""
    best: dict[tuple[str, int], tuple[float, Layout]] = {}
    for layout, report in measured:
        for each in report.results:
            key = (each.workload, each.concurrent)
            if key not in best or each.useful_per_second > best[key][0]:
                best[key] = (each.useful_per_second, layout)
    return {key: layout for key, (_, layout) in best.items()}
