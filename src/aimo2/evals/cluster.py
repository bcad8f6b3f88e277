"""Spread an evaluation's problems over a Ray cluster. Knows no terminal; needs the extra `ray`.

Each worker is an actor with its own client, sandbox and judge; a problem is the unit of work. Seeds
come from seed, problem and rollout alone, so that it does not matter who runs what, and the content
is that of a local run. A worker that is lost is replaced, and only its running problems are run
again; only the driver writes to the run's folder.
"""

import asyncio
import importlib
import math
import os
import socket
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aimo2 import engine
from aimo2.deadline import NEVER
from aimo2.errors import Aimo2Error, ConfigError, ServerError, SetupError
from aimo2.evals.datasets import Item
from aimo2.evals.local import Job, OnStart, served_name
from aimo2.evals.runner import Done, Limit, Plan, Runner, Watcher, judge_for
from aimo2.evals.samples import Classes, Grade, Key, Sample, sample_of
from aimo2.evals.store import RunStore
from aimo2.serving.machine import usable_cores
from aimo2.solver import Tools
from aimo2.types import Outcome, Trace

_LOST_AT_MOST = 5
"""Workers lost in a row, without a finished problem in between, before the run ends."""
_STOP_SECONDS = 10.0
_REACH_SECONDS = 10.0


@dataclass(slots=True)
class Finished:
    """What a worker hands back for one problem. A `runner.Sink`."""

    graded: list[tuple[Trace, Grade]] = field(default_factory=list)
    classes: Classes | None = None
    outcome: Outcome | None = None

    def add_trace(self, trace: Trace) -> None:
        """It is handed over with its grade."""

    def add_grade(self, trace: Trace, grade: Grade) -> Sample:
        """Keep both."""
        self.graded.append((trace, grade))
        return sample_of(trace, grade)

    def add_end(self, classes: Classes, outcome: Outcome) -> None:
        """Keep both."""
        self.classes, self.outcome = classes, outcome


class Worker:
    """An actor: one engine, opened once, and a runner for each problem it is given."""

    def __init__(self, job: Job, concurrency: int) -> None:
        self._job = job
        self._concurrency = concurrency
        self._stack = AsyncExitStack()
        self._limit: Limit | None = None
        self._tools: Tools | None = None
        self._failure: Callable[[], str | None] = lambda: None
        self._notices = _Notices()

    async def start(self) -> str | None:
        """Open the engine; the served model's name."""
        solve = self._job.run.solve.model_copy(update={"concurrency": self._concurrency})
        opened = await self._stack.enter_async_context(
            engine.open_engine(self._job.engine, solve, self._notices.notice, NEVER)
        )
        judge = await self._stack.enter_async_context(judge_for(usable_cores()))
        self._limit = Limit(self._concurrency)
        self._tools = replace(opened.tools, judge=judge)
        self._failure = opened.failure
        return served_name(self._job, self._tools)

    async def run(
        self, item: Item, samples: Sequence[Sample], ungraded: Sequence[Trace]
    ) -> tuple[Finished, list[str]]:
        """What is missing of a problem, and what a person should hear."""
        assert self._tools is not None
        assert self._limit is not None
        finished = Finished()
        done = Done(
            {(one.problem_id, one.rollout): one for one in samples},
            {(one.problem_id, one.rollout): one for one in ungraded},
        )
        plan = replace(self._job.plan, items=(item,))
        await Runner(
            plan,
            self._tools,
            finished,
            self._notices,
            limit=self._limit,
            done=done,
            failure=self._failure,
            model_name=served_name(self._job, self._tools),
        ).run()
        return finished, self._notices.taken()

    async def stop(self) -> None:
        """Close the engine."""
        await self._stack.aclose()


class _Notices:
    """A watcher that keeps notices for the driver."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def sample_done(self, sample: Sample) -> None:
        """The driver counts."""

    def problem_done(self, outcome: Outcome) -> None:
        """The driver counts."""

    def notice(self, text: str) -> None:
        """Keep it."""
        self._lines.append(text)

    def taken(self) -> list[str]:
        """What came since the last time."""
        lines, self._lines = self._lines, []
        return lines


async def run_on_ray(
    job: Job,
    folder: Path,
    watcher: Watcher,
    on_start: OnStart,
    address: str,
    workers: int | None,
) -> None:
    """As `run_locally`, on a cluster; `auto` takes the one that runs here, or starts one.

    `workers`: actors; `None` takes one a node. Raises `ConfigError` without Ray or cluster, and
    `ServerError` where workers keep being lost.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--ray-workers {workers}: must be 1 or more")
    ray = _connect(address)
    try:
        wanted = workers or max(1, sum(bool(node["Alive"]) for node in ray.nodes()))
        driver = _Driver(ray, job, watcher, wanted)
        try:
            name = await driver.start()
            with job.open_store(folder, name) as store:
                task = asyncio.create_task(driver.run(store))
                try:
                    on_start(store, lambda: _cancel(task))
                    await task
                finally:
                    task.cancel()
                    await asyncio.wait([task])
        finally:
            await driver.stop()
    finally:
        ray.shutdown()


def _connect(address: str) -> Any:
    # Workers of a cluster on this machine use this environment; Ray would build another for them.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # On a busy machine its own agents take longer than the 30 s that a new node gives them.
    os.environ.setdefault("RAY_agent_register_timeout_ms", "180000")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("--ray: Ray is not installed; try uv run --extra ray") from error
    _reach(address)
    quiet = {"log_to_driver": False, "logging_level": "error", "include_dashboard": None}
    try:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError:
            if address != "auto":
                raise
            ray.init(address="local", **{**quiet, "include_dashboard": False})
    except Exception as error:  # The boundary to Ray, which raises bare exceptions.
        line = " ".join(str(error).split())[:200]
        raise SetupError(f"--ray {address}: Ray gives no cluster ({line})") from error
    return ray


