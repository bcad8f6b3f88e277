"""The client of a process reward model, against a real socket, and the scorers on top of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from aimo2.config import BranchConfig
from aimo2.deadline import Deadline
from aimo2.errors import ModelError, RequestRejected
from aimo2.llm import Conversation, Message
from aimo2.llm.reward import STEP_MARK, RewardModel, last_reward
from aimo2.scorer import Agreement, CodeSuccess, Confidence, Reward, make_scorer

ASKED = Conversation((Message("user", "1+1?"),), "First this.\n\nThen that.\n\n")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def served(pooling: Handler, body: Callable[[RewardModel], Awaitable[None]]) -> None:
    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "a-prm"}]})

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.get("/v1/models", models), web.post("/pooling", pooling)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with RewardModel(f"http://127.0.0.1:{port}/v1") as model:
                await body(model)
        finally:
            await runner.cleanup()

    asyncio.run(main())


def test_steps_are_marked_and_the_last_one_s_reward_comes_back() -> None:
    seen: list[dict[str, Any]] = []

    async def pooling(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.json_response({"data": [{"data": [[0.9, 0.1], [0.25, 0.75]]}]})

    async def body(model: RewardModel) -> None:
        assert await model.score(ASKED, Deadline.after(20)) == 0.75

    served(pooling, body)
    assert seen[0]["model"] == "a-prm"
    assert seen[0]["messages"] == [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": f"First this.{STEP_MARK}Then that.{STEP_MARK}"},
    ]


def test_a_failing_server_is_our_error_and_its_scorers() -> None:
    async def pooling(request: web.Request) -> web.Response:
        return web.json_response({"error": "no such model"}, status=404)

    class Waiting:
        conversation = ASKED

    async def body(model: RewardModel) -> None:
        with pytest.raises(ModelError):
            await model.score(ASKED, Deadline.after(20))
        waiting: Any = [Waiting(), Waiting()]
        with pytest.raises(ModelError):
            await Reward(model).score(waiting, [], Deadline.after(20))

    served(pooling, body)


@pytest.mark.parametrize(
    ("data", "reward"),
    [
        ([[0.4], [0.6]], 0.6),
        ([0.1, 0.3], 0.3),
        ([[0.1, 0.9]], 0.9),
        ([[[0.2, 0.8]]], 0.8),
        ([[0.0], [-1000.0]], 0.0),
        ([[1000.0]], 1.0),
    ],
)
def test_every_known_form_of_answer_is_read(data: Any, reward: float) -> None:
    assert last_reward({"data": [{"data": data}]}) == pytest.approx(reward)


@pytest.mark.parametrize(
    "answer", [{}, {"data": []}, {"data": [{"data": []}]}, {"data": [{"data": [[None]]}]},
               {"data": [{"data": [float("nan")]}]}, []]
)  # fmt: skip
def test_an_answer_without_rewards_is_refused(answer: Any) -> None:
    with pytest.raises(RequestRejected):
        last_reward(answer)


def test_the_configured_scorer_is_made() -> None:
    assert isinstance(make_scorer(BranchConfig(), None), Confidence)
    assert isinstance(make_scorer(BranchConfig(scorer="code"), None), CodeSuccess)
    assert isinstance(make_scorer(BranchConfig(scorer="agreement"), None), Agreement)
    reward = BranchConfig(scorer="reward", reward_url="http://h/v1")
    assert isinstance(make_scorer(reward, RewardModel("http://h/v1")), Reward)
    with pytest.raises(ValueError, match="reward model"):
        make_scorer(reward, None)
