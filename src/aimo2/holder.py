"""An engine that is opened when it is first needed, and again when it is gone; its questions.

Knows neither the exam nor the flags.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from aimo2.attempt import Observer
from aimo2.config import SolveConfig
from aimo2.deadline import Deadline
from aimo2.engine import Engine
from aimo2.errors import Aimo2Error, InputError, KeyRefused, ServerError
from aimo2.policy.vote import Tally, tally
from aimo2.solver import Solved, Solver, Tools
from aimo2.types import Outcome, Problem, StopReason

Open = Callable[[Deadline], AbstractAsyncContextManager[Engine]]
"""Starts an engine, by the deadline at the latest, and ends it again."""

Notify = Callable[[str], None]
"""Hears one line for a person now and then."""

_HOPELESS = (InputError, KeyRefused)
"""Only whoever started us can mend these: a wrong flag, a wrong key. Waiting does not help."""

START_SECONDS = 900.0
"""How long the competition lets a server take to start; an engine that takes longer is lost."""


class EngineHolder:
    """Opens an engine once, for whoever wants it first, and again after it has died for good.

    A failure to open is raised to those who wait, told where nobody does, and tried again by the
    next.
    """

    def __init__(
        self,
        open_engine: Open,
        notify: Notify,
        *,
        seconds: float = START_SECONDS,
        hopeless: Callable[[Aimo2Error], None] | None = None,
    ) -> None:
        """`seconds`: how long an opening may take.

        `hopeless` hears of a failure that no waiting mends, before those who wait do, and tells
        of it; but only until an engine was open once: what was given was right then.
        """
        self._open = open_engine
        self._notify = notify
        self._seconds = seconds
        self._hopeless = hopeless
        self._was_open = False
        self._num_waiting = 0
        self._owner: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Engine] | None = None
        self._closing = asyncio.Event()

    def start(self) -> None:
        """Begin to open it, unless it is open or being opened."""
        if self._ready is not None and not self._lost(self._ready):
            return
        self._ready = asyncio.get_running_loop().create_future()
        before, self._closing = (self._owner, self._closing), asyncio.Event()
        before[1].set()
        self._owner = asyncio.create_task(self._own(before[0], self._ready, self._closing))

    async def tools(self) -> Tools:
        """The open engine's tools. Raises what the opening does."""
        self.start()
        assert self._ready is not None
        self._num_waiting += 1
        try:
            # Shielded: the opening goes on for the next question if this one's time is over.
            return (await asyncio.shield(self._ready)).tools
        finally:
            self._num_waiting -= 1

    def health(self) -> str | None:
        """What is wrong with it now; `None` while nothing is."""
        ready = self._ready
        if ready is None:
            return "not loaded yet"
        if not ready.done():
            return "starting"
        if ready.cancelled():
            return "closed"
        return str(ready.exception()) if ready.exception() else ready.result().failure()

    async def close(self) -> None:
        """End it, and await its end."""
        self._closing.set()
        owner, ready = self._owner, self._ready
        if owner is None or ready is None:
            return
        if not ready.done():
            owner.cancel()
        await asyncio.wait([owner])

    async def _own(
        self,
        before: "asyncio.Task[None] | None",
        ready: "asyncio.Future[Engine]",
        closing: asyncio.Event,
    ) -> None:
        """The task in which the engine is opened and closed: its parts must see one task only."""
        try:
            if before is not None:
                await asyncio.wait([before])
            async with self._open(Deadline.after(self._seconds)) as engine:
                self._was_open = True
                ready.set_result(engine)
                await closing.wait()
        # The boundary of an engine: whoever waits for it hears of anything, a bug included.
        except Exception as error:  # noqa: BLE001
            if isinstance(error, _HOPELESS) and self._hopeless and not self._was_open:
                self._hopeless(error)
            elif ready.done() or not self._num_waiting:
                self._notify(str(error))
            if not ready.done():
                ready.set_exception(error)
                ready.exception()  # looked at, whether or not somebody waits
        finally:
            ready.cancel()

    def _lost(self, ready: "asyncio.Future[Engine]") -> bool:
        if not ready.done():
            return False
        if ready.cancelled() or ready.exception() is not None:
            return True
        failure = ready.result().failure()
        if failure is not None:
            self._notify(f"the engine is started anew: {failure}")
        return failure is not None


class EngineQuestion:
    """One problem: waits for the engine, then is solved by it. A `Question` of the exam."""

    def __init__(
        self, problem: Problem, observer: Observer, config: SolveConfig, holder: EngineHolder
    ) -> None:
        self._problem = problem
        self._observer = observer
        self._config = config
        self._holder = holder
        self._solver: Solver | None = None
        self._ended: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()

    @property
    def tally(self) -> Tally:
        """The votes so far."""
        return tally(()) if self._solver is None else self._solver.tally

    def interrupt(self, reason: StopReason) -> None:
        """End it now; the votes so far decide."""
        if self._solver is not None:
            self._solver.interrupt(reason)
        elif not self._ended.done():
            self._ended.set_result(reason)

    async def solve(self, deadline: Deadline) -> Solved:
        """Run to the end, by `deadline` at the latest. Raises what an engine's opening does."""
        tools = asyncio.ensure_future(self._holder.tools())
        left = None if deadline.when() is None else deadline.remaining()
        awaited: set[asyncio.Future[Any]] = {tools, self._ended}
        await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not tools.done():
            tools.cancel()
            return self._nothing(self._ended.result() if self._ended.done() else "deadline")
        try:
            ready = tools.result()
        except asyncio.CancelledError as error:
            raise ServerError("the engine was closed") from error
        self._solver = Solver(self._problem, self._config, ready, self._observer)
        if self._ended.done():
            self._solver.interrupt(self._ended.result())
        return await self._solver.solve(deadline)

    def _nothing(self, reason: StopReason) -> Solved:
        outcome = Outcome(
            id=self._problem.id,
            answer=None,
            votes={},
            stop_reason=reason,
            num_rollouts=0,
            num_sampled_tokens=0,
            num_code_runs=0,
            seconds=0.0,
            note="the engine was not ready in time",
        )
        return Solved(outcome, ())


def reseeded(config: SolveConfig, num_resumed: int) -> SolveConfig:
    """Other seeds in each life of an exam: the votes of an earlier one are not sampled again."""
    return config.model_copy(update={"seed": config.seed + num_resumed})
