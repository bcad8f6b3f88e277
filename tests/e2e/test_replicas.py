"""Two real servers behind one router; the benchmark and `aimo2 serve` as a user runs them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from rich.console import Console

from aimo2.cli.models import ensure_model
from aimo2.config import LocalServerConfig
from aimo2.deadline import NEVER
from aimo2.engine import route
from aimo2.llm import Conversation, Message, Sampling
from aimo2.llm.client import Endpoint
from aimo2.llm.router import RoutedModel
from aimo2.serving.llama_cpp import LlamaServer

pytestmark = pytest.mark.e2e

GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=48)
PROBLEMS = [f"Name {number} animals that live in the sea." for number in range(3, 9)]


@pytest.fixture(scope="module")
def tiny() -> Path:
    return ensure_model("smollm2-135m", Console(stderr=True))


class SlowToReturn(LlamaServer):
    """One that died is started again only once its rollouts have noticed."""

    def __init__(self, config: LocalServerConfig) -> None:
        super().__init__(config, grace=0.2)
        self.noticed = asyncio.Event()
        self.noticed.set()

    async def _launch(self, port: int) -> None:
        await self.noticed.wait()
        await super()._launch(port)


def test_killing_a_replica_in_mid_run_loses_no_rollout(tiny: Path) -> None:
    said: list[str] = []

    async def main() -> None:
        config = LocalServerConfig(model_path=tiny, concurrency=2, context=1024, threads=1)
        async with AsyncExitStack() as stack:
            servers = [SlowToReturn(config) for _ in range(2)]
            for server in servers:
                await stack.enter_async_context(server)
            endpoints = [lambda s=s: Endpoint(*s.endpoint()) for s in servers]

            def hear(line: str) -> None:
                said.append(line)
                if "is lost" in line:
                    servers[0].noticed.set()

            model = await route(endpoints, None, None, stack, hear)
            assert isinstance(model, RoutedModel)
            await model.connect(NEVER)
            undisturbed = await everything(model, None)
            disturbed = await everything(model, servers[0])
            # A continued text is read in one batch, where rounding may turn a near tie.
            assert sum(a == b for a, b in zip(disturbed, undisturbed, strict=True)) >= 5
            await servers[0].wait_ready()
            while not any("is back" in line for line in said):  # noqa: ASYNC110 - a real server
                await asyncio.sleep(0.1)
            before = model.counters[0].num_tokens
            assert await everything(model, None) == undisturbed
            assert await everything(model, None) == undisturbed
            assert model.counters[0].num_tokens > before
            assert model.loads == (0, 0)

    asyncio.run(asyncio.wait_for(main(), 240))
    assert any("is lost" in line for line in said)
    assert any("is back" in line for line in said)


async def everything(model: RoutedModel, victim: SlowToReturn | None) -> list[str]:
    """Every problem at once; the victim is killed when a quarter of the tokens have come."""
    seen = 0

    async def one(problem: str) -> str:
        nonlocal seen
        text, num_tokens, finished = "", 0, False
        async for chunk in model.stream(Conversation((Message("user", problem),)), GREEDY, NEVER):
            text += chunk.text
            num_tokens += chunk.num_tokens
            finished = chunk.finish_reason == "stop"
            seen += chunk.num_tokens
            if victim is not None and seen > 12 * len(PROBLEMS) and victim.pid in alive:
                alive.clear()
                victim.noticed.clear()
                os.kill(victim.pid or 0, signal.SIGKILL)
        assert finished or num_tokens == GREEDY.max_tokens
        return text

    alive = {victim.pid} if victim is not None else set()
    return list(await asyncio.gather(*(one(problem) for problem in PROBLEMS)))


def test_the_benchmark_prints_its_table_and_its_report_compares(tiny: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "a.json", tmp_path / "a.png"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "aimo2.benchmark", f"--model={tiny}", "--concurrent=2"),
            *("--workload=decode,tir,tree", "--requests=3", "--max-tokens=24", "--threads=2"),
            *("--json", str(out), "--plot", str(picture)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = {each["workload"]: each for each in json.loads(out.read_text())["results"]}
    assert set(results) == {"decode", "tir", "tree"}
    assert results["decode"]["num_tokens"] == 3 * 24
    assert all(each["tokens_per_second"] > 0 for each in results.values())
    assert results["tree"]["machine"]["prefix_hits"] > 0.2  # children find their opening's text
    lines = done.stdout.splitlines()
    assert len(lines) == 7  # what was measured, titles, three rows, two efficiencies
    assert lines[-1].startswith("efficiency of tree x2: ")
    assert picture.stat().st_size > 1000
    compared = subprocess.run(
        [sys.executable, "-m", "aimo2.benchmark", "compare", str(out), str(out)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ratio 1.000" in compared.stdout


def test_a_served_model_is_used_by_its_url_and_ends_with_a_signal(tiny: Path) -> None:
    serving = subprocess.Popen(
        [sys.executable, "-m", "aimo2", "serve", str(tiny), "--context", "1024", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert serving.stdout is not None
    url = serving.stdout.readline().strip()
    try:
        assert url.startswith("http://127.0.0.1:"), serving.stderr and serving.stderr.read()
        solved = subprocess.run(
            [
                *(sys.executable, "-m", "aimo2", "solve", "--base-url", url, "-n", "1"),
                *("--max-tokens", "16", "--json", "1+1?"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert json.loads(solved.stdout)["num_rollouts"] == 1
    finally:
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=30)
    assert serving.returncode == 0
