"""One model reasons, another goes on from its reasoning and writes the code or the answer.

A `Model` over two others, by the phase that the reply is in: a reasoner that marks its thinking is
followed until the thinking ends, any other until it begins its first code block. What follows is
the second model's, which reads the reasoning as its own. Knows no servers and no votes.

The idea is known as retrieval augmented thinking (RAT): a cheap good coder behind a good thinker.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from aimo2.deadline import Deadline
from aimo2.llm import Chunk, Conversation, Message, Model, Sampling
from aimo2.prompts.closing import close_thinking
from aimo2.prompts.families import Family

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_BEGUN_FENCE = re.compile(r"(?:(?<=\n)|\A)[ \t]*(?:`{1,2}|~{1,2})\Z")
_LONGEST_INDENT = 24


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two models, and its family."""

    model: Model
    family: Family


@dataclass(frozen=True, slots=True)
class _Split:
    """A reply of the reasoner's family, taken apart. `rest`: what follows the reasoning."""

    reasoning: str
    rest: str


class HandOver:
    """A `Model` of two; replies are in the reasoner's form, its marks included.

    Where the reasoner ends its reply inside its thinking, the mark that ends it is put there for
    it, as a chunk of no tokens.
    """

    def __init__(self, reasoner: Part, solver: Part) -> None:
        self._reasoner = reasoner
        self._solver = solver

    async def stream(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        """Sample a continuation by the model whose turn it is; see `Model.stream`."""
        reply = conversation.reply
        left = sampling.max_tokens
        if self._end(reply) is None:
            async with aclosing(
                self._reasoned(replace(conversation, reply=reply), sampling, deadline)
            ) as chunks:
                async for chunk in chunks:
                    reply += chunk.text
                    left -= chunk.num_tokens
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
        if left <= 0:
            yield Chunk("", 0, (), "length")
            return
        asked = self._handed(replace(conversation, reply=reply))
        own = replace(
            sampling, max_tokens=left, special_tokens=self._solver.family.keeps_special_tokens
        )
        async with aclosing(self._solver.model.stream(asked, own, deadline)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _reasoned(
        self, conversation: Conversation, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[Chunk, None]:
        """The reasoner's chunks up to the hand-over; the last one has a finish reason if there is
        none, because the tokens are used up."""
        reply = conversation.reply
        held = ""
        async with aclosing(
            self._reasoner.model.stream(conversation, sampling, deadline)
        ) as chunks:
            async for chunk in chunks:
                before, reply = len(reply) - len(held), reply + chunk.text
                text, held = held + chunk.text, ""
                end = self._end(reply)
                if end is not None:
                    yield replace(chunk, text=text[: max(0, end - before)], finish_reason=None)
                    return
                if chunk.finish_reason == "stop":
                    close = close_thinking(reply, self._reasoner.family, lead=False) or "\n"
                    yield replace(chunk, text=text + close, finish_reason=None)
                    return
                if chunk.finish_reason is None and (begun := self._begun(reply)):
                    # What may be a fence is the solver's: it is not handed out yet.
                    text, held = text[:-begun], text[-begun:]
                yield replace(chunk, text=text)

    def _begun(self, reply: str) -> int:
        """Characters at the end of the reply that may begin a code block."""
        if self._reasoner.family.thinking is not None:
            return 0
        found = _BEGUN_FENCE.search(reply[-_LONGEST_INDENT:])
        return 0 if found is None else len(found[0])

    def _end(self, reply: str) -> int | None:
        """Where the reasoning of a reply ends and the solver's part begins; `None` before that."""
        style = self._reasoner.family.thinking
        if style is None:
            found = _FENCE.search(reply)
            return None if found is None else found.start()
        at = reply.rfind(style.ends)
        if at < 0 or reply.rfind(style.begins) > at:
            return None
        return at + len(style.ends)

    def _handed(self, conversation: Conversation) -> Conversation:
        """The conversation as the solver is shown it: in its own form, the reasoning as its own."""
        family = self._solver.family
        split = self._split(conversation.reply)
        style = family.thinking
        if style is not None:
            reply = f"{style.open}{split.reasoning}{style.close}{split.rest}"
        else:
            reply = f"{split.reasoning}\n\n{split.rest}" if split.reasoning else split.rest
        return Conversation(_in_form(conversation.messages, family), reply)

    def _split(self, reply: str) -> _Split:
        style = self._reasoner.family.thinking
        end = self._end(reply)
        if end is None:  # The reasoner said nothing more, and has no marks.
            return _Split(reply.strip(), "")
        if style is None:
            return _Split(reply[:end].rstrip(), reply[end:])
        start = reply.find(style.begins)
        close = style.close.strip()
        thought = reply[start + len(style.begins) : end].removesuffix(style.ends)
        thought = thought.removesuffix(close.removesuffix(style.ends))
        return _Split(thought.strip(), reply[end:].lstrip("\n"))


def _in_form(messages: Sequence[Message], family: Family) -> Sequence[Message]:
    """A system message put before the user's, for a family that takes none."""
    if family.system or messages[0].role != "system":
        return messages
    first, second, *more = messages
    return (replace(second, content=f"{first.content}\n\n{second.content}"), *more)
