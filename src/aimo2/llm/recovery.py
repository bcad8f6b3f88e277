"""Decide whether and when a failed request is sent again. Knows no HTTP."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from aimo2.deadline import Deadline
from aimo2.errors import DeadlinePassed, ModelUnavailable, SetupError
from aimo2.llm.transport import ClientLimits, Unavailable

OnUnavailable = Callable[[Deadline], Awaitable[None]]
"""Awaited before a request that could not reach its server is tried again: wait for a restart."""


class Recovery:
    """Waits between tries and gives up in time; one for each call."""

    def __init__(
        self, limits: ClientLimits, jitter: random.Random, on_unavailable: OnUnavailable | None
    ) -> None:
        self._limits = limits
        self._jitter = jitter
        self._on_unavailable = on_unavailable
        self._num_failures = 0

    def succeeded(self) -> None:
        """Progress was made: start counting again."""
        self._num_failures = 0

    async def pause(self, error: Unavailable, deadline: Deadline) -> None:
        """Wait until the next try; raises `error` where there is none or no time for it."""
        self._num_failures += 1
        delay = self._delay(error)
        if delay is None or delay >= deadline.remaining():
            raise error
        if self._on_unavailable is not None and not error.reached:
            await self._wait_for_server(self._on_unavailable, error, deadline)
        await asyncio.sleep(delay)

    def _delay(self, error: Unavailable) -> float | None:
        asked = error.retry_after or 0.0
        if self._num_failures > self._limits.max_retries or asked > self._limits.max_retry_after:
            return None
        doubled = self._limits.backoff * 2.0 ** (self._num_failures - 1)
        delay = min(self._limits.max_backoff, doubled) * self._jitter.uniform(0.5, 1)
        return max(asked, delay)

    async def _wait_for_server(
        self, on_unavailable: OnUnavailable, error: Unavailable, deadline: Deadline
    ) -> None:
        try:
            async with asyncio.timeout_at(deadline.when()):
                await on_unavailable(deadline)
        except TimeoutError:
            raise DeadlinePassed(f"the deadline came before a new try: {error}") from error
        except SetupError as given_up:
            raise ModelUnavailable(str(given_up)) from error
