"""Read an answer that was forced, or guess one; count the tokens of thinking. Pure text.

What forces an answer is `prompts.answer_prefix`; what stands in the box is sampled by `rollout`.
"""

import re
from dataclasses import dataclass

from aimo2.answers import Extracted, extract, extract_boxed
from aimo2.prompts.families import ThinkingStyle

_BOX = "\\boxed{"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_DEPTH = {"{": 1, "}": -1}
_LAST_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+|/\d+)?")
_LONGEST_GUESS = 64


@dataclass(frozen=True, slots=True)
class Forced:
    """What was sampled behind `prompts.answer_prefix`, what closes the box, and what it holds."""

    text: str
    closing: str
    answer: Extracted | None


def box_end(sampled: str) -> int | None:
    """The offset just behind the brace that closes the forced box; `None` while it is open."""
    depth = 1
    for match in _BRACE.finditer(sampled):
        depth += _DEPTH.get(match[0], 0)
        if depth == 0:
            return match.end()
    return None


def forced(sampled: str) -> Forced:
    """Read the forced box; one that was left open is closed at the end of its first line, unless
    the model has begun a box of its own instead.
    """
    end = box_end(sampled)
    if end is not None:
        kept, closing = sampled[:end], ""
    else:
        kept = sampled.lstrip().split("\n", 1)[0].rstrip()
        closing = "}" * (1 + sum(_DEPTH.get(brace, 0) for brace in _BRACE.findall(kept)))
    own = extract_boxed(sampled) if end is None else None
    if own is not None:
        return Forced(sampled, "", Extracted(own, "forced"))
    found = extract(_BOX + kept + closing)
    return Forced(kept, closing, None if found is None else Extracted(found.raw, "forced"))


def guess(text: str, output: str | None) -> Extracted | None:
    """The last number in the last output that succeeded, else in the text: a last resort."""
    for source in (output or "", text):
        numbers = _LAST_NUMBER.findall(source)
        if numbers and len(numbers[-1]) <= _LONGEST_GUESS:
            return Extracted(numbers[-1].rstrip(",").replace(",", ""), "guessed")
    return None


class ThinkingMeter:
    """Counts the tokens inside thinking sections of a stream, wherever the chunks end."""

    def __init__(self, style: ThinkingStyle, *, inside: bool) -> None:
        """`inside`: whether the stream begins inside one."""
        self.inside = inside
        self.num_tokens = 0
        self._style = style
        self._carried = ""

    def feed(self, text: str, num_tokens: int) -> bool:
        """Take a chunk; returns whether a section ended in it."""
        self.num_tokens += num_tokens if self.inside else 0
        rest, ended = self._carried + text, False
        while True:
            mark = self._style.ends if self.inside else self._style.begins
            before, found, after = rest.partition(mark)
            if not found:
                self._carried = before[max(0, len(before) - len(mark) + 1) :]
                return ended
            ended = ended or self.inside
            self.inside = not self.inside
            rest = after
