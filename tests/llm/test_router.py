"""Routing over fake replicas with a latency model, on a virtual clock."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimo2.deadline import NEVER, Deadline
from aimo2.errors import ConfigError, DeadlinePassed, ModelUnavailable
from aimo2.llm import Chunk, Conversation, Message, Sampling
from aimo2.llm.features import Features
from aimo2.llm.router import RoutedModel
from aimo2.llm.transport import Unavailable
from tests.virtual import run_virtual

TEXT = "".join(f"word{index} " for index in range(400))
FEATURES = Features("raw", True, "fake", True, True, True)


class FakeReplica:
    """Streams `TEXT` onwards from the reply, a word a token, as greedy decoding would.

    Latency: 1 ms for each 10 characters of the prompt that are not cached, then 10 ms a token and
    1 ms more for each further stream, as an engine that steps all streams together.
    """

    def __init__(self, name: str = "model") -> None:
        self._name = name
        self.token_seconds = 0.010
        self.connected = False
        self.alive = True
        self.hung: Literal["", "engine", "all"] = ""
        self.streams = 0
        self.num_calls = 0
        self.most_streams = 0
        self.num_characters = 0
        self.num_cached = 0
        self._prefixes: set[str] = set()

    @property
    def name(self) -> str:
        if not self.connected:
            raise RuntimeError("call connect() first")
        return self._name

    features = FEATURES
    context_length: int | None = 8192

    async def connect(self, deadline: Deadline) -> Features:
        if self.hung == "all":
            await asyncio.sleep(deadline.remaining())
            raise DeadlinePassed("no answer")
        if not self.alive:
            raise ModelUnavailable("refused")
        self.connected = True
        return FEATURES

    async def check(self, name: str | None, deadline: Deadline) -> None:
        await self.connect(deadline)
        if name not in (None, self._name):
            raise ConfigError(f"no model {name}, only {self._name}")

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        await self.connect(deadline)
        prompt = conversation.messages[0].content + conversation.reply
        cached = next(
            (
                end
                for end in range(len(prompt) // 64 * 64, 0, -64)
                if prompt[:end] in self._prefixes
            ),
            0,
        )
        self.num_characters += len(prompt)
        self.num_cached += cached
        self.num_calls += 1
        self.streams += 1
        self.most_streams = max(self.most_streams, self.streams)
        try:
            await asyncio.sleep((len(prompt) - cached) / 10_000)
            words = TEXT[len(conversation.reply) :].split(" ")[: sampling.max_tokens]
            for word in words:
                await asyncio.sleep(self.token_seconds + 0.001 * self.streams)
                if self.hung:
                    await asyncio.sleep(deadline.remaining() if deadline != NEVER else 1e9)
                    raise DeadlinePassed("no token")
                if not self.alive:
                    raise ModelUnavailable("died")
                yield Chunk(word + " ", 1)
            yield Chunk("", 0, (), "length")
        finally:
            self.streams -= 1
            self._prefixes |= {prompt[:end] for end in range(64, len(prompt) + 1, 64)}


def ask(problem: str, reply: str = "") -> Conversation:
    return Conversation((Message("user", problem),), reply)


async def read(model: RoutedModel, conversation: Conversation, max_tokens: int = 20) -> str:
    sampling = Sampling(max_tokens=max_tokens)
    return "".join([c.text async for c in model.stream(conversation, sampling, NEVER)])


def expected(number: int) -> str:
    return "".join(word + " " for word in TEXT.split(" ")[:number])


def routed(
    number: int, notify: Callable[[str], None] = lambda line: None
) -> tuple[RoutedModel, list[FakeReplica]]:
    replicas = [FakeReplica() for _ in range(number)]
    return RoutedModel(replicas, [f"r{i}" for i in range(number)], notify=notify), replicas


@given(st.integers(1, 39), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_a_death_at_any_token_costs_no_text_and_repeats_none(cut: int, deaths: int) -> None:
    async def main() -> None:
        model, replicas = routed(deaths + 1)
        texts: list[str] = []
        async with aclosing(model.stream(ask("p" * 200), Sampling(max_tokens=40), NEVER)) as chunks:
            async for chunk in chunks:
                texts.append(chunk.text)
                busy = [replica for replica in replicas if replica.streams]
                if len(texts) % cut == 0 and sum(r.alive for r in replicas) > 1:
                    busy[0].alive = False
        assert "".join(texts) == expected(40)

    run_virtual(main())


def test_no_rollout_is_lost_and_the_dead_replica_is_used_again() -> None:
    said: list[str] = []

    async def main() -> None:
        model, replicas = routed(2, said.append)
        await model.connect(NEVER)

        async def kill_and_revive() -> None:
            await asyncio.sleep(0.2)
            replicas[0].alive = False
            await asyncio.sleep(5)
            replicas[0].alive = True

        trouble = asyncio.create_task(kill_and_revive())
        texts = await asyncio.gather(*(read(model, ask(f"{i} " * 99)) for i in range(32)))
        assert set(texts) == {expected(20)}
        await trouble
        before = model.counters[0].num_tokens
        await asyncio.sleep(20)
        again = await asyncio.gather(*(read(model, ask(f"{i} " * 99)) for i in range(32)))
        assert set(again) == {expected(20)}
        share = (model.counters[0].num_tokens - before) / (32 * 20)
        assert 0.3 < share < 0.7
        assert model.loads == (0, 0)

    run_virtual(main())
    assert [line.split(" (")[0] for line in said] == ["replica r0 is lost", "replica r0 is back"]


def test_where_all_are_dead_streams_wait_for_the_first_that_comes_back() -> None:
    async def main() -> None:
        model, replicas = routed(2)
        await model.connect(NEVER)
        for replica in replicas:
            replica.alive = False
        asyncio.get_running_loop().call_later(10, setattr, replicas[1], "alive", True)
        assert await read(model, ask("p")) == expected(20)

    run_virtual(main())


def test_patience_and_deadlines_have_an_end() -> None:
    async def main() -> None:
        model, replicas = routed(2)
        await model.connect(NEVER)
        for replica in replicas:
            replica.alive = False
        with pytest.raises(ModelUnavailable, match=r"r0 \(refused\); r1 \(refused\)"):
            await read(model, ask("p"))
        with pytest.raises(DeadlinePassed):
            async for _ in model.stream(ask("p"), Sampling(), Deadline.after(3)):
                pass
        assert model.loads == (0, 0)

    run_virtual(main())


def test_a_closed_stream_frees_its_seat_at_once() -> None:
    async def main() -> None:
        model, replicas = routed(2)
        async with aclosing(model.stream(ask("p"), Sampling(max_tokens=99), NEVER)) as chunks:
            await anext(chunks)
            assert sum(model.loads) == 1
        assert model.loads == (0, 0)
        assert not any(replica.streams for replica in replicas)

    run_virtual(main())


def test_a_fork_s_child_goes_where_its_parent_s_prefix_is() -> None:
    async def main() -> None:
        model, replicas = routed(4)
        await model.connect(NEVER)
        for index in range(8):
            problem = f"problem {index} " * 40
            before = [replica.num_calls for replica in replicas]
            begun = await read(model, ask(problem), 30)
            home = next(i for i, r in enumerate(replicas) if r.num_calls > before[i])
            await asyncio.gather(*(read(model, ask(problem, begun), 10) for _ in range(3)))
            assert replicas[home].num_calls == before[home] + 4

    run_virtual(main())


def play(how: Literal["routed", "random"]) -> tuple[float, float]:
    """(share of prompt characters that were cached, most over mean streams): 24 problems, 8
    rollouts each, 4 turns, on 4 replicas, 6 problems at a time."""

    async def main() -> tuple[float, float]:
        model, replicas = routed(4)
        await model.connect(NEVER)
        draw = random.Random(5)

        async def rollout(problem: str) -> None:
            reply = ""
            for _ in range(4):
                asked = ask(problem, reply)
                if how == "routed":
                    reply += await read(model, asked, 30)
                else:
                    sampling = Sampling(max_tokens=30)
                    stream = draw.choice(replicas).stream(asked, sampling, NEVER)
                    reply += "".join([chunk.text async for chunk in stream])

        gate = asyncio.Semaphore(6)

        async def solve(index: int) -> None:
            async with gate:
                problem = f"Problem number {index} of many. " * 20
                await asyncio.gather(*(rollout(problem) for _ in range(8)))

        await asyncio.gather(*(solve(index) for index in range(24)))
        cached = sum(r.num_cached for r in replicas) / sum(r.num_characters for r in replicas)
        most = [replica.most_streams for replica in replicas]
        return cached, max(most) / (sum(most) / len(most))

    return run_virtual(main())


def test_routing_finds_more_cached_prefixes_than_chance_and_keeps_loads_even() -> None:
    cached, imbalance = play("routed")
    by_chance, _ = play("random")
    assert cached > by_chance + 0.05
    assert imbalance < 1.35


def test_replicas_of_different_models_are_refused() -> None:
    async def main() -> None:
        model = RoutedModel([FakeReplica("a"), FakeReplica("b")], ["r0", "r1"])
        with pytest.raises(ConfigError, match="r0 serves a, r1 serves b"):
            await model.connect(NEVER)

    run_virtual(main())


def test_one_that_is_away_at_the_start_is_used_when_it_comes() -> None:
    async def main() -> None:
        model, replicas = routed(2)
        replicas[1].alive = False
        await model.connect(NEVER)
        assert model.name == "model"
        replicas[1].alive = True
        await asyncio.sleep(1)
        await asyncio.gather(*(read(model, ask(f"{i} " * 99)) for i in range(8)))
        assert model.counters[1].num_tokens > 0

    run_virtual(main())


def test_with_none_at_the_start_there_is_an_error() -> None:
    async def main() -> None:
        model, replicas = routed(1)
        replicas[0].alive = False
        with pytest.raises(ModelUnavailable, match="no replica answers"):
            await model.connect(NEVER)

    run_virtual(main())


async def first_tokens(model: RoutedModel, number: int) -> list[asyncio.Task[str]]:
    """Rollouts of long replies, all of them on their way."""
    tasks = [asyncio.create_task(read(model, ask(f"{i} " * 99), 200)) for i in range(number)]
    await asyncio.sleep(1)
    return tasks


@pytest.mark.parametrize(("how", "seconds"), [("all", 45.0), ("engine", 140.0)])
def test_the_rollouts_of_a_replica_that_hangs_go_on_elsewhere(
    how: Literal["engine", "all"], seconds: float
) -> None:
    said: list[str] = []

    async def main() -> None:
        model, replicas = routed(2, said.append)
        await model.connect(NEVER)
        tasks = await first_tokens(model, 16)
        replicas[0].hung = how
        texts = await asyncio.wait_for(asyncio.gather(*tasks), seconds)
        assert set(texts) == {expected(200)}
        assert model.loads == (0, 0)

    run_virtual(main())
    assert len(said) == 1
    assert "r0 is lost (it has sent nothing for" in said[0]


def test_no_rollout_is_spent_on_finding_out_whether_a_replica_is_back() -> None:
    async def main() -> None:
        model, replicas = routed(2)
        async with model:
            await model.connect(NEVER)
            tasks = await first_tokens(model, 8)
            replicas[0].hung = "all"
            await asyncio.gather(*tasks)
            given = model.counters[0].num_requests
            begun = asyncio.get_running_loop().time()
            for index in range(10):
                await read(model, ask(f"{index}"))
                await asyncio.sleep(10)
            spent = asyncio.get_running_loop().time() - begun
            assert spent < 10 * (10 + 1)
            assert model.counters[0].num_requests == given
            replicas[0].hung = ""
            await asyncio.sleep(60)
            await asyncio.gather(*(read(model, ask(f"{i} " * 99)) for i in range(8)))
            assert model.counters[0].num_requests > given

    run_virtual(main())


def test_a_slow_engine_is_not_a_hanging_one() -> None:
    said: list[str] = []

    async def main() -> None:
        model, replicas = routed(2, said.append)
        for replica in replicas:
            replica.token_seconds = 100.0
        await model.connect(NEVER)
        await asyncio.gather(*(read(model, ask(f"{i} " * 99), 3) for i in range(4)))
        for replica in replicas:
            replica.token_seconds = 300.0
        await asyncio.gather(*(read(model, ask(f"{i} " * 99), 3) for i in range(4)))

    run_virtual(main())
    assert said == []


def test_a_reader_that_takes_its_time_is_no_silence_of_the_replica() -> None:
    said: list[str] = []

    async def main() -> None:
        model, _ = routed(2, said.append)
        await model.connect(NEVER)
        async with aclosing(model.stream(ask("p"), Sampling(max_tokens=9), NEVER)) as chunks:
            async for _ in chunks:
                await asyncio.sleep(500)

    run_virtual(main())
    assert said == []


def test_cancelling_a_stream_is_not_taken_for_a_hanging_replica() -> None:
    async def main() -> None:
        model, replicas = routed(2)
        await model.connect(NEVER)
        (task,) = await first_tokens(model, 1)
        for replica in replicas:
            replica.hung = "engine"
        await asyncio.sleep(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.loads == (0, 0)

    run_virtual(main())


def test_a_replica_that_hangs_at_the_start_holds_nobody_up() -> None:
    async def main() -> None:
        model, replicas = routed(3)
        replicas[1].hung = "all"
        await model.connect(Deadline.after(600))
        assert asyncio.get_running_loop().time() < 30
        assert await read(model, ask("p")) == expected(20)

    run_virtual(main())


def test_where_all_hang_at_the_start_the_deadline_says_so() -> None:
    async def main() -> None:
        model, replicas = routed(2)
        for replica in replicas:
            replica.hung = "all"
        with pytest.raises(DeadlinePassed, match="r0"):
            await model.connect(Deadline.after(20))

    run_virtual(main())


class Refusing(FakeReplica):
    """Answers a request for "poison" with an error, and all others as ever."""

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        if "poison" in conversation.messages[0].content:
            self.num_calls += 1
            raise Unavailable("answered 500: assertion failed", reached=True)
        async with aclosing(super().stream(conversation, sampling, deadline)) as chunks:
            async for chunk in chunks:
                yield chunk


def test_one_bad_request_takes_no_replica_out() -> None:
    said: list[str] = []

    async def main() -> None:
        replicas = [Refusing(), Refusing()]
        model = RoutedModel(replicas, ["r0", "r1"], notify=said.append)
        await model.connect(NEVER)
        bad = asyncio.create_task(read(model, ask("poison")))
        texts = await asyncio.gather(*(read(model, ask(f"{i} " * 99)) for i in range(8)))
        assert set(texts) == {expected(20)}
        with pytest.raises(ModelUnavailable, match="answered 500"):
            await bad
        assert min(replica.num_calls for replica in replicas) > 4
        assert asyncio.get_running_loop().time() < 61

    run_virtual(main())
    assert said == []


def test_a_request_that_one_replica_cannot_take_goes_to_another() -> None:
    async def main() -> None:
        model = RoutedModel([Refusing(), FakeReplica()], ["r0", "r1"])
        await model.connect(NEVER)
        for index in range(4):
            assert await read(model, ask(f"poison {index}")) == expected(20)

    run_virtual(main())


def test_a_replica_that_comes_back_with_another_model_is_not_used() -> None:
    async def main() -> None:
        model, replicas = routed(2)
        await model.connect(NEVER)
        replicas[0].alive = False
        await asyncio.gather(*(read(model, ask(f"{i} " * 99)) for i in range(8)))
        replicas[0].alive, replicas[0]._name = True, "other"
        await asyncio.sleep(100)
        before = replicas[0].num_calls
        await asyncio.gather(*(read(model, ask(f"{i} " * 99)) for i in range(8)))
        assert replicas[0].num_calls == before

    run_virtual(main())


def test_routing_by_load_goes_by_turns_whatever_is_cached() -> None:
    async def main() -> list[int]:
        replicas = [FakeReplica() for _ in range(3)]
        model = RoutedModel(replicas, ["r0", "r1", "r2"], by_prefix=False)
        for _ in range(6):  # one after the other: by prefix, all would go where the first went
            await read(model, ask("the same problem again " * 20))
        return [replica.num_calls for replica in replicas]

    assert run_virtual(main()) == [2, 2, 2]


def test_routing_by_load_still_takes_the_shortest_queue() -> None:
    async def main() -> list[int]:
        replicas = [FakeReplica(), FakeReplica()]
        model = RoutedModel(replicas, ["r0", "r1"], by_prefix=False)
        long = asyncio.create_task(read(model, ask("long"), 300))
        await asyncio.sleep(0.1)
        for _ in range(3):
            await read(model, ask("short"), 5)
        await long
        return [replica.num_calls for replica in replicas]

    assert run_virtual(main()) == [1, 3]
