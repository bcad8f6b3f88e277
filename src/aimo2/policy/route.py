"""Which replica a request goes to: where its prefix is cached, unless that one is too busy. Pure.

The rule is that of cache-aware routers (SGLang's router: the longest matching prefix while the
loads are balanced, the shortest queue where they are not), with one condition for both: a replica
is eligible while its load is at most `RELATIVE` times the least plus `ABSOLUTE`. So rollouts of a
new problem start where the first of them went, spill over when that replica is fuller than the
others by the bound, and from then on find their prefix on several replicas.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

RELATIVE = 1.25
ABSOLUTE = 2
_BLOCK = 128
"""Characters a block: about two of vLLM's blocks of 16 tokens."""
_MOST_BLOCKS = 200_000
"""A replica's remembered blocks: some 6 million tokens, more than a cache holds."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One live replica. `load`: streams in flight. `cached`: leading blocks it has seen."""

    index: int
    load: int
    cached: int


def choose(candidates: Sequence[Candidate], start: int) -> int:
    """The replica's index. `start`: a number of the prompt's start, to break ties by.

    Raises `ValueError` where there are no candidates.
    """
    if not candidates:
        raise ValueError("no replica to choose from")
    bound = RELATIVE * min(candidate.load for candidate in candidates) + ABSOLUTE
    fit = [candidate for candidate in candidates if candidate.load <= bound]
    best = max(candidate.cached for candidate in fit)
    nearest = [candidate for candidate in fit if candidate.cached == best]
    least = min(candidate.load for candidate in nearest)
    equal = [candidate for candidate in nearest if candidate.load == least]
    return equal[start % len(equal)].index


def blocks(text: str) -> list[int]:
    """A number for each whole block of a text, that stands for everything up to its end."""
    chained, numbers = b"", []
    for start in range(0, len(text) - _BLOCK + 1, _BLOCK):
        piece = text[start : start + _BLOCK].encode("utf-8", "surrogatepass")
        chained = hashlib.blake2b(chained + piece, digest_size=8).digest()
        numbers.append(int.from_bytes(chained))
    return numbers


class PrefixIndex:
    """What one replica has most probably cached; the least recently used is forgotten."""

    def __init__(self, most_blocks: int = _MOST_BLOCKS) -> None:
        self._most = most_blocks
        self._seen: OrderedDict[int, None] = OrderedDict()

    def cached(self, numbers: Sequence[int]) -> int:
        """How many leading blocks were seen."""
        for count, number in enumerate(numbers):
            if number not in self._seen:
                return count
        return len(numbers)

    def add(self, numbers: Sequence[int]) -> None:
        """The replica has just worked on a text of these blocks."""
        for number in reversed(numbers):  # the first block is forgotten last
            self._seen[number] = None
            self._seen.move_to_end(number)
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def clear(self) -> None:
        """The replica was restarted."""
        self._seen.clear()
