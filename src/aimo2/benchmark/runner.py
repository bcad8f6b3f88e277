"""Run the benchmark: start or find a server, warm it up, measure each workload, say what limits.

Knows no terminal: who watches gets events through `Listener`.
"""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import aimo2
from aimo2.answers import Judge
from aimo2.benchmark.figures import Figures, Machine, code_of, judged, measure, prefix_hits
from aimo2.benchmark.load import HopelessError, Plan, Progress, run_load
from aimo2.benchmark.meter import MeteredModel, MeteredSandbox
from aimo2.benchmark.monitor import Monitor, Source
from aimo2.benchmark.prompts import drawn_problems
from aimo2.benchmark.report import Report, Setup, differences
from aimo2.benchmark.workloads import Dropped, Setting, Solving, Tir, Work, asked, decode, tree
from aimo2.config import (
    BranchConfig,
    KernelConfig,
    RolloutConfig,
    Routing,
    SamplingConfig,
    ServerConfig,
    SolveConfig,
    StopConfig,
)
from aimo2.deadline import NEVER, Deadline
from aimo2.engine import ServedModel, make_sandbox, open_served, route
from aimo2.errors import Aimo2Error, ConfigError, ServerError
from aimo2.llm.client import Endpoint, OpenAIModel
from aimo2.serving import gpu, machine
from aimo2.serving.gpu import Card
from aimo2.serving.listener import serving
from aimo2.serving.serve import Running, ServeOptions, serve
from aimo2.solver import Tools
from aimo2.types import Problem

WorkloadName = Literal["decode", "tir", "solver", "plain", "tree", "independent"]
_SOLVES: tuple[WorkloadName, ...] = ("tir", "solver", "plain")
"""Workloads of whole rollouts: to an answer, as the solver drives them."""
_DRAWN = 4096
_WARM_TOKENS = 16
_CONNECT_SECONDS = 60.0
_RAMP_SHARE = 0.15
_LONGEST_RAMP = 10.0
_SOLVER_ROLLOUTS = 9
_HERE = ("localhost", "127.0.0.1", "::1")
_LEAST_TOKENS = 16
"""A stream: a window with fewer tokens is prolonged."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured. Without `requests`, each measurement lasts `duration` seconds.

    `concurrent`: streams; of the workloads with code, rollouts that stream or run code. Where they
    are `oversubscribed`, others stream while these run code: so many streams, and more rollouts.
    """

    workloads: tuple[WorkloadName, ...] = ("decode",)
    concurrent: tuple[int, ...] = (1,)
    max_tokens: int = 512
    requests: int | None = None
    duration: float = 30.0
    seed: int = 0
    temperature: float = 0.7
    top_p: float = 1.0
    logprobs: bool = False
    oversubscribed: bool = False
    routing: Routing = "prefix"
    cell_timeout: float = 5.0
    """Seconds of one code run of the workloads `tir` and `solver`."""
    problems: tuple[Problem, ...] = ()
    """Empty takes drawn ones."""

    def missing(self, results: Sequence[Figures]) -> list[tuple[WorkloadName, int]]:
        """(workload, concurrent) that were not measured, or not without failures."""
        sound = {
            (each.workload, each.concurrent)
            for each in results
            if each.max_tokens == self.max_tokens and not each.num_failed
        }
        wanted = itertools.product(self.workloads, self.concurrent)
        return [one for one in wanted if one not in sound]


@dataclass(frozen=True, slots=True)
class Target:
    """An open server. `slots`: streams that it takes at once, where that is known. `cards`: the
    GPUs that it runs on, as far as they can be seen from here. `others`: whether cards of other
    servers may be among them.
    """

    model: ServedModel
    sources: tuple[Source, ...]
    engine: str
    slots: int | None
    failures: Callable[[], Sequence[str]]
    cards: tuple[Card, ...] = ()
    others: bool = False


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
    routing: Routing,
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
            client = await route(endpoints, None, None, stack, listener.notice, routing=routing)
        await client.connect(Deadline.after(_CONNECT_SECONDS))
        cards, others = (
            (running.cards, False) if running else await asyncio.to_thread(_cards_of, served)
        )
        if others:
            numbers = ", ".join(str(card.index) for card in cards)
            listener.notice(
                f"GPU figures are of cards {numbers} together: which of them the server uses "
                "cannot be seen from here"
            )
        yield Target(
            client,
            _sources(served, running),
            running.engine if running else "server",
            running.slots if running else None,
            running.failures if running else tuple,
            cards,
            others,
        )


