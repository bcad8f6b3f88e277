"""Keep a number of streams busy for a time, or for a number of problems. Knows no servers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from aimo2.benchmark.workloads import Work
from aimo2.deadline import Deadline
from aimo2.errors import Aimo2Error
from aimo2.types import Problem

_HOPELESS = 8
"""This many failures with no success end the measurement: the server is not usable."""
MOST_WINDOWS = 10
"""A window grows to so many times its duration at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done.

    `workers`: problems in work at the same time. `requests`: problems, all measured from the
    first request to the last token; `None` measures `duration` seconds instead, after `ramp`
    seconds in which the first prompts are read. `enough`: asked when the duration is over; while
    it says no, the window grows by as much again, up to `MOST_WINDOWS` times: a slow engine may
    still be reading its first prompts.

    A duration is to show the steady state, in which streams are out of step: streams that begin
    and end together have all their prompts read at once, and a window holds too many or too few of
    these moments. The first problem of worker i of n is therefore cut to (i + 1)/n of its length:
    what is left of a piece of work at a random instant is, where all are equally long, equally
    likely to be any part of it (renewal theory's stationary residual life).
    """

    workers: int
    requests: int | None = None
    duration: float = 30.0
    ramp: float = 3.0
    enough: Callable[[], bool] = lambda: True


@dataclass(slots=True)
class Progress:
    """What a load has done so far. Instants are on the event loop's clock; 0 before they come."""

    begin: float = 0.0
    end: float = 0.0
    num_done: int = 0
    num_failed: int = 0
    done_at: list[float] = field(default_factory=list)
    failure: str | None = None


class HopelessError(Aimo2Error):
    """Nothing but failures."""


async def run_load(
    work: Work,
    problems: Iterator[Problem],
    plan: Plan,
    deadline: Deadline,
    progress: Progress,
    on_begin: Callable[[], None] = lambda: None,
) -> None:
    """Run the load to its end; `progress` may be read at any time.

    `on_begin` is called at the beginning of the window that counts. Raises `HopelessError` where
    nothing succeeds; single failures are counted.
    """
    loop = asyncio.get_running_loop()
    left = None if plan.requests is None else iter(range(plan.requests))
    started = loop.time()
    windows = [deadline]
    if plan.requests is None:
        progress.begin = started + plan.ramp
        windows = [
            min(deadline, Deadline(progress.begin + number * plan.duration))
            for number in range(1, MOST_WINDOWS + 1)
        ]
        loop.call_at(progress.begin, on_begin)
    else:
        progress.begin = started
        on_begin()

    async def worker(part: float) -> None:
        while left is None or next(left, None) is not None:
            await _once(partial(work, next(problems), deadline, part), progress)
            part = 1.0

    parts = [1.0] * plan.workers
    if plan.requests is None:
        parts = [(number + 1) / plan.workers for number in range(plan.workers)]
    workers = [asyncio.create_task(worker(part)) for part in parts]
    try:
        for over in windows:
            pending = await _until(workers, over)
            if not pending or plan.enough():
                break
        progress.end = min(loop.time(), over.at)
    finally:
        progress.end = progress.end or loop.time()
        for task in workers:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.gather(*workers, return_exceptions=True)


async def _until(workers: Sequence[asyncio.Task[None]], over: Deadline) -> bool:
    """Let the workers work until then; returns whether any still does. Raises what one raised."""
    left = None if over.when() is None else over.remaining()
    done, pending = await asyncio.wait(workers, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    return bool(pending)


async def _once(work: Callable[[], Awaitable[None]], progress: Progress) -> None:
    try:
        await work()
    except (Aimo2Error, RuntimeError, ExceptionGroup) as error:
        progress.num_failed += 1
        progress.failure = progress.failure or _line(error)
        if progress.num_failed >= _HOPELESS and not progress.num_done:
            raise HopelessError(progress.failure) from error
    else:
        progress.num_done += 1
        progress.done_at.append(asyncio.get_running_loop().time())


def _line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(str(error).split()) or type(error).__name__
