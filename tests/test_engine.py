"""The parts of a solve are put together: a reasoner before the model, a verifier behind it."""

import asyncio
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from aimo2 import engine
from aimo2.config import (
    EngineConfig,
    LocalServerConfig,
    SamplingConfig,
    ServerConfig,
    SolveConfig,
    VerifyConfig,
)
from aimo2.deadline import NEVER, Deadline
from aimo2.engine import open_engine, open_served
from aimo2.errors import ModelUnavailable, ServerError
from aimo2.llm import Conversation, Message, Sampling
from aimo2.llm.router import RoutedModel
from aimo2.serving.llama_cpp import LlamaServer
from aimo2.solver import Solved, Solver
from aimo2.types import Problem
from tests.llm.fake_server import REPLY, Break, FakeServer, Knobs
from tests.scripted import Recorder

PROBLEM = Problem(id="p", statement="What is 6 times 7?")
THOUGHT = "<think>\nSix sevens are many.\n</think>\n\nNever said."


def solve_with(
    config: SolveConfig,
    *,
    solver: Knobs,
    reasoner: Knobs | None = None,
    verifier: Knobs | None = None,
) -> tuple[Solved, list[FakeServer]]:
    async def main() -> tuple[Solved, list[FakeServer]]:
        async with AsyncExitStack() as stack:
            servers = {
                name: await stack.enter_async_context(FakeServer(knobs))
                for name, knobs in (
                    ("server", solver),
                    ("reasoner", reasoner),
                    ("verifier", verifier),
                )
                if knobs is not None
            }
            engine_config = EngineConfig.model_validate(
                {name: ServerConfig(base_url=server.url) for name, server in servers.items()}
            )
            deadline = Deadline.after(60)
            engine = await stack.enter_async_context(
                open_engine(engine_config, config, lambda line: None, deadline)
            )
            solved = await Solver(PROBLEM, config, engine.tools, Recorder()).solve(deadline)
            return solved, list(servers.values())

    return asyncio.run(main())


def test_one_model_reasons_and_another_answers() -> None:
    solved, (solver, reasoner) = solve_with(
        SolveConfig(num_rollouts=1, openings=("plain",)),
        solver=Knobs(reply="So \\boxed{42}.\n", models=("qwen2.5-7b-instruct",)),
        reasoner=Knobs(reply=THOUGHT, models=("deepseek-r1",)),
    )
    trace = solved.traces[0]
    assert (trace.answer, trace.model) == ("42", "deepseek-r1 > qwen2.5-7b-instruct")
    assert trace.text == "<think>\nSix sevens are many.\n</think>So \\boxed{42}.\n"
    (asked,) = [request.body["prompt"] for request in solver.completions]
    assert asked.endswith("<|im_start|>assistant\nSix sevens are many.\n\n")
    assert len(reasoner.completions) == 1


def test_a_verifier_of_its_own_is_asked_where_votes_differ() -> None:
    solved, (_, verifier) = solve_with(
        SolveConfig(num_rollouts=1, openings=("plain",), verify=VerifyConfig(comparisons=2)),
        solver=Knobs(reply="So \\boxed{42}.\n"),
        verifier=Knobs(reply="\\boxed{1}"),
    )
    assert solved.outcome.answer == "42"
    assert verifier.completions == []  # one answer: nothing to compare
    assert verifier.requests != []  # but it was known to answer before the question began


def test_a_server_that_is_stopped_in_the_middle_costs_no_rollout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    for name, seconds in (("_LOOK", 0.05), ("_SILENT", 0.1), ("_ANSWER", 2.0)):
        monkeypatch.setattr(f"aimo2.llm.router.{name}", seconds)

    async def main() -> str:
        async with (
            FakeServer(Knobs()) as first,
            FakeServer(Knobs()) as second,
            AsyncExitStack() as s,
        ):
            model = await open_served(
                ServerConfig(base_url=first.url, more_urls=(second.url,)), s, said.append
            )
            await model.connect(NEVER)
            for server in (first, second):
                server.knobs.breaks = [Break(3, "stall")]
            texts: list[str] = []
            sampling = Sampling(max_tokens=99)
            asked = Conversation((Message("user", PROBLEM.statement),))
            async with aclosing(model.stream(asked, sampling, NEVER)) as chunks:
                async for chunk in chunks:
                    if not texts:
                        stopped, other = (first, second) if first.completions else (second, first)
                        stopped.knobs.hung = True
                        other.knobs.breaks = []
                    texts.append(chunk.text)
            return "".join(texts)

    assert asyncio.run(asyncio.wait_for(main(), 60)) == REPLY
    assert "is lost (it has sent nothing for" in said[0]


def test_what_the_configuration_says_of_sampling_reaches_the_server() -> None:
    _, (server,) = solve_with(
        SolveConfig(
            num_rollouts=1,
            openings=("plain",),
            sampling=SamplingConfig(request_seeds=True, top_k=7),
        ),
        solver=Knobs(reply="So \\boxed{42}.\n", flavour="vllm"),
    )
    (asked,) = server.completions
    assert asked.body["top_k"] == 7
    assert "seed" in asked.body


@pytest.mark.parametrize(("given", "waited"), [(900.0, 900.0), (20.0, 180.0), (None, 180.0)])
def test_a_server_of_ours_may_take_the_time_that_is_given_to_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: float | None, waited: float
) -> None:
    timeouts: list[float] = []

    def refused(config: LocalServerConfig, *, start_timeout: float, **rest: Any) -> LlamaServer:
        timeouts.append(start_timeout)
        raise ServerError("not in a test")

    monkeypatch.setattr(engine, "LlamaServer", refused)

    async def main() -> None:
        config = EngineConfig(model_path=tmp_path / "x.gguf")
        async with open_engine(config, SolveConfig(), print, Deadline.after(given)):
            pass

    with pytest.raises(ServerError, match="not in a test"):
        asyncio.run(main())
    assert timeouts == [pytest.approx(waited, abs=5)]


def test_a_reasoner_that_is_not_there_is_said_at_once() -> None:
    async def main() -> None:
        async with FakeServer(Knobs()) as server:
            config = EngineConfig(
                server=ServerConfig(base_url=server.url),
                reasoner=ServerConfig(base_url="http://127.0.0.1:9/v1"),
            )
            async with open_engine(config, SolveConfig(), lambda line: None, Deadline.after(60)):
                pass

    with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:9"):
        asyncio.run(main())


def test_routing_over_replicas_is_the_configuration_s(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    class Routed(RoutedModel):
        def __init__(self, *rest: Any, by_prefix: bool, **options: Any) -> None:
            asked.append(by_prefix)
            super().__init__(*rest, by_prefix=by_prefix, **options)

    monkeypatch.setattr(engine, "RoutedModel", Routed)

    async def main() -> None:
        urls = {"base_url": "http://127.0.0.1:9/v1", "more_urls": ("http://127.0.0.1:10/v1",)}
        async with AsyncExitStack() as stack:
            for routing in ("prefix", "load"):
                served = ServerConfig.model_validate({**urls, "routing": routing})
                await open_served(served, stack, lambda line: None)

    asyncio.run(main())
    assert asked == [True, False]
