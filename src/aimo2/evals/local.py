"""Run an evaluation on this machine: engine, judge and store around a runner. Knows no terminal."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from aimo2 import engine
from aimo2.config import EngineConfig
from aimo2.deadline import NEVER
from aimo2.evals.datasets import Dataset
from aimo2.evals.runner import Done, Limit, Plan, Runner, Watcher, judge_for
from aimo2.evals.store import EngineRecord, RunConfig, RunStore, new_record
from aimo2.serving.machine import usable_cores
from aimo2.solver import Tools

OnStart = Callable[[RunStore, Callable[[], None]], None]
"""Hears of the open store and of how to interrupt, before the first rollout starts."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to evaluate and with what.

    `run`: with `model` as far as it is known before the server is asked. `concurrency`: rollouts at
    once, over all problems.
    """

    dataset: Dataset
    run: RunConfig
    engine: EngineConfig
    concurrency: int
    preset: str | None = None

    @property
    def plan(self) -> Plan:
        """The runner's part of it."""
        return Plan(self.dataset.items, self.run.mode, self.run.samples, self.run.solve)

    def engine_name(self) -> str:
        """For the record: the servers' addresses, or the embedded engine."""
        server = self.engine.server
        if server is None:
            return f"llama.cpp, {self.engine.model_path}"
        return ", ".join((server.base_url, *server.more_urls))

    def open_store(self, folder: Path, model: str | None) -> RunStore:
        """The run's folder. Raises `ConfigError` where it holds another run."""
        config = self.run.model_copy(update={"model": model or self.run.model})
        record = new_record(config, self.dataset, self.engine_name(), self.preset)
        return RunStore.open(folder, record, self.dataset.items)


def engine_record(config: EngineConfig) -> EngineRecord:
    """What of `config` a run is resumed only with. Raises `ConfigError` as `chat_template` does."""
    server = config.server
    template = None if server is None else engine.chat_template(server.chat_template)
    return EngineRecord(
        context=config.context if server is None else None,
        chat_template=None if template is None else sha256(template.encode()).hexdigest(),
        sandbox=config.sandbox,
    )


def done_of(store: RunStore) -> Done:
    """What a runner need not do again."""
    return Done(dict(store.samples), dict(store.ungraded), store.finished())


def served_name(job: Job, tools: Tools) -> str | None:
    """The name of the model that samples: the file's where the server is our own."""
    if job.engine.model_path is not None and job.engine.server is None:
        return job.engine.model_path.name
    return tools.model_name


async def run_locally(job: Job, folder: Path, watcher: Watcher, on_start: OnStart) -> None:
    """Run what is not done yet of a job, into its folder.

    Raises `ConfigError` where the folder holds another run, `SetupError` where the engine does not
    start or stays away; what has ended is kept.
    """
    solve = job.run.solve.model_copy(update={"concurrency": job.concurrency})
    async with (
        engine.open_engine(job.engine, solve, watcher.notice, NEVER) as opened,
        judge_for(usable_cores()) as judge,
    ):
        name = served_name(job, opened.tools)
        with job.open_store(folder, name) as store:
            runner = Runner(
                job.plan,
                replace(opened.tools, judge=judge),
                store,
                watcher,
                limit=Limit(job.concurrency),
                done=done_of(store),
                failure=opened.failure,
                model_name=name,
            )
            on_start(store, runner.interrupt)
            await runner.run()
