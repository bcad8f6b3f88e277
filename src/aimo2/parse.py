"""Read a reply as it streams: code blocks, invented output, answers, loops.

Everything here is incremental: a character is looked at a bounded number of times, however the
stream is cut into chunks, and any cut gives the same events. Knows no models and runs no code.
"""

import ast
import json
import re
import textwrap
import warnings
from dataclasses import dataclass, replace

CODE_LANGUAGES = frozenset({"python", "py", "python3", "ipython", "tool_code", "sage", "sympy"})
OUTPUT_LANGUAGES = frozenset({"output", "stdout", "console", "result", "results", "tool_output"})

_MARKER = r"(?:[-*+>]|\d{1,3}[.)])[ \t]+"
_OPENING = re.compile(rf"^([ \t]*(?:{_MARKER})*)(`{{3,}}|~{{3,}})[ \t]*([^`\n]*)$")
_INLINE_OPENING = re.compile(r"(```)[ \t]*(python3?|py)[ \t\r]*$")
_WHOLE_BLOCK = re.compile(r"^([ \t]*)(`{3,})((?:python3?|py)[ \t]+([^`]+)\2)[ \t\r]*$")
_PYTHON_VERSION = re.compile(r"(?:python|py)[\d.]*[:,]?")
_ATTRIBUTES = re.compile(r"""(?:\w+=[\w."'-]+\s*)+""")
_CLOSING = re.compile(r"^[ \t>]*(`{3,}|~{3,})[ \t]*([^`~\n]*)$")
_CALL_OPENING, _CALL_CLOSING = "<tool_call>", "</tool_call>"
"""Some models put code between these instead of fences; others a JSON call."""
_STRING_TOKEN = re.compile(r'#|"""|\'\'\'|"|\'')

