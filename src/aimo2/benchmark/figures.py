"""From metered calls to figures: rates, latencies, and how sure they are. Pure."""

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from aimo2.benchmark.meter import Call

Limit = Literal["engine", "client", "sandbox", "load", "unknown"]
_NUM_SLICES = 10


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Spread(_Stored):
    """The median and the 99th percentile of something, in seconds."""

    median: float
    p99: float


class Machine(_Stored):
    """What the machines did meanwhile; `None` where it cannot be seen.

    Shares are between 0 and 1; `client_cpu` is of one core (a client has one busy thread), and may
    pass 1 where a library's threads help. `stall_p99`: seconds that the event loop was late.
    """

    client_cpu: float | None = None
    stall_p99: float | None = None
    gpu_memory_mib: int | None = None
    gpu_busy: float | None = None
    prefix_hits: float | None = None
    """Share of the prompts' tokens that the server found in its prefix cache."""
    most_waiting: int | None = None
    """Requests that queued in the server, at most."""
    accepted_drafts: float | None = None
    """Share of speculated tokens that were accepted."""


class Code(_Stored):
    """What the code runs of a workload did. Times are in seconds, summed over all rollouts."""

    num_runs: int
    num_failed: int
    running: float
    """Inside cells."""
    waiting: float
    """From asking for a cell to its result, less the cell's own time: the sandbox's queue."""
    share: Annotated[float, Field(ge=0)]
    """Of the time of streams and code runs together, that went to code, queue included."""


class Figures(_Stored):
    """One measurement: a workload at one concurrency."""

    workload: str
    concurrent: int
    max_tokens: int
    seconds: float
    """The window that was measured."""
    num_tokens: int
    """Received in the window."""
    tokens_per_second: float
    useful_share: float
    """Of the received tokens, those that stayed in a reply."""
    per_stream: float | None
    """Median over calls of tokens a second after the first token."""
    first_token: Spread | None
    """From sending a request to its first token."""
    between_tokens: Spread | None
    """Gaps between reads, divided over the tokens that came together; each token counts once."""
    num_calls: int
    """Calls that ended in the window."""
    num_units: int = 0
    """Problems that were worked off in the window: completions, rollouts or whole trees."""
    num_failed: int
    failure: str | None
    """The first failure's line."""
    slices: tuple[float, ...]
    """Tokens a second in ten equal parts of the window: how steady it was."""
    machine: Machine = Machine()
    code: Code | None = None
    limit: Limit = "unknown"
    why: str = ""
    """One line of reasons for `limit`."""

    @property
    def useful_per_second(self) -> float:
        """Useful output tokens a second."""
        return self.tokens_per_second * self.useful_share

    @property
    def standard_error(self) -> float:
        """Of `tokens_per_second`, from its slices, which are taken as independent."""
        return math.sqrt(variance(self.slices) / len(self.slices)) if self.slices else math.nan


def measure(
    calls: Sequence[Call], begin: float, end: float, *, workload: str, concurrent: int, limit: int
) -> Figures:
    """The figures of the window from `begin` to `end`, instants on the event loop's clock.

    `limit`: tokens a call, as asked for. Raises `ValueError` where the window is empty.
    """
    if not end > begin:
        raise ValueError(f"the window from {begin} to {end} is empty")
    slices = _slices(calls, begin, end)
    ended = [c for c in calls if begin <= c.ended <= end and c.state != "open"]
    failed = [call for call in ended if call.state == "failed"]
    width = (end - begin) / _NUM_SLICES
    num_tokens = sum(slices)
    return Figures(
        workload=workload,
        concurrent=concurrent,
        max_tokens=limit,
        seconds=end - begin,
        num_tokens=num_tokens,
        tokens_per_second=num_tokens / (end - begin),
        useful_share=1.0,
        per_stream=median([rate for call in ended if (rate := speed(call)) is not None]),
        first_token=spread(
            [c.instants[0] - c.begun for c in calls if c.instants and begin <= c.instants[0] <= end]
        ),
        between_tokens=_between(calls, begin, end),
        num_calls=len(ended),
        num_failed=len(failed),
        failure=failed[0].error if failed else None,
        slices=tuple(number / width for number in slices),
    )


