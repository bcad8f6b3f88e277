"""A real Ray cluster of two workers on this machine; needs the extra `ray`."""

import asyncio
import importlib.util
import os
import signal
from pathlib import Path

import psutil
import pytest

from aimo2.config import EngineConfig, ServerConfig
from aimo2.errors import ConfigError
from aimo2.evals.cluster import run_on_ray
from aimo2.evals.local import Job, run_locally
from aimo2.evals.store import LoadedRun, RunConfig, read_run
from aimo2.types import Outcome
from tests.evals.exam import Heard, run_config, sums
from tests.evals.exam_server import ExamServer

pytestmark = pytest.mark.filterwarnings("default")
PROBLEMS, SAMPLES = 8, 3


@pytest.fixture
def ray() -> None:
    # Not imported here: Ray reads its environment as it is imported, and the driver sets it first.
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")


def job(folder: Path, url: str) -> Job:
    data = sums(folder, PROBLEMS)
    run: RunConfig = run_config(data, SAMPLES, openings=("plain",)).model_copy(
        update={"model": None}
    )
    return Job(data, run, EngineConfig(server=ServerConfig(base_url=url)), concurrency=4)


class Killer(Heard):
    """Kills one worker of the cluster once a problem is done."""

    def __init__(self) -> None:
        super().__init__()
        self.killed: list[int] = []

    def problem_done(self, outcome: Outcome) -> None:
        super().problem_done(outcome)
        if not self.killed:
            # Ray names an actor's process after it; the cluster was started by this process.
            workers = [
                child.pid
                for child in psutil.Process().children(recursive=True)
                if child.name().startswith("ray::Worker") or "ray::Worker" in _line(child)
            ]
            assert workers
            os.kill(workers[0], signal.SIGKILL)
            self.killed.append(workers[0])


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def content(run: LoadedRun) -> dict[tuple[str, int], tuple[object, ...]]:
    """All but times."""
    return {
        key: (one.answer, one.correct, one.num_tokens, one.opening, one.stop_reason)
        for key, one in run.samples.items()
    }


async def same_with_a_worker_killed(folder: Path) -> Killer:
    killer = Killer()
    async with ExamServer(seconds=0.3) as server:
        here = job(folder, server.url)
        await run_locally(here, folder / "local", Heard(), lambda store, stop: None)
        await run_on_ray(here, folder / "ray", killer, lambda store, stop: None, "auto", 2)
    return killer


def test_two_workers_one_killed_give_the_content_of_a_local_run(ray: None, tmp_path: Path) -> None:
    killer = asyncio.run(same_with_a_worker_killed(tmp_path))
    assert len(killer.killed) == 1
    assert any("a Ray worker was lost" in line for line in killer.notices)
    local, spread = read_run(tmp_path / "local"), read_run(tmp_path / "ray")
    assert content(local) == content(spread)
    assert len(spread.samples) == PROBLEMS * SAMPLES
    for name, outcome in local.outcomes.items():
        assert spread.outcomes[name].votes == outcome.votes
    lines = (tmp_path / "ray" / "traces.jsonl").read_text().splitlines()
    assert len(lines) == PROBLEMS * SAMPLES


def test_no_cluster_at_an_address_is_one_line(ray: None, tmp_path: Path) -> None:
    async def main() -> None:
        here = job(tmp_path, "http://127.0.0.1:9/v1")
        await run_on_ray(
            here, tmp_path / "r", Heard(), lambda store, stop: None, "127.0.0.1:9", None
        )

    with pytest.raises(ConfigError, match=r"--ray 127\.0\.0\.1:9: no cluster there"):
        asyncio.run(main())


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    here = job(tmp_path, "http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match="uv run --extra ray"):
        asyncio.run(run_on_ray(here, tmp_path, Heard(), lambda store, stop: None, "auto", None))
    with pytest.raises(ConfigError, match="--ray-workers 0"):
        asyncio.run(run_on_ray(here, tmp_path, Heard(), lambda store, stop: None, "auto", 0))
