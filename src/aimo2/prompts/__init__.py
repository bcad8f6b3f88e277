"""Turn a problem into messages, openings and nudges. Pure text; knows no models."""

from collections.abc import Sequence
from dataclasses import dataclass

from aimo2.config import AnswerType
from aimo2.llm import Message
from aimo2.prompts.closing import (
    answer_prefix,
    close_thinking,
    go_on_thinking,
    is_thinking,
    thinking_end,
)
from aimo2.prompts.families import UNKNOWN, Family, Thinking, families, find_family
from aimo2.types import ErrorKind, Opening

__all__ = [
    "UNKNOWN",
    "Family",
    "Start",
    "Thinking",
    "answer_prefix",
    "close_thinking",
    "families",
    "find_family",
    "go_on_thinking",
    "is_thinking",
    "nudge",
    "start",
    "thinking_end",
]

_WITH_CODE = (
    "Solve the problem. Reason step by step, and write Python code in a ```python block where"
    " computing helps: it is run at once and what it prints comes back in an ```output block."
    " Never write an ```output block yourself. Use exact arithmetic (int, fractions, sympy) and"
    " print what you need."
)
_WITHOUT_CODE = "Solve the problem. Reason step by step, in words and formulae, without code."
_ANSWER_FORM: dict[AnswerType, str] = {
    "int": "The answer is an integer. Put it in \\boxed{}.",
    "expr": "Put the final answer in \\boxed{}.",
}

_NUDGES: dict[ErrorKind, str] = {
    "syntax": "The code has a syntax error. I correct it:",
    "name": "A name was not defined. I define everything that I use:",
    "import": "That package is not there. I do without it:",
    "type": "I used a value in a way that its type does not allow. I correct that:",
    "value": "A value was not what I expected. I check it and correct the code:",
    "assertion": "A check failed, so something I assumed is wrong. I look at it again:",
    "recursion": "The recursion went too deep. I write it as a loop:",
    "memory": "That needed too much memory. I use a smaller representation:",
    "timeout": "That took too long. I need a faster way, a closed form or a smaller search:",
    "output": "That printed far too much. I print only the result:",
    "input": "The code cannot read input. I put the values into it:",
    "died": "That ended the interpreter. I write it again, more simply:",
    "other": "The code failed. I correct it:",
}

LAST_RUN_NUDGE = "I cannot run more code, so I now give the final answer."
SILENT_OUTPUT = "(the code printed nothing; use print to see a value)"


@dataclass(frozen=True, slots=True)
class Start:
    """How a rollout begins: the messages, and what the reply is begun with."""

    messages: Sequence[Message]
    prefix: str


def start(statement: str, opening: Opening, answer_type: AnswerType, *, code: bool) -> Start:
    """Messages and reply prefix of one opening. `code`: whether code may be run at all."""
    task = _WITH_CODE if code else _WITHOUT_CODE
    messages = (
        Message("system", f"{task} {_ANSWER_FORM[answer_type]}"),
        Message("user", statement.strip()),
    )
    return Start(messages, "```python\n" if code and opening == "code" else "")


def nudge(error: ErrorKind) -> str:
    """One sentence in the model's own voice that leads to a repair of that kind of error."""
    return _NUDGES[error]
