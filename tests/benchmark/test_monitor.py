"""The monitor: what the window holds, and what came before it."""

import asyncio

import pytest

from aimo2.benchmark import monitor
from aimo2.benchmark.monitor import Counters, Monitor, Source
from aimo2.serving import gpu
from aimo2.serving.gpu import Usage
from tests.virtual import run_virtual

HITS, QUERIES = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"


def test_what_came_before_the_window_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Counters = {}
    card = Usage(90_000, 1.0)

    async def read(sources: object) -> Counters:
        return dict(server)

    monkeypatch.setattr(monitor, "read_counters", read)
    monkeypatch.setattr(gpu, "usage", lambda cards: card if cards == [1] else None)

    async def in_place(function: object, *args: object) -> object:
        return function(*args)  # type: ignore[operator]

    monkeypatch.setattr(asyncio, "to_thread", in_place)

    async def main() -> None:
        nonlocal card
        server.update({HITS: 0, QUERIES: 100, "vllm:num_requests_waiting": 40})
        async with Monitor([Source("http://h/v1")], [1]) as watched:
            await asyncio.sleep(5)
            server.update({QUERIES: 200, "vllm:num_requests_waiting": 1})
            card = Usage(20_000, 0.5)
            watched.begin()
            await asyncio.sleep(5)
            server.update({HITS: 60, QUERIES: 300})
            seen = await watched.end()
        assert (seen.most_waiting, seen.gpu_memory_mib, seen.gpu_busy) == (1, 20_000, 0.5)
        assert seen.prefix_hits == 0.6

    run_virtual(main())


def test_without_cards_no_gpu_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(cards: object) -> Usage:
        raise AssertionError("it was")

    monkeypatch.setattr(gpu, "usage", usage)

    async def main() -> None:
        async with Monitor([]) as watched:
            watched.begin()
            await asyncio.sleep(5)
            seen = await watched.end()
        assert (seen.gpu_memory_mib, seen.gpu_busy) == (None, None)

    run_virtual(main())