def _slices(calls: Iterable[Call], begin: float, end: float) -> list[int]:
    totals = [0] * _NUM_SLICES
    scale = _NUM_SLICES / (end - begin)
    for call in calls:
        for instant, count in zip(call.instants, call.counts, strict=True):
            if begin <= instant <= end:
                totals[min(_NUM_SLICES - 1, int((instant - begin) * scale))] += count
    return totals


def speed(call: Call) -> float | None:
    """Tokens a second after the first read; `None` for a call of one read."""
    if len(call.instants) < 2:
        return None
    seconds = call.instants[-1] - call.instants[0]
    return (call.num_tokens - call.counts[0]) / seconds if seconds > 0 else None


def _between(calls: Iterable[Call], begin: float, end: float) -> Spread | None:
    """Weighted by tokens, so that a read of eight tokens counts as eight gaps."""
    gaps: list[tuple[float, int]] = []
    for call in calls:
        times, counts = call.instants, call.counts
        for index in range(1, len(times)):
            if begin <= times[index] <= end:
                number = counts[index]
                gaps.append(((times[index] - times[index - 1]) / number, number))
    if not gaps:
        return None
    gaps.sort()
    total, ranks = 0, []
    for _, number in gaps:
        total += number
        ranks.append(total)
    pick = [gaps[bisect.bisect_left(ranks, share * total)][0] for share in (0.5, 0.99)]
    return Spread(median=pick[0], p99=pick[1])


def prefix_hits(calls: Iterable[Call], begin: float, end: float) -> float | None:
    """Share of the prompts' tokens that were cached, over the calls that ended in the window and
    whose server told; `None` where none did.
    """
    told = [call.prompt for call in calls if call.prompt and begin <= call.ended <= end]
    total = sum(prompt.num_tokens for prompt in told)
    return sum(prompt.num_cached for prompt in told) / total if total else None


def spread(values: Sequence[float]) -> Spread | None:
    """`None` where there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    return Spread(median=quantile(ordered, 0.5), p99=quantile(ordered, 0.99))


def median(values: Sequence[float]) -> float | None:
    """`None` where there are no values."""
    return quantile(sorted(values), 0.5) if values else None


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, with linear interpolation between neighbours."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def variance(values: Sequence[float]) -> float:
    """The unbiased sample variance; not a number for fewer than two values."""
    if len(values) < 2:
        return math.nan
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def limiting(figures: Figures, *, with_gpu: bool, slots: int | None) -> tuple[Limit, str]:
    """What held the measurement back, and why we think so. Rules of thumb, in this order.

    The client, where its core or its event loop was full; the sandbox, where rollouts queued for
    cells; the load, where streams were fewer than the server's slots and the GPU had time left;
    else the engine.
    """
    machine, code = figures.machine, figures.code
    if machine.client_cpu is not None and machine.client_cpu > 0.9:
        return "client", f"the client used {machine.client_cpu:.0%} of a core"
    if code is not None and code.waiting > code.running and code.share > 0.1:
        return "sandbox", f"rollouts queued for cells; code took {code.share:.0%} of their time"
    if code is not None and code.share > 0.5:
        return "sandbox", f"code took {code.share:.0%} of the rollouts' time"
    if machine.most_waiting:
        return "engine", f"up to {machine.most_waiting} requests waited in the server"
    if slots is not None and figures.concurrent > slots:
        return "engine", f"the server has {slots} slots for {figures.concurrent} streams"
    busy = machine.gpu_busy
    if with_gpu and busy is not None and busy < 0.8:
        return "load", f"the GPU was busy {busy:.0%} of the time: more streams would use it"
    if with_gpu and busy is not None:
        return "engine", f"the GPU was busy {busy:.0%} of the time"
    if machine.client_cpu is not None:
        return "engine", f"the client used only {machine.client_cpu:.0%} of a core"
    return "unknown", "nothing could be seen of the machine"
