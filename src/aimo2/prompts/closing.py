r"""End a reply's thinking, and force an answer out of it. Pure text.

Budget forcing (s1, arXiv 2501.19393) and salvage use these: what they return is appended to the
reply, and sampling goes on behind it. Nothing here changes what the model has written.
"""

import re

from aimo2.config import AnswerType
from aimo2.parse import open_fence
from aimo2.prompts.families import UNKNOWN, Family, style_of

_CJK = re.compile(r"[一-鿿]")
_CHINESE_SHARE = 0.1
_TAIL = 2000
"""Characters at the reply's end that tell its language."""

_CLOSE_LEAD = {
    "en": "I have thought long enough. I give the answer that what I found so far supports.",
    "zh": "我思考得够久了，现在根据已有的推理给出答案。",
}
_ANSWER_LEAD = {"en": "The final answer is ", "zh": "最终答案是 "}
_GO_ON = {
    "en": "Wait, let me check this once more.",
    "zh": "等一下，我再检查一遍。",
}


def is_thinking(reply: str, family: Family = UNKNOWN) -> bool:
    """Whether the reply so far ends inside its thinking."""
    style = style_of(family)
    return reply.rfind(style.begins) > reply.rfind(style.ends)


def outside_thinking(reply: str, family: Family = UNKNOWN, *, inside: bool = False) -> str:
    """What stands outside the reply's thinking: what the model says, not what it considers.

    `inside`: whether the text begins inside thinking. What stands before a first mark that ends
    thinking was thought, too: the prompt has begun it.
    """
    style = style_of(family)
    said: list[str] = []
    position = 0
    for mark in re.finditer(f"{re.escape(style.begins)}|{re.escape(style.ends)}", reply):
        begun = position == 0 and mark[0] == style.ends
        if not inside and not begun:
            said.append(reply[position : mark.start()])
        inside = mark[0] == style.begins
        position = mark.end()
    return "\n".join(said if inside else [*said, reply[position:]])


def close_thinking(reply: str, family: Family = UNKNOWN, *, lead: bool = True) -> str:
    """What ends the reply's thinking; empty where it does not think.

    An open code block is closed first. `lead`: whether a sentence in the model's own voice stands
    before the mark; without one some models open their thinking again.
    """
    fence = _closing_fence(reply)
    if not is_thinking(reply, family):
        return fence
    close = style_of(family).close
    begun = _overlap(reply, close)
    if begun and close[:begun].strip() and not fence:  # inside a code block it is no mark
        return close[begun:]
    said = f"{_break(reply + fence)}{_CLOSE_LEAD[_language(reply)]}" if lead else ""
    text = fence + said
    return text + (close.lstrip("\n") if (reply + text).endswith("\n") else close)


def answer_prefix(reply: str, family: Family, answer_type: AnswerType) -> str:
    r"""What forces an answer: code block and thinking closed, and a sentence up to `\boxed{`.

    The rest of the answer up to its closing brace is the model's; 20 to 64 tokens are enough.
    """
    closed = close_thinking(reply, family)
    lead = _ANSWER_LEAD[_language(reply)]
    dollar = "$" if answer_type == "expr" else ""
    return f"{closed}{_break(reply + closed)}{lead}{dollar}\\boxed{{"


def go_on_thinking(reply: str) -> str:
    """What keeps a reply going that wants to end too early ("Wait" of budget forcing)."""
    return f"{_break(reply)}{_GO_ON[_language(reply)]}"


def thinking_end(text: str, family: Family = UNKNOWN) -> int | None:
    """Where the mark begins that ends the last thinking in `text`; `None` where none ends.

    Cut there, and append `go_on_thinking`, to have the model think on.
    """
    style = style_of(family)
    at = text.rfind(style.ends)
    if at < 0 or text.find(style.begins, at) >= 0:
        return None
    mark = style.close.strip()
    return max(text.rfind(mark, 0, at + len(style.ends)), 0) if mark in text else at


def _closing_fence(reply: str) -> str:
    """The fence that ends an open code block, on a line of its own; empty where none is open."""
    fence = open_fence(reply)
    if fence is None:
        return ""
    return f"{fence}\n" if reply.endswith("\n") else f"\n{fence}\n"


def _break(text: str) -> str:
    """What makes the text end in an empty line; nothing behind a channel's mark."""
    if not text or text.endswith(("\n\n", "|>")):
        return ""
    return "\n" if text.endswith("\n") else "\n\n"


def _overlap(text: str, mark: str) -> int:
    """Characters of `mark` that the text ends with already."""
    return next((size for size in range(len(mark), 0, -1) if text.endswith(mark[:size])), 0)


def _language(reply: str) -> str:
    tail = reply[-_TAIL:]
    return "zh" if len(_CJK.findall(tail)) > _CHINESE_SHARE * max(len(tail), 1) else "en"
