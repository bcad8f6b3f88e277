"""A server that adds numbers, deterministically: the reply depends on prompt and seed alone.

Some replies are right, some wrong, some have no answer; those that begin with code run it.
"""

import asyncio
import hashlib
import random
import re
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.llm.fake_server import Break, FakeServer, Knobs

_SUM = re.compile(r"What is (\d+) plus (\d+)\?")


class ExamServer(FakeServer):
    """`seconds`: what a completion takes; `hard`: chance of a wrong or no answer."""

    def __init__(self, seconds: float = 0.0, hard: float = 0.5) -> None:
        super().__init__(Knobs())
        self.seconds = seconds
        self.hard = hard

    def _sample(self, body: dict[str, Any], so_far: str) -> tuple[list[str], str]:
        found = _SUM.findall(str(body.get("prompt", "")))
        if not found:
            return super()._sample(body, so_far)
        text = reply(int(found[-1][0]), int(found[-1][1]), int(body["seed"]), so_far, self.hard)
        pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
        limit = int(body.get("max_tokens", 16))
        return pieces[:limit], "length" if len(pieces) > limit else "stop"

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        events: Iterator[tuple[int, bytes]],
        broken: Break | None,
    ) -> None:
        """In one piece: where reads end decides how many tokens an early stop has seen."""
        await asyncio.sleep(self.seconds)
        await response.write(b"".join(data for _, data in events))


def reply(a: int, b: int, seed: int, so_far: str, hard: float) -> str:
    """What the model says next."""
    digest = hashlib.sha256(f"{a} {b} {seed}".encode()).digest()
    chance = random.Random(digest)
    if so_far.endswith("```python\n"):
        code = "print(undefined)" if chance.random() < 0.4 else f"print({a} + {b})"
        return f"{code}\n```\n"
    words = "so " * chance.randrange(3, 12)
    draw = chance.random()
    if draw < hard / 4:
        return f"I {words}do not know."
    wrong = draw < hard
    return f"It is {words}$\\boxed{{{a + b + (chance.randrange(1, 3) if wrong else 0)}}}$."
