r"""Find the answer in a reply: the last `\boxed{}`, else a closing sentence. Text to text only.

Time is linear in the reply's length, whatever it holds. Knows nothing of what an answer means.
"""

import re
from dataclasses import dataclass

from aimo2.parse import OUTPUT_LANGUAGES, CodeBlock, FenceParser
from aimo2.types import AnswerSource

_BOX_TOKEN = re.compile(r"\\(boxed|fbox)(?![A-Za-z])|\\.|[{}]|\n[ \t\r]*\n", re.DOTALL)
_BRACE_AFTER = re.compile(r"[ \t]*\n?[ \t]*\{")
_UNBRACED = re.compile(r"[ \t]*([^\s${}\\]+)")
_SPACE = r"(?:[ \t$*~]|\\[()\[\],;:! ]|\\q?quad\b)*"
_NAME = r"(?:\\?[A-Za-z]+(?:_(?:\w|\{\w+\}))?)"
_AND = r"(?:,?(?:\\text\{)?[ \t]*\b(?:and|or)\b[ \t]*\}?|[,;、，和或])"
_BETWEEN_BOXES = re.compile(
    rf"\}}?{_SPACE}{_AND}{_SPACE}(?:{_NAME}[ \t]*=)?{_SPACE}\\(?:boxed|fbox)[ \t]*\{{?[ \t]*"
)
_MAX_BETWEEN = 60
_LONGEST_PLACEHOLDER = 60
_PLACEHOLDER = re.compile(
    r"""(?:\\?[.,?_ …-]|\\[lcd]?dots|\\(?:square|quad|qquad|Box|boxed|fbox)\b|[{}]
        |\\(?:text|textbf|mathrm|mbox)\b
        |(?i:your|the|final|answer|result|solution|value|number|here|integer|goes|expression)\b
    )*""",
    re.VERBOSE,
)

