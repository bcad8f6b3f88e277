"""Decide when a code block is begun for a model that reasons on without one. Pure.

Knows no words to say then; those are the opening's.
"""

import re

from aimo2.config import OpeningConfig
from aimo2.policy.cut import find_hedge

_SENTENCE_END = re.compile(r"[.!?][\"')\]*]*\s|\n|[。！？]")
_DISPLAY = re.compile(r"\\\[|\\\]|\$\$")
_PATIENCE = 64
"""Tokens that a fence that is due waits for the end of a sentence."""


class FenceRule:
    """Says where a code block is begun: after so many tokens, or behind a sentence of doubt.

    Once for each rollout; a block that the model begins itself ends the rule, too. A displayed
    formula is not cut.
    """

    def __init__(self, opening: OpeningConfig, *, thinks: bool = False) -> None:
        after = opening.fence_after
        if thinks and opening.fence_after_thinking is not None:
            after = opening.fence_after_thinking
        self._after = after
        self._at_hedge = opening.fence_at_hedge
        self._text = ""
        self._sentence_start = 0
        self._in_display = False
        self.over = after is None and not opening.fence_at_hedge
        """Whether it will not say anything any more."""

    def begin(self) -> None:
        """Another model call begins: offsets count from here."""
        self._text, self._sentence_start, self._in_display = "", 0, False

    def feed(self, text: str, num_tokens: int, *, in_block: bool) -> int | None:
        """Take a chunk; the offset in the call's text behind which the block is to begin.

        `num_tokens`: of the rollout so far, the chunk's included. `in_block`: whether the text
        ends inside a code block.
        """
        if self.over:
            return None
        if in_block:
            self.over = True
            return None
        fresh = len(self._text)
        self._text += text
        due = self._after is not None and num_tokens >= self._after
        # A sentence's end may have begun in the chunk before, with its full stop.
        for found in _SENTENCE_END.finditer(self._text, max(fresh - 1, self._sentence_start)):
            sentence = self._text[self._sentence_start : found.end()]
            self._sentence_start = found.end()
            self._follow_display(sentence)
            hedged = self._at_hedge and find_hedge(sentence) is not None
            if (due or hedged) and not self._in_display:
                return self._decide(found.end())
        if self._after is not None and num_tokens >= self._after + _PATIENCE:
            return self._decide(len(self._text))
        return None

    def _decide(self, offset: int) -> int:
        self.over = True
        return offset

    def _follow_display(self, sentence: str) -> None:
        for mark in _DISPLAY.findall(sentence):
            self._in_display = not self._in_display if mark == "$$" else mark == "\\["
