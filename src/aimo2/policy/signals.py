"""What is known about a rollout when its vote is weighed. Knows no models, clocks or algebra.

`signals_of` reads a live rollout's trace and a recorded one alike, so that the same rules decide in
both. Answers are compared as text here, numbers by value: this is a hint for weights, not a judge.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from aimo2.types import AnswerSource, Opening, RolloutStop, TokenStats, Trace

_BOXED = re.compile(r"\\boxed\s*\{([^{}]{1,64})\}")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,(?:\\!)?|\{,\}|\\,)\d{3})+(?![\d,])")
_SETTING = re.compile(r"\\?\$|\\[!,:; ]")
_IN_PARENTHESES = re.compile(r"\([^()]*\)")
_ONE_BRACED = re.compile(r"\{\s*(\\[A-Za-z]+|\d+|[A-Za-z])\s*\}")
_SIGN = re.compile(r"\\[A-Za-z]+|\d*\.\d+|\d+|[^\s\\]")


@dataclass(frozen=True, slots=True)
class Signals:
    """One rollout in figures."""

    rollout: int
    """Index within the question."""
    answer: str | None
    """Canonical; `None` where it has none and casts no vote."""
    source: AnswerSource = "boxed"
    num_tokens: int = 0
    """Sampled tokens from the root of its path, forked-off part included."""
    finished_at: float = 0.0
    """Seconds from the question's start."""
    num_code_runs: int = 0
    num_code_errors: int = 0
    num_repairs: int = 0
    """Failed cells that a good one follows at once."""
    code_agrees: bool | None = None
    """Whether the last good cell's output ends in the answer; `None` where none ran well."""
    stability: float | None = None
    """Part of the earlier answers on the path (boxes and outputs that are one short line) that are
    the final one, 0 to 1; `None` where there are none."""
    opening: Opening = "plain"
    stop_reason: RolloutStop = "answered"
    stats: TokenStats | None = None
    parent: int | None = None
    """Rollout that it was forked from."""
    path: tuple[tuple[int, int], ...] = ()
    """A number for each model call from the root on, the same for the same call, and its sampled
    tokens: two rollouts share the calls that their paths begin with. Empty where nothing forked."""
    score: float | None = None
    """Of a reward model; larger is better."""

    @property
    def votes(self) -> bool:
        """Whether it casts a vote: it has an answer, and was not cut for being unsure."""
        return self.answer is not None and self.stop_reason != "unsure"


def signals_of(trace: Trace) -> Signals:
    """Everything that a trace says about its own vote."""
    runs = [turn.run for turn in trace.turns if turn.run is not None]
    outputs = [last_line(run.output) for run in runs if run.error is None]
    earlier = list(_earlier_answers(trace))
    return Signals(
        rollout=trace.rollout,
        answer=trace.answer,
        source=trace.answer_source or "boxed",
        num_tokens=trace.num_tokens,
        finished_at=trace.started + trace.seconds,
        num_code_runs=len(runs),
        num_code_errors=sum(run.error is not None for run in runs),
        num_repairs=sum(
            bad.error is not None and good.error is None for bad, good in pairwise(runs)
        ),
        code_agrees=_is_answer(trace, outputs[-1]) if outputs and trace.answer else None,
        stability=(
            sum(_is_answer(trace, text) for text in earlier) / len(earlier)
            if earlier and trace.answer
            else None
        ),
        opening=trace.opening,
        stop_reason=trace.stop_reason,
        stats=trace.stats,
        parent=trace.parent,
        path=tuple((hash(turn), turn.num_tokens) for turn in trace.turns),
    )


def _earlier_answers(trace: Trace) -> Iterator[str]:
    """Short answers on the path before the last, in order: boxes, and outputs of one line."""
    found: list[str] = []
    for turn in trace.turns:
        found += _BOXED.findall(turn.text)
        if turn.run is not None and turn.run.error is None:
            line = last_line(turn.run.output)
            if line and line == turn.run.output.strip():
                found.append(line)
    yield from found[:-1]


def _is_answer(trace: Trace, text: str) -> bool:
    return any(
        same_text(text, answer) for answer in (trace.answer, trace.raw_answer) if answer is not None
    )


def last_line(output: str) -> str:
    """The last line that is not blank; empty where there is none."""
    return output.strip().rpartition("\n")[2].strip()


def same_text(a: str, b: str) -> bool:
    """Whether two short answers are the same text up to how it is set; knows no algebra.

    Spaces, dollar signs, a label such as `x =`, braces around a single sign, separators of
    thousands and zeros at a number's ends make no difference.
    """
    return _signs(a) == _signs(b) != []


def _signs(text: str) -> list[str]:
    """The numbers, commands and other characters that the text is made of."""
    bare = _THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), text)
    bare = _without_label(_SETTING.sub(" ", bare)).strip().rstrip(".")
    signs = [_number(sign) for sign in _SIGN.findall(_ONE_BRACED.sub(r" \1 ", bare))]
    return signs[1:] if signs[:1] == ["+"] else signs


def _without_label(text: str) -> str:
    """What stands behind the last equals sign, unless that ends one statement of several."""
    label, _, value = text.rpartition("=")
    several = re.search("[,;]", _IN_PARENTHESES.sub("", label))
    return text if several else value


def _number(sign: str) -> str:
    """A number without the zeros that say nothing; any other sign as it is."""
    if not sign[-1].isdecimal():
        return sign
    whole, _, part = sign.partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")