def _reach(address: str) -> None:
    """See that somebody listens at `host:port`: Ray itself would wait for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--ray {address}: give auto, host:port or ray://host:port")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--ray {address}: no cluster there ({error})") from error


class _Driver:
    """Gives problems to workers and takes results; owns every worker."""

    def __init__(self, ray: Any, job: Job, watcher: Watcher, workers: int) -> None:
        self._ray = ray
        self._job = job
        self._watcher = watcher
        self._size = max(1, math.ceil(job.concurrency / workers))
        self._actor = ray.remote(num_cpus=1, max_restarts=0, max_concurrency=1_000)(Worker)
        self._workers: list[Any] = [None] * workers
        self._lost = 0

    async def start(self) -> str | None:
        """Open the engines of all workers at once; the model that they serve."""
        names = await asyncio.gather(*(self._fresh(slot) for slot in range(len(self._workers))))
        if len(set(names)) > 1:
            raise ConfigError(f"--ray: the workers' servers serve different models: {set(names)}")
        return names[0]

    async def _fresh(self, slot: int) -> str | None:
        worker = self._actor.remote(self._job, self._size)
        self._workers[slot] = worker
        return await self._ask(worker.start.remote())  # type: ignore[no-any-return]

    async def _ask(self, reference: Any) -> Any:
        """A worker's reply; its own errors under their own names."""
        try:
            return await reference
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, Aimo2Error):
                raise cause from error
            raise

    async def run(self, store: RunStore) -> None:
        """Every problem that is not done."""
        finished = store.finished()
        queue = deque(item for item in store.items if item.problem.id not in finished)
        places = self._problems_at_once()
        async with asyncio.TaskGroup() as group:
            for slot in range(len(self._workers)):
                group.create_task(self._serve(slot, places, queue, store))

    def _problems_at_once(self) -> int:
        """For one worker: enough that its rollouts fill its places."""
        plan: Plan = self._job.plan
        if plan.mode == "solve":
            return max(1, self._size // min(plan.config.concurrency, plan.config.num_rollouts))
        return max(1, math.ceil(self._size / plan.samples) + 1)

    async def _serve(self, slot: int, places: int, queue: "deque[Item]", store: RunStore) -> None:
        """Keep one worker busy; replace it where it is lost."""
        known, ungraded = _by_problem(store)
        while queue:
            worker = self._workers[slot]
            broken: list[BaseException] = []

            async def drain(worker: Any = worker, broken: Any = broken) -> None:
                while queue and not broken:
                    item = queue.popleft()
                    name = item.problem.id
                    try:
                        reply = await self._ask(
                            worker.run.remote(item, known[name], ungraded[name])
                        )
                    except self._ray.exceptions.RayActorError as error:
                        queue.appendleft(item)
                        broken.append(error)
                        return
                    except BaseException:
                        queue.appendleft(item)
                        raise
                    self._take(store, *reply)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(places, max(1, len(queue)))):
                    group.create_task(drain())
            if broken:
                await self._replace(slot, broken[0])

    async def _replace(self, slot: int, error: BaseException) -> None:
        self._lost += 1
        if self._lost > _LOST_AT_MOST:
            raise ServerError(
                f"{self._lost} Ray workers were lost in a row ({_line(error)}); mend the cluster"
                " and repeat the command: what has ended is kept"
            ) from error
        self._watcher.notice(f"a Ray worker was lost; its problems are run again ({_line(error)})")
        try:
            await self._fresh(slot)
        except self._ray.exceptions.RayActorError as again:
            await self._replace(slot, again)

    def _take(self, store: RunStore, finished: Finished, notices: Sequence[str]) -> None:
        """Store a problem's results, whole."""
        self._lost = 0
        for line in notices:
            self._watcher.notice(line)
        for trace, grade in sorted(finished.graded, key=lambda pair: pair[0].rollout):
            if (trace.problem_id, trace.rollout) not in store.ungraded:
                store.add_trace(trace)
            self._watcher.sample_done(store.add_grade(trace, grade))
        if finished.classes is not None and finished.outcome is not None:
            store.add_end(finished.classes, finished.outcome)
            self._watcher.problem_done(finished.outcome)

    async def stop(self) -> None:
        """End every worker, kindly for a short while."""
        workers = [worker for worker in self._workers if worker is not None]
        stopping = [asyncio.ensure_future(_stopped(worker)) for worker in workers]
        if stopping:
            await asyncio.wait(stopping, timeout=_STOP_SECONDS)
        for task in stopping:
            task.cancel()
            if task.done() and not task.cancelled():
                task.exception()  # A worker that is gone already has nothing to close.
        for worker in workers:
            self._ray.kill(worker)


def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()


async def _stopped(worker: Any) -> None:
    await worker.stop.remote()


def _by_problem(store: RunStore) -> tuple[dict[str, list[Sample]], dict[str, list[Trace]]]:
    samples: dict[str, list[Sample]] = defaultdict(list)
    traces: dict[str, list[Trace]] = defaultdict(list)
    key: Key
    for key, sample in store.samples.items():
        samples[key[0]].append(sample)
    for key, trace in store.ungraded.items():
        traces[key[0]].append(trace)
    return samples, traces


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
