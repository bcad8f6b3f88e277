"""Forks on the real engine and in the real sandbox: a shared prefix costs nothing twice."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from rich.console import Console

from aimo2.answers import Canonical, canonical
from aimo2.attempt import Alone, Attempt, BoundaryKind, Onward, Question
from aimo2.cli.models import ensure_model
from aimo2.config import KernelConfig, LocalServerConfig, RolloutConfig, SalvageConfig, SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.llm import Chunk, Conversation, PromptUse, Sampling
from aimo2.llm.client import Endpoint, OpenAIModel
from aimo2.rollout import Rollout
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.serving.llama_cpp import LlamaServer
from aimo2.types import Problem, RolloutStop
from tests.scripted import Recorder

pytestmark = pytest.mark.e2e

CODE = "I compute.\n```python\nx = sum(range(10))\nprint(x)\n```\n"
USE = "```python\nprint(x + 1)\n```\n"


class Spoken:
    """The real model, but for replies that are put into its mouth; hears of each prompt's use."""

    def __init__(self, model: OpenAIModel) -> None:
        self.model = model
        self.replies: list[str | None] = []
        self.used: list[PromptUse] = []

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        reply = self.replies.pop(0)
        if reply is not None:
            yield Chunk(reply, 8, (), "stop")
            return
        async with aclosing(self.model.stream(conversation, sampling, deadline)) as chunks:
            async for chunk in chunks:
                if chunk.prompt is not None:
                    self.used.append(chunk.prompt)
                yield chunk


class Parks(Alone):
    async def boundary(self, rollout: Attempt, kind: BoundaryKind) -> Onward | RolloutStop:
        return "park" if rollout.parent is None and rollout.num_code_runs == 1 else "go on"


def test_a_fork_starts_with_its_prefix_cached_and_its_variables_there() -> None:
    path: Path = ensure_model("smollm2-135m", Console(stderr=True))
    limits = RolloutConfig(max_tokens=24)
    config = SolveConfig(openings=("plain",), rollout=limits, salvage=SalvageConfig(enabled=False))

    async def canonicalise(raw: str) -> Canonical:
        return canonical(raw, "int", None)

    async def main() -> None:
        server_config = LocalServerConfig(model_path=path, context=1024, threads=2)
        async with (
            LlamaServer(server_config, grace=0.2) as server,
            OpenAIModel(lambda: Endpoint(*server.endpoint())) as real,
            ForkSandbox(KernelConfig(preload=())) as sandbox,
        ):
            model = Spoken(real)
            problem = Problem(id="p", statement="What is the sum of the numbers below ten?")
            question = Question(
                problem, config, model, sandbox, canonicalise, Recorder(), owner=Parks()
            )
            parent = Rollout(question, 0)
            model.replies = [CODE, None]
            await parent.run(NEVER)
            assert parent.state == "waiting"
            point = await parent.hold()
            await parent.run(NEVER)
            child = await point.fork(1)
            model.replies = [None]
            await child.run(NEVER)
            first, second = model.used
            assert first.num_tokens == second.num_tokens > 100
            assert second.num_cached >= second.num_tokens - 2
            model.replies = [USE, "So \\boxed{46}."]
            other = await point.fork(2)
            await other.run(NEVER)
            await point.close()
            outputs = [turn.run.output for turn in other.trace().turns if turn.run]
            assert outputs == ["45", "46"]
            texts = [rollout.trace() for rollout in (parent, child, other)]
            assert all(trace.turns[0] == texts[0].turns[0] for trace in texts)

    asyncio.run(asyncio.wait_for(main(), 240))