# A fence inside a triple-quoted string does not close the block, unless the string itself never
# ends: then the model forgot the quotes, and this many lines later the fence is taken at its word.
_MAX_STRING_LINES = 24


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced block that has ended.

    `code`: without fences, dedented; of a JSON tool call, the code in it. `fence`: what closes the
    block. `indent`: white space that stands before the opening fence,
    to be put before each line of the output. `start`, `end`: offsets into all text fed so far, of
    the opening line's first character and just behind the closing fence. `closed`: whether a
    closing fence stands in the text; `end` is then behind its line break, if it has one.
    """

    code: str
    language: str
    indent: str
    fence: str
    start: int
    end: int
    closed: bool

    @property
    def runnable(self) -> bool:
        """Whether this is Python: by its label, or, without one, by what it holds."""
        if self.language:
            return self.language in CODE_LANGUAGES
        return _looks_like_python(self.code)


@dataclass(frozen=True, slots=True)
class InventedOutput:
    """The model began to write an output block itself; `start` is where its fence line begins."""

    start: int
    indent: str


@dataclass(frozen=True, slots=True)
class BoxSeen:
    """A line outside Python and outside thinking that holds `\\boxed` has ended at `end`."""

    end: int


Event = CodeBlock | InventedOutput | BoxSeen


@dataclass(slots=True)
class _OpenBlock:
    indent: str
    fence: str
    language: str
    start: int
    lines: list[str]
    quote: str = ""
    early_end: tuple[int, int] | None = None
    """(number of code lines, offset) of a closing fence that stood inside a string."""


@dataclass(frozen=True, slots=True)
class _Opening:
    """What opens a block. `label`: as written. `code`: what stands behind it on the line."""

    lead: str
    fence: str
    label: str
    code: str = ""

    @property
    def indent(self) -> str:
        """White space for what stands before the fence, which may be list markers."""
        return " " * len(self.lead) if self.lead.strip() else self.lead

    @property
    def language(self) -> str:
        words = self.label.strip().strip("{}.").lower().split()
        word = words[0] if words else ""
        return "python" if _PYTHON_VERSION.fullmatch(word) else word


def _opening(line: str) -> _Opening | None:
    if line.lstrip().startswith(_CALL_OPENING):
        call = line.strip().removeprefix(_CALL_OPENING).strip()
        inside = call.removesuffix(_CALL_CLOSING).strip()
        is_call = not call or inside[:1] in ("{", "[") or _is_code_line(inside)
        return _Opening("", _CALL_CLOSING, "python", call) if is_call else None
    if "```" not in line and "~~~" not in line:
        return None
    if match := _OPENING.match(line):
        found = _Opening(match[1], match[2], match[3])
        behind = _behind_label(match[3])
        if not behind:
            return found
        is_code = found.language in CODE_LANGUAGES and _is_code_line(behind)
        return replace(found, code=behind) if is_code else found
    if (match := _WHOLE_BLOCK.match(line)) and _is_code_line(match[4].strip()):
        return _Opening(match[1], match[2], "python", _behind_label(match[3]))
    inline = _INLINE_OPENING.search(line) if line.count("`") == 3 else None
    return _Opening("", inline[1], inline[2]) if inline else None


def _behind_label(text: str) -> str:
    return text.strip().partition(text.split()[0])[2].strip() if text.strip() else ""


def _is_code_line(text: str) -> bool:
    """Whether this is Python, and not what may stand behind a label: words, `title=x`."""
    whole = f"{text} pass" if text.endswith(":") else text
    return not _ATTRIBUTES.fullmatch(text) and _looks_like_python(whole)


class FenceParser:
    """Turns a stream of text into events, in order.

    `thinking`: whether the text starts inside a thinking section. `marks`: what begins and what
    ends one. `ran`: whether the text is a reply whose code ran already, so that output blocks are
    blocks as others are, and fences inside strings, which ended a block then, are fences.
    """

    def __init__(
        self,
        *,
        thinking: bool = False,
        marks: tuple[str, str] = ("<think>", "</think>"),
        ran: bool = False,
    ) -> None:
        self._marks = marks
        self._ran = ran
        self._partial: list[str] = []
        self._line_start = 0
        self._block: _OpenBlock | None = None
        self._thinking = thinking
        self._last: CodeBlock | None = None

    @property
    def in_block(self) -> bool:
        """Whether the text so far ends inside a fenced block."""
        return self._block is not None

    @property
    def closing(self) -> str | None:
        """What closes the block that the last whole line stands in, its indentation included."""
        return None if self._block is None else self._block.indent + self._block.fence

    @property
    def offset(self) -> int:
        """Characters fed so far."""
        return self._line_start + sum(map(len, self._partial))

    def feed(self, text: str) -> list[Event]:
        """Take more text; returns the events that it completes."""
        events: list[Event] = []
        position = 0
        while (cut := text.find("\n", position)) >= 0:
            self._partial.append(text[position:cut])
            line = "".join(self._partial)
            self._partial.clear()
            events.extend(self._line(line, self._line_start + len(line) + 1))
            self._line_start += len(line) + 1
            position = cut + 1
        if position < len(text):
            self._partial.append(text[position:])
        return events

    def finish(self) -> list[Event]:
        """The stream has ended: a last line without a line break counts, an open block ends."""
        events: list[Event] = []
        if self._partial:
            line = "".join(self._partial)
            self._partial.clear()
            end = self._line_start + len(line)
            events.extend(self._line(line, end))
            self._line_start = end
        if self._block is not None:
            events.append(self._end_early(self._block, self._line_start))
        return events

    def _line(self, line: str, end: int) -> list[Event]:
        if self._block is not None:
            return self._line_in_block(self._block, line, end)
        return self._line_outside(line, end)

    def _line_outside(self, line: str, end: int) -> list[Event]:
        opening = _opening(line)
        if opening is not None:
            return self._open(opening, end)
        begins, ends = line.rfind(self._marks[0]), line.rfind(self._marks[1])
        if begins != ends:  # one of them at least is there
            self._thinking = begins > ends
        if line.strip():
            self._last = None
        return [BoxSeen(end)] if "boxed" in line and not self._thinking else []

    def _open(self, opening: _Opening, end: int) -> list[Event]:
        events: list[Event] = []
        language = opening.language
        if language in OUTPUT_LANGUAGES:
            events = self._output_begins(opening.indent)
            if not self._ran:
                return events
        self._last = None
        self._block = _OpenBlock(opening.indent, opening.fence, language, self._line_start, [])
        if opening.code:
            events += self._line_in_block(self._block, opening.code, end)
        return events

    def _output_begins(self, indent: str) -> list[Event]:
        """An unlabelled block right before an output block was code after all."""
        last, self._last = self._last, None
        if last is not None and not last.language:
            return [replace(last, language="python")]
        return [] if self._ran else [InventedOutput(self._line_start, indent)]

    def _line_in_block(self, block: _OpenBlock, line: str, end: int) -> list[Event]:
        if block.fence == _CALL_CLOSING:
            return self._line_in_call(block, line, end)
        closing = _CLOSING.match(line)
        if closing is not None and self._closes(block, closing):
            if not block.quote:
                return self._close(block, closing, end)
            if block.early_end is None:
                block.early_end = (len(block.lines), end)
        elif (last := _before_fence(line, block)) is not None:
            block.lines.append(last)
            return self._boxes(block, last, end) + self._emit(
                block, len(block.lines), end, closed=True
            )
        block.lines.append(line)
        if boxes := self._boxes(block, line, end):
            return boxes
        if block.language and block.language not in CODE_LANGUAGES:
            return []
        block.quote = "" if self._ran else _string_state(line, block.quote)
        if not block.quote:
            block.early_end = None
        elif block.early_end and len(block.lines) - block.early_end[0] > _MAX_STRING_LINES:
            return [self._end_early(block, end)]
        return []

    def _boxes(self, block: _OpenBlock, line: str, end: int) -> list[Event]:
        is_seen = block.language not in CODE_LANGUAGES and not self._thinking
        return [BoxSeen(end)] if is_seen and "boxed" in line else []

    def _line_in_call(self, block: _OpenBlock, line: str, end: int) -> list[Event]:
        before = line.rstrip().removesuffix(_CALL_CLOSING)
        closes = before != line.rstrip()
        if before.strip() or not closes:
            block.lines.append(before if closes else line)
        return self._emit(block, len(block.lines), end, closed=True) if closes else []

    @staticmethod
    def _closes(block: _OpenBlock, closing: re.Match[str]) -> bool:
        """The same character, as many of them; a label behind it only where output is begun."""
        label = closing[2].strip().lower()
        return (
            closing[1][0] == block.fence[0]
            and len(closing[1]) >= len(block.fence)
            and (not label or label in OUTPUT_LANGUAGES)
        )

    def _close(self, block: _OpenBlock, closing: re.Match[str], end: int) -> list[Event]:
        label = closing[2].strip().lower()
        if not label:
            return self._emit(block, len(block.lines), end, closed=True)
        # The model closed the block by beginning its output: the text ends before that line.
        events = self._emit(block, len(block.lines), self._line_start, closed=False)
        if self._ran:
            self._block = _OpenBlock(block.indent, closing[1], label, self._line_start, [])
        return events

    def _end_early(self, block: _OpenBlock, end: int) -> CodeBlock:
        num_lines, closed = len(block.lines), False
        if block.early_end is not None:
            (num_lines, end), closed = block.early_end, True
        (event,) = self._emit(block, num_lines, end, closed=closed)
        assert isinstance(event, CodeBlock)
        return event

    def _emit(self, block: _OpenBlock, num_lines: int, end: int, *, closed: bool) -> list[Event]:
        self._block = None
        code = _dedent(block.lines[:num_lines], block.indent)
        if block.fence == _CALL_CLOSING:
            code = _called_code(code)
        event = CodeBlock(code, block.language, block.indent, block.fence, block.start, end, closed)
        self._last = event if closed else None
        return [event]


def _before_fence(line: str, block: _OpenBlock) -> str | None:
    """What stands before a closing fence that was put at the end of a line of the block's text.

    `None` where there is no such fence, or where it stands inside a triple-quoted string.
    """
    text = line.rstrip()
    before = text.removesuffix(block.fence)
    if before == text or not before.strip() or block.fence[0] in before:
        return None
    return None if _string_state(before, block.quote) else before


def _called_code(text: str) -> str:
    """The code of a JSON tool call, `{"name": ..., "arguments": {"code": ...}}`, or the text.

    The arguments may be JSON in a string, and the call the first one of a list.
    """
    call = _decoded(text)
    if isinstance(call, list) and call:
        call = call[0]
    arguments = call.get("arguments") if isinstance(call, dict) else None
    if isinstance(arguments, str):
        inner = _decoded(arguments)
        arguments = inner if isinstance(inner, dict) and "code" in inner else arguments
    code = arguments.get("code") if isinstance(arguments, dict) else arguments
    return code if isinstance(code, str) else text


def _decoded(text: str) -> object:
    """What the JSON text says where it is an object or a list; else `None`."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _string_state(line: str, quote: str) -> str:
    """The triple quote that is open after this line; empty if none. `quote`: before it."""
    position = 0
    while True:
        if quote:
            position = _find_unescaped(line, quote, position)
            if position < 0:
                return quote
            position, quote = position + 3, ""
        token = _STRING_TOKEN.search(line, position)
        if token is None or token[0] == "#":
            return ""
        if len(token[0]) == 3:
            quote, position = token[0], token.end()
            continue
        position = _find_unescaped(line, token[0], token.end()) + 1
        if position == 0:
            return ""


