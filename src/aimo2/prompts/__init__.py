"""Turn a problem into messages, openings and nudges. Pure text; knows no models but by name."""

from collections.abc import Sequence
from dataclasses import dataclass

from aimo2.config import AnswerType, OpeningConfig
from aimo2.llm import Message
from aimo2.prompts.closing import (
    answer_prefix,
    close_thinking,
    go_on_thinking,
    is_thinking,
    outside_thinking,
    thinking_end,
)
from aimo2.prompts.families import FENCE, UNKNOWN, Family, Thinking, families, find_family
from aimo2.prompts.openings import (
    find_opening,
    fitting,
    hint,
    line,
    openings,
    parse_mix,
    read_openings,
    task_text,
)
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
    "find_opening",
    "fitting",
    "go_on_thinking",
    "hint",
    "is_thinking",
    "line",
    "nudge",
    "openings",
    "outside_thinking",
    "parse_mix",
    "read_openings",
    "start",
    "thinking_end",
]

_PLAIN = find_opening("plain")
LAST_RUN_NUDGE = line("last_run", _PLAIN)
SILENT_OUTPUT = line("silent_output", _PLAIN)


@dataclass(frozen=True, slots=True)
class Start:
    """How a rollout begins: the messages, and what the reply is begun with.

    `opening`: its rules. `thinks`: whether the reply is begun with thinking. `with_code`: whether
    the model was offered code.
    """

    messages: Sequence[Message]
    prefix: str
    opening: OpeningConfig = _PLAIN
    thinks: bool = False
    with_code: bool = True


def start(
    statement: str,
    opening: Opening,
    answer_type: AnswerType,
    *,
    code: bool,
    family: Family = UNKNOWN,
    thinking: Thinking = "auto",
    custom: Sequence[OpeningConfig] = (),
) -> Start:
    """Messages and reply prefix of one opening. `code`: whether code may be run at all.

    Raises `ConfigError` for an unknown opening.
    """
    chosen = find_opening(opening, custom)
    with_code = code and chosen.code
    task = task_text(
        chosen, family.wording(chosen.language, code=with_code), answer_type, code=with_code
    )
    begun = "" if chosen.code and not code else chosen.prefix.replace(FENCE, family.fence)
    return Start(
        _messages(task, statement.strip(), family),
        _thought(family, thinking) + begun,
        chosen,
        family.thinks(thinking),
        with_code,
    )


def _messages(task: str, statement: str, family: Family) -> tuple[Message, ...]:
    if family.system:
        return Message("system", task), Message("user", statement)
    return (Message("user", f"{task}\n\n{statement}"),)


def _thought(family: Family, thinking: Thinking) -> str:
    """What the reply of a model that can think is begun with."""
    if family.thinking is None:
        return ""
    return family.thinking.open if family.thinks(thinking) else family.thinking.off or ""


def nudge(error: ErrorKind) -> str:
    """One sentence in the model's own voice that leads to a repair of that kind of error."""
    return hint(error, _PLAIN)