def _cards_of(served: ServerConfig | None) -> tuple[tuple[Card, ...], bool]:
    """The GPUs of somebody's server, if it is here, and whether they may be others' instead.

    They are those on which the processes behind its ports compute. Where these cannot be seen, all
    that hold a model are taken: a single one is the server's.
    """
    urls = [urlsplit(url) for url in (served.base_url, *served.more_urls)] if served else []
    if not urls or any(url.hostname not in _HERE for url in urls):
        return (), False
    cards = gpu.cards()
    used: list[Card] = []
    for url in urls:
        port = url.port or (443 if url.scheme == "https" else 80)
        own = gpu.used_by(serving(port), cards)
        if not own:
            occupied = gpu.occupied(cards)
            return occupied, len(occupied) > 1
        used += own
    return tuple(dict.fromkeys(used)), False


def _endpoint(running: Running, index: int) -> Callable[[], Endpoint]:
    return lambda: Endpoint(*running.servers[index].endpoint())


def _sources(served: ServerConfig | None, running: Running | None) -> tuple[Source, ...]:
    if running is not None:
        return tuple(Source(url, key) for url, key in running.endpoints())
    assert served is not None
    key = os.environ.get(served.api_key_env) if served.api_key_env else None
    return tuple(Source(url, key) for url in (served.base_url, *served.more_urls))


async def decode_prompts(
    served: ServerConfig, number: int, seed: int, notify: Callable[[str], None]
) -> Sequence[str]:
    """Prompts as `decode` would send them to this server, for another program to send.

    Raises `ConfigError` where there are several servers or they take messages only, and what
    `connect` raises.
    """
    async with AsyncExitStack() as stack:
        client = await open_served(served, stack, notify)
        if not isinstance(client, OpenAIModel):
            raise ConfigError("several --base-url were given: prompts are of one server")
        await client.connect(Deadline.after(_CONNECT_SECONDS))
        problems = drawn_problems(number, seed)
        return [await client.prompt(asked(problem), NEVER) for problem in problems]


class Bench:
    """Measures one target. `results` holds what is finished, also after an interruption."""

    def __init__(
        self, target: Target, load: Load, listener: Listener, known: Sequence[Figures] = ()
    ) -> None:
        """`known`: measurements of an earlier run, which are not made again."""
        again = load.missing(known)
        self.results = [one for one in known if (one.workload, one.concurrent) not in again]
        self._target = target
        self._load = load
        self._listener = listener
        self._drawn = load.problems or tuple(drawn_problems(_DRAWN, load.seed))
        self._used = 0

    async def run(self, on_result: Callable[[], None] = lambda: None) -> None:
        """Every workload at every concurrency, in turn; `on_result` is called after each.

        Raises `ServerError` where a server is gone for good: what was measured meanwhile is not
        kept. Raises `HopelessError` where nothing succeeds.
        """
        self._listener.notice("warming up")
        await self._warm_up()
        for workload, concurrent in self._load.missing(self.results):
            figures = await self._measure(workload, concurrent)
            if failures := self._target.failures():
                raise ServerError(failures[0])
            self.results = list(judged([*self.results, figures], self._target.slots))
            self._listener.ended(figures)
            on_result()

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
        slots = asyncio.Semaphore(concurrent)
        model = MeteredModel(
            self._target.model, lambda number: self._listener.tokens(number, progress), slots
        )
        seen = _Seen(workload, concurrent, load, model, progress)
        streams = min(concurrent, self._target.slots or concurrent)
        plan = Plan(
            workers=_workers(workload, concurrent, oversubscribed=load.oversubscribed),
            requests=load.requests,
            duration=load.duration,
            ramp=min(_LONGEST_RAMP, _RAMP_SHARE * load.duration),
            enough=lambda: seen.num_tokens >= _LEAST_TOKENS * streams,
        )
        async with AsyncExitStack() as stack:
            if workload in _SOLVES:
                seen.sandbox = await self._sandbox(slots, stack)
                work = await self._solving(seen, seen.sandbox, stack)
            else:
                work = self._branches(workload, model)
            cards = [card.index for card in self._target.cards]
            monitor = await stack.enter_async_context(Monitor(self._target.sources, cards))
            await run_load(work, self._problems(), plan, NEVER, progress, monitor.begin)
            machine_seen = await monitor.end()
            machine_seen = machine_seen.model_copy(update={"other_cards": self._target.others})
        return seen.figures(machine_seen)

    def _branches(self, workload: WorkloadName, model: MeteredModel) -> Work:
        setting = self._setting(self._load.max_tokens)
        if workload == "decode":
            return decode(model, setting)
        return tree(model, setting, shared=workload == "tree")

    async def _sandbox(self, slots: asyncio.Semaphore, stack: AsyncExitStack) -> MeteredSandbox:
        """The solver's own. A code run keeps its rollout's slot, or leaves it to another one."""
        sandbox = await stack.enter_async_context(make_sandbox(self._kernel()))
        await sandbox.report()
        return MeteredSandbox(sandbox, None if self._load.oversubscribed else slots)

    def _kernel(self) -> KernelConfig:
        return KernelConfig(cell_timeout=self._load.cell_timeout)

    async def _solving(self, seen: "_Seen", sandbox: MeteredSandbox, stack: AsyncExitStack) -> Work:
        judge = await stack.enter_async_context(Judge())
        tools = Tools(
            seen.model,
            sandbox,
            judge,
            model_name=self._target.model.name,
            opens_thinking=self._target.model.features.opens_thinking,
            continues=self._target.model.features.exact_continuation,
        )
        load = self._load
        config = SolveConfig(
            seed=load.seed,
            sampling=SamplingConfig(
                temperature=load.temperature, top_p=load.top_p, logprobs=load.logprobs
            ),
            rollout=RolloutConfig(max_tokens=load.max_tokens),
            kernel=self._kernel(),
        )
        if seen.workload == "tir":
            return Tir(tools, config, seen.dropped).work
        update: dict[str, object] = {
            "num_rollouts": _SOLVER_ROLLOUTS,
            "concurrency": _SOLVER_ROLLOUTS,
            "branch": BranchConfig(policy="bfs"),
            "stop": StopConfig(rule="never"),
        }
        if seen.workload == "plain":
            update["rollout"] = RolloutConfig(max_tokens=load.max_tokens, max_code_runs=0)
        return Solving(tools, config.model_copy(update=update), seen.dropped).work


