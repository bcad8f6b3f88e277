"""Pauses grow, are jittered, follow the server's wish and never pass the deadline."""

import asyncio
import random
from itertools import pairwise

import pytest

from aimo2.deadline import NEVER, Deadline
from aimo2.errors import DeadlinePassed, ModelUnavailable, ServerError
from aimo2.llm.recovery import OnUnavailable, Recovery
from aimo2.llm.transport import ClientLimits, Unavailable
from tests.virtual import run_virtual

LIMITS = ClientLimits(max_retries=5, backoff=1.0, max_backoff=4.0, max_retry_after=50.0)
GONE = Unavailable("gone")


def recovery(on_unavailable: OnUnavailable | None = None) -> Recovery:
    return Recovery(LIMITS, random.Random(0), on_unavailable)


async def pauses(tries: Recovery, *errors: Unavailable, deadline: Deadline = NEVER) -> list[float]:
    times = [asyncio.get_running_loop().time()]
    for error in errors:
        await tries.pause(error, deadline)
        times.append(asyncio.get_running_loop().time())
    return [after - before for before, after in pairwise(times)]


def test_pauses_double_up_to_a_limit() -> None:
    waited = run_virtual(pauses(recovery(), *[GONE] * 5))
    for pause, full in zip(waited, (1, 2, 4, 4, 4), strict=True):
        assert full / 2 <= pause <= full
    assert len(set(waited)) == 5


def test_too_many_failures_in_a_row_are_given_up() -> None:
    with pytest.raises(Unavailable, match="gone"):
        run_virtual(pauses(recovery(), *[GONE] * 6))


def test_progress_starts_the_count_again() -> None:
    async def main() -> None:
        tries = recovery()
        for _ in range(4):
            await pauses(tries, *[GONE] * 5)
            tries.succeeded()

    run_virtual(main())


def test_the_server_s_wish_is_a_lower_bound() -> None:
    [pause] = run_virtual(pauses(recovery(), Unavailable("busy", retry_after=30)))
    assert pause == 30


def test_a_pause_that_is_too_long_is_not_begun() -> None:
    async def main(error: Unavailable, deadline: Deadline) -> None:
        with pytest.raises(Unavailable):
            await recovery().pause(error, deadline)
        assert asyncio.get_running_loop().time() == 0

    run_virtual(main(Unavailable("busy", retry_after=51), NEVER))
    run_virtual(main(Unavailable("busy", retry_after=30), Deadline(30)))


def test_only_an_unreached_server_is_waited_for() -> None:
    waited: list[Deadline] = []

    async def wait(deadline: Deadline) -> None:
        waited.append(deadline)
        await asyncio.sleep(9)

    errors = (Unavailable("busy", reached=True), GONE)
    first, second = run_virtual(pauses(recovery(wait), *errors, deadline=Deadline(99)))
    assert waited == [Deadline(99)]
    assert first <= 1
    assert second >= 9


def test_waiting_for_a_server_ends_at_the_deadline() -> None:
    async def wait(deadline: Deadline) -> None:
        await asyncio.sleep(1000)

    with pytest.raises(DeadlinePassed, match="gone"):
        run_virtual(pauses(recovery(wait), GONE, deadline=Deadline(20)))


def test_a_server_given_up_is_a_model_error() -> None:
    async def wait(deadline: Deadline) -> None:
        raise ServerError("died twice: see its log")

    with pytest.raises(ModelUnavailable, match="died twice"):
        run_virtual(pauses(recovery(wait), GONE))