_TAIL_CHARS = 600
_MAX_STATED = 80
_ANCHOR = re.compile(
    r"""(?:\b(?:final\s+|correct\s+)?answer\b[*_]{0,2}
            (?:\s+(?:to|of|for)\s+(?:the|this|our)\s+(?:problem|question))?
            \s*(?:[*_]{0,2}[:=：][*_]{0,2}|\bis[:：]?(?=[\s*$\\]))
        |答案\s*(?:[*_]{0,2}[:：][*_]{0,2}|[是为為等]于?[:：]?)
    )\s*(?:(?:therefore|thus|simply|equal\s+to)\s+)?""",
    re.VERBOSE | re.IGNORECASE,
)
_DOUBT = re.compile(r"\b(?:if|whether|suppose|assume|unless|guess|not)\b[^.!?\n]*$", re.IGNORECASE)
_DELIMITED = re.compile(
    r"""[*_]{0,2}(?:\$\$(?P<display>[^$]+)\$\$|\$(?P<dollar>[^$\n]+)\$
        |\\\((?P<paren>.+?)\\\)|\\\[(?P<bracket>.+?)\\\])
        [*_]{0,2}(?P<rest>[^\n]*)""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN = re.compile(
    r"""(?P<stars>[*_]{0,2})(?P<value>(?:[A-Za-z]\s*=\s*)?[-+−–$€£]{0,2}(?:\d|\\[dt]?frac|\\sqrt)[^\n]*
        |\(?[A-E]\)?(?=[\s.*]|$)
        )""",
    re.VERBOSE,
)
_FACTORIAL = r"(?<=[\d)!])!+(?:[.,;:?]|\s+[a-z]|\s*[-+*/×·=≈]\s*[\d(\\])"
"""An exclamation mark with which the sentence does not end; where it does, it is enthusiasm."""
_SENTENCE_END = re.compile(rf"(?!{_FACTORIAL})[.!?。！？]+(?=\s|$)|\*\*|\n|[。！？]")
_MAX_WORDS = 2
_TRAILING_WORDS = re.compile(rf"(?:\s*[A-Za-z²³^/%°]+){{0,{_MAX_WORDS}}}\s*")
_CONJUNCTION = re.compile(
    r"\b(?:or|and|but|then|if|because|since|when|while|so|however|wait|maybe|plus|minus|more|less)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """An answer as the model wrote it, and where it stood."""

    raw: str
    source: AnswerSource


def extract(text: str, *, several: bool = False) -> Extracted | None:
    r"""The reply's answer: the last `\boxed{}`, else the closing sentence that states one.

    `several`: whether an answer may have several values; boxes that one line lists are then one.
    """
    boxed = extract_boxed(text, several=several)
    if boxed is not None:
        return Extracted(boxed, "boxed")
    stated = extract_stated(text)
    return None if stated is None else Extracted(stated, "stated")


def extract_boxed(text: str, *, several: bool = False) -> str | None:
    r"""What the last complete `\boxed{...}` or `\fbox{...}` outside code and its output holds.

    Braces are balanced; `\{` and `\}` do not count. A box never spans an empty line, as in TeX.
    `\boxed 7` has no braces: the run of characters up to a space is taken. Empty boxes and
    placeholders (`...`, `?`, `answer`) are no answers. `several` as in `extract`.
    """
    if "\\boxed" not in text and "\\fbox" not in text:
        return None
    return _last_box(_without_blocks(text, code_only=True), several)


def extract_stated(text: str) -> str | None:
    """The value in the last sentence of the form "the answer is ..." near the reply's end.

    Conservative: a hedge, a condition, a question or more than two words behind the value give
    `None`, and a bare "= 73" is not a statement.
    """
    if not _ANCHOR.search(text):
        return None
    return _stated(_without_blocks(text, code_only=False))


def _without_blocks(text: str, *, code_only: bool) -> str:
    """The text without its fenced blocks; `code_only`: keep those of LaTeX, Markdown or plain text.

    What hides is what ran or was put out, and what would run. A fence without a label that is
    never closed is taken for a stray one and hides nothing.
    """
    parser = FenceParser(ran=True)
    events = [*parser.feed(text), *parser.finish()]
    blocks = {event.start: event for event in events if isinstance(event, CodeBlock)}
    kept: list[str] = []
    position = 0
    for block in blocks.values():
        stray = not block.closed and not block.language
        is_code = block.runnable or block.language in OUTPUT_LANGUAGES
        if not stray and (is_code or not code_only):
            mark = "<tool_call>" if block.fence == "</tool_call>" else block.fence
            kept += [text[position : text.index(mark, block.start)], "\n\n"]
            position = block.end
    return "".join([*kept, text[position:]])


def _last_box(text: str, several: bool) -> str | None:
    boxes = _boxes(text)
    while boxes:
        start, end = boxes.pop()
        content = _usable(text[start:end])
        if content is not None:
            listed = _listed_before(start, boxes, text) if several else []
            return ", ".join(dict.fromkeys([*listed, content]))
    return None


def _listed_before(start: int, boxes: list[tuple[int, int]], text: str) -> list[str]:
    r"""What the boxes hold that stand in one list with the one from `start`.

    `$x = \boxed{3}$ and $x = \boxed{5}$`; `\boxed{2} = \boxed{4/2}` is no list.
    """
    listed: list[str] = []
    for before, end in reversed(boxes):
        content = _usable(text[before:end])
        gap = text[end:start] if end < start <= end + _MAX_BETWEEN else ""
        if content is None or not _BETWEEN_BOXES.fullmatch(gap):
            break
        listed.append(content)
        start = before
    return listed[::-1]


def _boxes(text: str) -> list[tuple[int, int]]:
    """Spans of all complete boxes' contents, in the order in which they end."""
    found: list[tuple[int, int]] = []
    open_braces: list[int | None] = []  # where a box's content starts; None for any other brace
    position = 0
    while match := _BOX_TOKEN.search(text, position):
        position = match.end()
        token = match[0]
        if match[1]:
            if brace := _BRACE_AFTER.match(text, position):
                position = brace.end()
                open_braces.append(position)
            elif unbraced := _UNBRACED.match(text, position):
                end = position + len(unbraced[0].rstrip(".,;:)"))
                found.append((min(unbraced.start(1), end), end))
        elif token == "{":
            open_braces.append(None)
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start is not None:
                found.append((start, match.start()))
        elif token[0] == "\n":
            open_braces.clear()
    return found


def _usable(content: str) -> str | None:
    content = content.strip()
    short = len(content) <= _LONGEST_PLACEHOLDER
    return None if short and _PLACEHOLDER.fullmatch(content) else content


def _stated(prose: str) -> str | None:
    tail = prose.rstrip()[-_TAIL_CHARS:]
    anchors = list(_ANCHOR.finditer(tail))
    if not anchors or _DOUBT.search(tail, 0, anchors[-1].start()):
        return None
    rest = tail[anchors[-1].end() :]
    delimited = _DELIMITED.match(rest)
    if delimited:
        groups = (delimited[name] for name in ("display", "dollar", "paren", "bracket"))
        value = next(group for group in groups if group is not None)
        return _whole(value, delimited["rest"])
    plain = _PLAIN.match(rest)
    return _plain_value(plain["value"]) if plain else None


def _whole(value: str, after: str) -> str | None:
    """The delimited value; `None` where the sentence goes on with more than a unit."""
    words = _SENTENCE_END.split(after, maxsplit=1)[0]
    if len(value) > _MAX_STATED or "?" in after or not _TRAILING_WORDS.fullmatch(words):
        return None
    return None if _CONJUNCTION.search(words) else _usable(value)


def _plain_value(text: str) -> str | None:
    end = _SENTENCE_END.search(text)
    value = (text[: end.start()] if end else text).strip().rstrip(",;:")
    if len(value) > _MAX_STATED or (end and "?" in end[0]):
        return None
    clause = "," in value.rpartition(" ")[0]
    words = re.search(r"(?:\s+[A-Za-z]{2,})*$", value)
    wordy = words is not None and len(words[0].split()) > _MAX_WORDS
    return None if clause or wordy or _CONJUNCTION.search(value) else _usable(value)