@dataclass(slots=True)
class _Seen:
    """What is seen of one measurement while it runs, and the figures that it comes to."""

    workload: WorkloadName
    concurrent: int
    load: Load
    model: MeteredModel
    progress: Progress
    dropped: Dropped = field(default_factory=Dropped)
    sandbox: MeteredSandbox | None = None

    @property
    def num_tokens(self) -> int:
        """Received since the window began: whether it has seen more than prompts being read."""
        return sum(
            count
            for call in self.model.calls
            for instant, count in zip(call.instants, call.counts, strict=True)
            if instant >= self.progress.begin
        )

    def figures(self, machine_seen: Machine) -> Figures:
        """Raises `HopelessError` where nothing came at all."""
        progress, calls = self.progress, self.model.calls
        window = (progress.begin, progress.end)
        if machine_seen.prefix_hits is None:  # no counters to read: by what each reply said
            hits = prefix_hits(calls, *window)
            machine_seen = machine_seen.model_copy(update={"prefix_hits": hits})
        figures = measure(
            calls,
            *window,
            workload=self.workload,
            concurrent=self.concurrent,
            limit=self.load.max_tokens,
            dropped=self.dropped.between(*window),
        )
        if not figures.num_tokens and not figures.num_failed:
            raise HopelessError(
                f"{self.workload} x{self.concurrent}: no token came in {figures.seconds:.0f} s; "
                "is the server alive, and is anything else using its cores?"
            )
        update: dict[str, object] = {
            "machine": machine_seen,
            "num_units": sum(window[0] <= at <= window[1] for at in progress.done_at),
        }
        if self.sandbox is not None:
            update["code"] = code_of(self.sandbox.cells, calls, *window)
        if progress.num_failed and not figures.num_failed:
            update |= {"num_failed": progress.num_failed, "failure": progress.failure}
        return figures.model_copy(update=update)


