"""From metered calls to figures: rates, latencies, and how sure they are. Pure."""

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from aimo2.benchmark.meter import Call, Cell

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
    pass 1 where a library's threads help. `stall_p99`: seconds that the event loop was late. The
    GPU's figures are of the cards that serve. `gpu_busy`: share of time in which anything ran
    there: near 1 with a single stream, so that only a low one tells something.
    """

    client_cpu: float | None = None
    stall_p99: float | None = None
    gpu_memory_mib: int | None = None
    gpu_busy: float | None = None
    other_cards: bool = False
    """Whether cards that others use may be among those of the GPU's figures."""
    prefix_hits: float | None = None
    """Share of the prompts' tokens that the server found in its prefix cache."""
    most_waiting: int | None = None
    """Requests that queued in the server, at most."""
    accepted_drafts: float | None = None
    """Share of speculated tokens that were accepted."""


class Code(_Stored):
    """What the code runs that ended in the window did. Times: seconds, summed over all rollouts."""

    num_runs: int
    num_failed: int
    running: float
    """Inside cells."""
    waiting: float
    """From asking for a cell to its result, less the cell's own time: the sandbox's queue, and the
    making of kernels."""
    share: Annotated[float, Field(ge=0)]
    """Of the window's time of streams and code runs together, that went to code, queue included."""


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
    calls: Sequence[Call],
    begin: float,
    end: float,
    *,
    workload: str,
    concurrent: int,
    limit: int,
    dropped: float = 0.0,
) -> Figures:
    """The figures of the window from `begin` to `end`, instants on the event loop's clock.

    `limit`: tokens a call, as asked for. `dropped`: of the window's tokens, those that did not stay
    in a reply. Raises `ValueError` where the window is empty.
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
        useful_share=max(0.0, 1.0 - dropped / num_tokens) if num_tokens else 1.0,
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


def code_of(cells: Sequence[Cell], calls: Iterable[Call], begin: float, end: float) -> Code:
    """What code did in the window. Cells and calls that are still open count up to its end."""
    done = [cell for cell in cells if cell.done and begin <= cell.ended <= end]
    in_cells = sum(_inside(cell.begun, cell.ended, begin, end) for cell in cells)
    in_calls = sum(_inside(call.begun, call.ended, begin, end) for call in calls)
    return Code(
        num_runs=len(done),
        num_failed=sum(cell.failed for cell in done),
        running=sum(cell.seconds for cell in done),
        waiting=sum(max(0.0, cell.ended - cell.begun - cell.seconds) for cell in done),
        share=in_cells / (in_cells + in_calls) if in_cells else 0.0,
    )


def _inside(begun: float, ended: float, begin: float, end: float) -> float:
    """Seconds of the window; `ended` is 0 where it has not."""
    return max(0.0, min(ended or end, end) - max(begun, begin))


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


_FULL_CORE = 0.9
_BUSY_CORE, _LONG_STALL = 0.5, 0.1
"""A client that works in bursts: half a core, and the loop late by so many seconds."""
_IDLE_GPU = 0.8
_QUEUE = 0.1
"""Of the streams: a few requests wait for the engine's next step at any time."""
_MORE = 1.25
"""So many times the tokens, at least, with more streams: these were not the most that there is."""
_GROWING = 0.5
"""Tokens that have grown as streams to this power, at least, will grow on: 1 is in proportion."""


def limiting(
    figures: Figures, *, slots: int | None, others: Iterable[Figures] = ()
) -> tuple[Limit, str]:
    """What held the measurement back, and why we think so. Rules of thumb, in this order.

    The client, where its core or its event loop was full; the sandbox, where rollouts queued for
    cells; the engine, where requests queued in it; the load, where the GPU had time left. What is
    left to tell is whether more streams bring more tokens, which no counter says and `others` do:
    the same workload with other numbers of streams. `slots`: streams that the server takes at once.
    """
    machine, code = figures.machine, figures.code
    cpu, stall = machine.client_cpu or 0.0, machine.stall_p99 or 0.0
    if cpu > _FULL_CORE:
        return "client", f"the client used {cpu:.0%} of a core"
    if cpu > _BUSY_CORE and stall > _LONG_STALL:
        return "client", f"its event loop was {stall * 1000:.0f} ms late (99th percentile)"
    if code is not None and code.waiting > code.running and code.share > 0.1:
        return "sandbox", f"rollouts queued for cells; code took {code.share:.0%} of their time"
    if code is not None and code.share > 0.5:
        return "sandbox", f"code took {code.share:.0%} of the rollouts' time"
    if (machine.most_waiting or 0) > _QUEUE * figures.concurrent:
        return "engine", f"requests waited in the server, up to {machine.most_waiting}"
    if slots is not None and figures.concurrent > slots:
        return "engine", f"the server has {slots} slots for {figures.concurrent} streams"
    seen = None if machine.other_cards else machine.gpu_busy
    if seen is not None and seen < _IDLE_GPU:
        return "load", f"the GPU was busy {seen:.0%} of the time"
    return _grown(figures, others)


def _grown(figures: Figures, others: Iterable[Figures]) -> tuple[Limit, str]:
    """By the nearest larger number of streams; else by the nearest smaller one."""
    same = [
        other
        for other in others
        if (other.workload, other.max_tokens) == (figures.workload, figures.max_tokens)
        and other.num_tokens > 0
    ]
    more = min(
        (other for other in same if other.concurrent > figures.concurrent),
        key=lambda other: other.concurrent,
        default=None,
    )
    fewer = max(
        (other for other in same if other.concurrent < figures.concurrent),
        key=lambda other: other.concurrent,
        default=None,
    )
    low, high = (figures, more) if more is not None else (fewer, figures)
    if low is None or high is None or not figures.num_tokens:
        return "unknown", "engine or load: a sweep of --concurrent tells"
    times = high.tokens_per_second / low.tokens_per_second
    enough = _MORE if more is not None else (high.concurrent / low.concurrent) ** _GROWING
    said = f"{high.concurrent} streams gave {times:.2f} times the tokens of {low.concurrent}"
    return ("load" if times >= enough else "engine"), said


def judged(results: Sequence[Figures], slots: int | None) -> tuple[Figures, ...]:
    """The same, each with what limited it, told from all together."""
    found = [limiting(figures, slots=slots, others=results) for figures in results]
    return tuple(
        figures.model_copy(update={"limit": limit, "why": why})
        for figures, (limit, why) in zip(results, found, strict=True)
    )