def _find_unescaped(line: str, quote: str, position: int) -> int:
    while (position := line.find(quote, position)) >= 0:
        first = position
        while first > 0 and line[first - 1] == "\\":
            first -= 1
        if (position - first) % 2 == 0:
            return position
        position += 1
    return -1


def _dedent(lines: list[str], indent: str) -> str:
    """Take away the fence's indentation, then what all lines still have in common."""
    stripped = [line.removeprefix(indent) if indent else line for line in lines]
    return textwrap.dedent("\n".join(stripped)).strip("\n")


def _looks_like_python(code: str) -> bool:
    """Whether an unlabelled block is a program: it compiles and does more than name a value."""
    if not code.strip() or len(code) > 20_000:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as "\d", which Python still takes
            body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.For, ast.While, ast.Assign)
    return any(
        isinstance(node, kinds) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        for node in body
    )


def open_fence(text: str) -> str | None:
    """What closes the fenced block that a reply ends in, its indentation included; `None` if none.

    Output blocks count, and fences inside strings are taken for fences.
    """
    parser = FenceParser(ran=True)
    parser.feed(text + "\n")
    return parser.closing


class LoopDetector:
    """Notices that the text repeats itself.

    Looped means: the end of the text is one unit, at most `longest_unit` characters long, at
    least `repeats` times in a row and over at least `min_chars` characters. It is looked at every
    128 characters of the text, wherever the chunks end.
    """

    _STRIDE = 128
    _PROBE = 24
    _CANDIDATES = 8

    def __init__(self, *, repeats: int = 6, min_chars: int = 480, longest_unit: int = 600) -> None:
        self._repeats = repeats
        self._min_chars = min_chars
        self._window = max(min_chars, repeats * longest_unit) + self._PROBE
        self._tail = ""
        self._fed = 0
        self.looped = False

    def feed(self, text: str) -> bool:
        """Take more text; returns whether it loops. Stays true once true."""
        position = 0
        while not self.looped and position < len(text):
            step = min(self._STRIDE - self._fed % self._STRIDE, len(text) - position)
            self._tail = (self._tail + text[position : position + step])[-self._window :]
            self._fed += step
            position += step
            if self._fed % self._STRIDE == 0:
                self.looped = self._is_periodic()
        return self.looped

    def _is_periodic(self) -> bool:
        tail = self._tail
        if len(tail) < self._min_chars:
            return False
        probe = tail[-self._PROBE :]
        if not probe.strip():
            return False
        before = len(tail) - self._PROBE
        for _ in range(self._CANDIDATES):
            before = tail.rfind(probe, 0, before + self._PROBE - 1)
            period = len(tail) - self._PROBE - before
            span = max(self._repeats * period, self._min_chars)
            if before < 0 or span > len(tail):
                return False
            if tail[-span:-period] == tail[len(tail) - span + period :]:
                return True
        return False


def cut_middle(text: str, limit: int) -> tuple[str, bool]:
    """At most about `limit` characters of `text`, its middle replaced by a note.

    Returns the text and whether something was cut. The note's own length is not counted.
    """
    if len(text) <= limit:
        return text, False
    head = limit - limit // 3
    tail = limit - head
    dropped = len(text) - head - tail
    return f"{text[:head]}\n[... {dropped} characters cut ...]\n{text[-tail:]}", True


def indent_lines(text: str, indent: str) -> str:
    """`text` with `indent` before each line, blank ones included."""
    return "\n".join(indent + line for line in text.split("\n"))