def _workers(workload: WorkloadName, concurrent: int, *, oversubscribed: bool) -> int:
    """Problems in work at a time, so that every slot is always wanted.

    A tree begins with three streams and goes on with nine, and so does a solver's question. Where
    a rollout that runs code holds no slot, there are twice as many.
    """
    if workload in ("decode", "tir"):
        return 2 * concurrent if oversubscribed and workload == "tir" else concurrent
    return -(-concurrent // 3)


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
        gpus=tuple(card.name for card in target.cards),
        cpu=machine.cpu_name(),
        cores=machine.usable_cores(),
        seed=load.seed,
        temperature=load.temperature,
        top_p=load.top_p,
        logprobs=load.logprobs,
        oversubscribed=load.oversubscribed,
        routing=load.routing,
        prompts=prompts,
        aimo2=aimo2.__version__,
    )


Keep = Callable[[Report], None]
"""Hears of the report so far after each measurement, so that no end of a run loses one."""


async def run_benchmark(
    served: ServerConfig | None,
    model: str,
    options: ServeOptions,
    load: Load,
    listener: Listener,
    local_file: Callable[[str], Path],
    keep: Keep,
    *,
    prompts: str = "drawn",
    before: Report | None = None,
) -> None:
    """The whole run; `keep` has what is finished, whatever is raised.

    `before`: a report to go on with; nothing is started where nothing is missing in it. Raises what
    `open_target` and `Bench.run` raise, and `ConfigError` where `before` is of other conditions.
    """
    if before is not None and not load.missing(before.results):
        keep(before.model_copy(update={"complete": True}))
        return
    begun = time.time() if before is None else before.begun
    async with open_target(served, model, options, load.routing, listener, local_file) as target:
        setup = setup_of(target, load, options, prompts)
        if before is not None:
            _check_same(before.setup, setup)
        bench = Bench(target, load, listener, () if before is None else before.results)

        def on_result() -> None:
            results = tuple(bench.results)
            complete = not load.missing(results)
            keep(Report(begun=begun, setup=setup, results=results, complete=complete))

        await bench.run(on_result)


def _check_same(before: Setup, now: Setup) -> None:
    unlike = differences(before, now)
    if unlike:
        name, old, new = unlike[0]
        raise ConfigError(
            f"--resume: {name} was {old} in that report and is {new} now: give another --json"
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """How GPUs are shared out: `replicas` servers over `tensor_parallel` cards each."""

    replicas: int
    tensor_parallel: int

    def __str__(self) -> str:
        return f"{self.replicas} x tensor parallel {self.tensor_parallel}"


def layouts(num_cards: int) -> list[Layout]:
    """Every way to use all cards evenly with powers of two: 4 cards are 4x1, 2x2 and 1x4.

    Where that has no single server, as with 6 cards, it is tried on as many as a power of two has.
    """
    widths = [2**power for power in range(num_cards.bit_length()) if num_cards % 2**power == 0]
    found = [Layout(num_cards // width, width) for width in widths]
    widest = 2 ** (num_cards.bit_length() - 1)
    return found if widest == num_cards else [*found, Layout(1, widest)]


async def compare_layouts(
    model: str,
    options: ServeOptions,
    load: Load,
    listener: Listener,
    local_file: Callable[[str], Path],
    num_cards: int,
    keep: Callable[[Layout, Report], None],
    *,
    prompts: str = "drawn",
    before: Callable[[Layout], Report | None] = lambda layout: None,
) -> None:
    """Measure the same load under each layout of so many cards; `keep` has what is finished.

    A layout that does not start or breaks off is told, and the next one is tried.
    """
    for layout in layouts(num_cards):
        used = layout.replicas * layout.tensor_parallel
        idle = f", {num_cards - used} of {num_cards} GPUs idle" if used < num_cards else ""
        listener.notice(f"layout: {layout}{idle}")
        placed = replace(options, replicas=layout.replicas, tensor_parallel=layout.tensor_parallel)
        try:
            await run_benchmark(
                None,
                model,
                placed,
                load,
                listener,
                local_file,
                partial(keep, layout),
                prompts=prompts,
                before=before(layout),
            )
        except Aimo2Error as error:
            listener.notice(f"layout {layout} broke off: {error}")


def best_layout(measured: Mapping[Layout, Report]) -> dict[tuple[str, int], Layout]:
    """(workload, streams) -> the layout with the most useful tokens a second."""
    best: dict[tuple[str, int], tuple[float, Layout]] = {}
    for layout, report in measured.items():
        for each in report.results:
            key = (each.workload, each.concurrent)
            if key not in best or each.useful_per_second > best[key][0]:
                best[key] = (each.useful_per_second, layout)
    return {key: layout for key, (_, layout) in best.items()}
