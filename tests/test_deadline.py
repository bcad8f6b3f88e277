import asyncio
import math

import pytest

from aimo2.deadline import NEVER, Deadline
from tests.virtual import run_virtual


def test_time_that_passes_is_taken_from_what_remains() -> None:
    async def main() -> None:
        deadline = Deadline.after(10)
        await asyncio.sleep(4)
        assert deadline.remaining() == 6
        assert not deadline.passed()
        await asyncio.sleep(7)
        assert deadline.remaining() == 0
        assert deadline.passed()

    run_virtual(main())


def test_never_never_passes() -> None:
    async def main() -> None:
        assert Deadline.after(None) == NEVER
        assert math.isinf(NEVER.remaining())
        assert NEVER.when() is None
        assert NEVER.earlier(5) == NEVER
        assert not NEVER.passed()

    run_virtual(main())


def test_within_takes_the_nearer_one() -> None:
    async def main() -> None:
        deadline = Deadline.after(10)
        assert deadline.within(None) == deadline
        assert deadline.within(20) == deadline
        assert deadline.within(3).remaining() == 3
        assert deadline.earlier(4).remaining() == 6

    run_virtual(main())


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_a_timeout_that_makes_no_sense_is_refused(seconds: float) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="timeout"):
            Deadline.after(seconds)

    run_virtual(main())
