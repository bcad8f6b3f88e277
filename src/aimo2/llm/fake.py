"""A model that says what a script tells it to. Knows no HTTP; time is the event loop's clock."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from aimo2.deadline import Deadline
from aimo2.errors import DeadlinePassed
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.llm.stop import ReplyCutter

_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


@dataclass(frozen=True, slots=True)
class Delay:
    """Let time pass before the next step; `seconds` on the event loop's clock."""

    seconds: float


Step = str | Chunk | Delay | Exception
"""Text (one chunk a word), a chunk as it is, a wait, or an error to raise."""

Script = Callable[[Conversation, Sampling], Iterable[Step]]


@dataclass(slots=True)
class Call:
    """One call of `stream`: what was asked and what became of it.

    `state`: "open" while it streams, "finished" after the last chunk was taken, "closed" where the
    caller closed or cancelled it before, "failed" where it raised.
    """

    conversation: Conversation
    sampling: Sampling
    deadline: Deadline
    chunks: list[Chunk] = field(default_factory=list)
    state: Literal["open", "finished", "closed", "failed"] = "open"

    @property
    def text(self) -> str:
        """The text handed out so far."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def num_tokens(self) -> int:
        """The tokens handed out so far."""
        return sum(chunk.num_tokens for chunk in self.chunks)


class ScriptedModel:
    """A `Model` that follows a script, one chunk a token, and remembers its calls.

    The script is asked once a call. When its steps end, so does the reply, with "stop". As on a
    real server, `max_tokens` ends it with "length", and a stop string ends it with "stop" and is
    cut off, wherever chunks split it; text that may begin a stop string is held back.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self.calls: list[Call] = []

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        """Play the script for this call; see `Model.stream`."""
        call = Call(conversation, sampling, deadline)
        self.calls.append(call)
        try:
            async for chunk in _play(self._script(conversation, sampling), sampling, deadline):
                call.chunks.append(chunk)
                yield chunk
        except (GeneratorExit, asyncio.CancelledError):
            call.state = "closed"
            raise
        except BaseException:
            call.state = "failed"
            raise
        call.state = "finished"


async def _play(
    steps: Iterable[Step], sampling: Sampling, deadline: Deadline
) -> AsyncGenerator[Chunk, None]:
    cutter = ReplyCutter(sampling.stop, sampling.max_tokens)
    for step in _tokens(steps):
        await _wait(step.seconds if isinstance(step, Delay) else 0, deadline)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, Chunk):
            chunk = cutter.take(step)
            if chunk is not None:
                yield chunk
            if cutter.finish_reason is not None:
                return
    await _wait(0, deadline)
    yield cutter.end("stop")


def _tokens(steps: Iterable[Step]) -> Iterator[Chunk | Delay | Exception]:
    for step in steps:
        if isinstance(step, str):
            yield from (Chunk(word, 1) for word in _TOKEN.findall(step))
        else:
            yield step


async def _wait(seconds: float, deadline: Deadline) -> None:
    """Sleep, at least for one turn of the loop, so that a caller can be cancelled there."""
    if deadline.remaining() <= seconds and seconds > 0:
        await asyncio.sleep(deadline.remaining())
        raise DeadlinePassed("the deadline came during the scripted model's reply")
    await asyncio.sleep(seconds)
    if deadline.passed():
        raise DeadlinePassed("the deadline came during the scripted model's reply")
