"""Watch the machines while something is measured: client, GPUs, and the server's own counters.

Knows no workloads. What cannot be seen is `None`; nothing here ever fails a measurement.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import aiohttp

from aimo2.benchmark.figures import Machine, quantile
from aimo2.serving import gpu

_TICK = 0.02
"""Seconds between two looks at the event loop."""
_POLL = 1.0
"""Seconds between two looks at GPU and server."""

Counters = dict[str, float]


def parse_counters(text: str) -> Counters:
    """Sums over all labels of each name in Prometheus' text format; other lines are left out."""
    counters: Counters = {}
    for line in text.splitlines():
        if line.startswith("#") or " " not in line:
            continue
        name, _, value = line.rpartition(" ")
        bare = name.split("{", 1)[0].strip()
        try:
            counters[bare] = counters.get(bare, 0.0) + float(value)
        except ValueError:
            continue
    return counters


@dataclass(frozen=True, slots=True)
class Source:
    """Where a server's counters are: `/metrics` below the root of its base URL."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)


async def read_counters(sources: Sequence[Source]) -> Counters:
    """The counters of all servers together; empty where none can be read."""
    total: Counters = {}
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for source in sources:
            url = source.base_url.rstrip("/").removesuffix("/v1") + "/metrics"
            headers = {"Authorization": f"Bearer {source.api_key}"} if source.api_key else {}
            try:
                async with session.get(url, headers=headers) as response:
                    text = await response.text() if response.status == 200 else ""
            except (aiohttp.ClientError, TimeoutError, OSError):
                continue
            for name, value in parse_counters(text).items():
                total[name] = total.get(name, 0.0) + value
    return total


def share(before: Counters, after: Counters, part: str, whole: str) -> float | None:
    """How much of one counter's growth another's is; `None` where the whole did not grow."""
    grown = after.get(whole, 0.0) - before.get(whole, 0.0)
    return (after.get(part, 0.0) - before.get(part, 0.0)) / grown if grown > 0 else None


class Monitor:
    """Watches from `begin` to `end`; an asynchronous context manager around both.

    `cards`: indices of the GPUs that serve; none are looked at where it is empty.
    """

    def __init__(self, sources: Sequence[Source], cards: Collection[int] = ()) -> None:
        self._sources = sources
        self._cards = cards
        self._late: list[float] = []
        self._memory: list[int] = []
        self._busy: list[float] = []
        self._waiting: list[int] = []
        self._begun: tuple[float, float] | None = None
        self._before: Counters = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Monitor":
        self._before = await read_counters(self._sources)
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._poll())]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self) -> None:
        """The window that counts begins."""
        self._begun = (time.monotonic(), time.process_time())
        for seen in (self._late, self._busy, self._memory, self._waiting):
            seen.clear()
        self._tasks.append(asyncio.create_task(self._mark()))

    async def end(self) -> Machine:
        """The window has ended; what was seen."""
        cpu = None
        if self._begun is not None:
            wall = time.monotonic() - self._begun[0]
            cpu = (time.process_time() - self._begun[1]) / wall if wall > 0 else None
        after = await read_counters(self._sources)
        before = self._before
        return Machine(
            client_cpu=cpu,
            stall_p99=quantile(sorted(self._late), 0.99) if self._late else None,
            gpu_memory_mib=max(self._memory, default=None),
            gpu_busy=sum(self._busy) / len(self._busy) if self._busy else None,
            prefix_hits=share(
                before, after, "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
            ),
            most_waiting=max(self._waiting, default=None),
            accepted_drafts=share(
                before,
                after,
                "vllm:spec_decode_num_accepted_tokens_total",
                "vllm:spec_decode_num_draft_tokens_total",
            ),
        )

    async def _mark(self) -> None:
        """The server's counters as the window begins: those before are the warm-up's."""
        self._before = await read_counters(self._sources) or self._before

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _TICK
            await asyncio.sleep(_TICK)
            self._late.append(max(0.0, loop.time() - due))

    async def _poll(self) -> None:
        while True:
            counters = await read_counters(self._sources)
            for name in ("vllm:num_requests_waiting", "llamacpp:requests_deferred"):
                if name in counters:
                    self._waiting.append(int(counters[name]))
            if self._cards:
                seen = await asyncio.to_thread(gpu.usage, self._cards)
                if seen is not None:
                    self._memory.append(seen.used_mib)
                    self._busy.append(seen.busy)
            await asyncio.sleep(_POLL)
