"""A real process, killed with SIGKILL thrice, comes to the figures of an unbroken run."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from aimo2 import presets
from aimo2.config import EngineConfig, ServerConfig
from aimo2.evals.datasets import load
from aimo2.evals.figures import figures_of
from aimo2.evals.local import Job, run_locally
from aimo2.evals.store import read_run
from tests.evals.exam import Heard, run_config, write_sums
from tests.evals.exam_server import ExamServer

PROBLEMS, SAMPLES = 8, 4


class Command:
    """`aimo2 eval` against the exam server."""

    def __init__(self, folder: Path, url: str) -> None:
        self.sums = write_sums(folder / "sums.jsonl", PROBLEMS)
        self.url = url
        self.at = folder

    async def start(self, out: str) -> asyncio.subprocess.Process:
        args = (
            "-m", "aimo2", "eval", str(self.sums), "--base-url", self.url, "-k", str(SAMPLES),
            "--out", str(self.at / out), "--concurrency", "3", "--json", "--openings", "plain",
        )  # fmt: skip
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *args,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "COLUMNS": "100"},
        )

    async def run(self, out: str) -> dict[str, Any]:
        process = await self.start(out)
        shown, said = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode == 0, said.decode()
        return timeless(json.loads(shown))

    async def run_here(self, out: str) -> dict[str, Any]:
        """The same in this process, unbroken."""
        data = load(str(self.sums))
        solve = presets.resolve([presets.preset_layer(presets.DEFAULT)]).model_copy(
            update={"num_rollouts": SAMPLES, "openings": ("plain",), "concurrency": 3}
        )
        run = run_config(data, SAMPLES, solve=solve).model_copy(update={"model": None})
        engine = EngineConfig(server=ServerConfig(base_url=self.url))
        await run_locally(
            Job(data, run, engine, 3), self.at / out, Heard(), lambda store, stop: None
        )
        figures = figures_of(read_run(self.at / out))
        assert figures is not None
        return timeless(json.loads(json.dumps(figures.as_json())))

    async def kill_after(self, out: str, samples: int) -> int:
        """Start, kill as soon as so many samples are stored; how many there are then."""
        process = await self.start(out)
        traces = self.at / out / "traces.jsonl"
        async with asyncio.timeout(120):
            while not traces.exists() or traces.read_bytes().count(b"\n") < samples:
                assert process.returncode is None, "it ended before it could be killed"
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        return traces.read_bytes().count(b"\n")


def timeless(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in ("seconds", "caveats")}


async def killed_thrice(folder: Path) -> None:
    async with ExamServer(seconds=0.15) as server:
        command = Command(folder, server.url)
        whole = await command.run_here("whole")
        asked = len(server.completions)
        counts = [await command.kill_after("broken", least) for least in (4, 12, 20)]
        assert counts == sorted(counts)
        assert counts[-1] < PROBLEMS * SAMPLES
        # As a kill in the middle of a write leaves it:
        with (folder / "broken" / "traces.jsonl").open("ab") as file:
            file.write(b'{"problem_id": "s7", "roll')
        assert await command.run("broken") == whole
        # Each kill can cost the three that ran, and no more.
        assert len(server.completions) <= 2 * asked + 4 * 3
    one, other = read_run(folder / "whole"), read_run(folder / "broken")
    assert one.samples.keys() == other.samples.keys()
    for key, sample in one.samples.items():
        found = other.samples[key]
        assert (found.answer, found.correct, found.num_tokens) == (
            sample.answer, sample.correct, sample.num_tokens,
        )  # fmt: skip


def test_killed_three_times_it_comes_to_the_same_figures(tmp_path: Path) -> None:
    asyncio.run(killed_thrice(tmp_path))
