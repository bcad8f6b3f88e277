"""Read a reply as it streams: code blocks, invented output, answers, loops.

Everything here is incremental: a character is looked at a bounded number of times, however the
stream is cut into chunks, and any cut gives the same events. Knows no models and runs no code.
"""

import ast
import json
import re
import textwrap
from dataclasses import dataclass, replace

CODE_LANGUAGES = frozenset({"python", "py", "python3", "ipython", "tool_code", "sage", "sympy"})
OUTPUT_LANGUAGES = frozenset({"output", "stdout", "console", "result", "results", "tool_output"})

_MARKER = r"(?:[-*+>]|\d{1,3}[.)])[ \t]+"
_OPENING = re.compile(rf"^([ \t]*(?:{_MARKER})*)(`{{3,}}|~{{3,}})[ \t]*([^`\n]*)$")
_INLINE_OPENING = re.compile(r"(```)[ \t]*(python3?|py)[ \t]*$")
_CLOSING = re.compile(r"^[ \t>]*(`{3,}|~{3,})[ \t]*([^`~\n]*)$")
_CALL_OPENING, _CALL_CLOSING = "<tool_call>", "</tool_call>"
"""Some models put code between these instead of fences, alone on a line; others a JSON call."""
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


class FenceParser:
    """Turns a stream of text into events, in order.

    `thinking`: whether the text starts inside a thinking section. `marks`: what begins and what
    ends one.
    """

    def __init__(
        self, *, thinking: bool = False, marks: tuple[str, str] = ("<think>", "</think>")
    ) -> None:
        self._marks = marks
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
        if line.strip() == _CALL_OPENING:
            return self._open("", _CALL_CLOSING, "python")
        if "```" in line or "~~~" in line:
            opening = _OPENING.match(line)
            if opening is not None:
                return self._open(opening[1], opening[2], opening[3])
            inline = _INLINE_OPENING.search(line) if line.count("`") == 3 else None
            if inline is not None:
                return self._open("", inline[1], inline[2])
        begins, ends = line.rfind(self._marks[0]), line.rfind(self._marks[1])
        if begins != ends:  # one of them at least is there
            self._thinking = begins > ends
        if line.strip():
            self._last = None
        return [BoxSeen(end)] if "boxed" in line and not self._thinking else []

    def _open(self, lead: str, fence: str, label: str) -> list[Event]:
        """`lead`: what stands before the fence, white space and list markers."""
        words = label.strip().strip("{}.").lower().split()
        language = words[0] if words else ""
        indent = " " * len(lead) if lead.strip() else lead
        if language in OUTPUT_LANGUAGES:
            return self._invented(indent)
        self._last = None
        self._block = _OpenBlock(indent, fence, language, self._line_start, [])
        return []

    def _invented(self, indent: str) -> list[Event]:
        """An unlabelled block right before an output block was code after all."""
        last, self._last = self._last, None
        if last is not None and not last.language:
            return [replace(last, language="python")]
        return [InventedOutput(self._line_start, indent)]

    def _line_in_block(self, block: _OpenBlock, line: str, end: int) -> list[Event]:
        if block.fence == _CALL_CLOSING:
            return self._line_in_call(block, line, end)
        closing = _CLOSING.match(line)
        if closing is not None and self._closes(block, closing):
            if not block.quote:
                return self._close(block, line, closing[2], end)
            if block.early_end is None:
                block.early_end = (len(block.lines), end)
        block.lines.append(line)
        if block.language not in CODE_LANGUAGES and "boxed" in line and not self._thinking:
            return [BoxSeen(end)]
        if block.language and block.language not in CODE_LANGUAGES:
            return []
        block.quote = _string_state(line, block.quote)
        if not block.quote:
            block.early_end = None
        elif block.early_end and len(block.lines) - block.early_end[0] > _MAX_STRING_LINES:
            return [self._end_early(block, end)]
        return []

    def _line_in_call(self, block: _OpenBlock, line: str, end: int) -> list[Event]:
        if line.strip() == _CALL_CLOSING:
            return self._emit(block, len(block.lines), end, closed=True)
        block.lines.append(line)
        return []

    @staticmethod
    def _closes(block: _OpenBlock, closing: re.Match[str]) -> bool:
        """The same character, as many of them; a label behind it only where output is begun."""
        label = closing[2].strip().lower()
        return (
            closing[1][0] == block.fence[0]
            and len(closing[1]) >= len(block.fence)
            and (not label or label in OUTPUT_LANGUAGES)
        )

    def _close(self, block: _OpenBlock, line: str, label: str, end: int) -> list[Event]:
        if label.strip():
            # The model closed the block by beginning its output: the text ends before that line.
            return self._emit(block, len(block.lines), self._line_start, closed=False)
        return self._emit(block, len(block.lines), end, closed=True)

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


def _called_code(text: str) -> str:
    """The code of a JSON tool call, `{"name": ..., "arguments": {"code": ...}}`, or the text."""
    if not text.startswith("{"):
        return text
    try:
        call = json.loads(text)
        arguments = call["arguments"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return text
    code = arguments.get("code") if isinstance(arguments, dict) else arguments
    return code if isinstance(code, str) else text


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
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.For, ast.While, ast.Assign)
    return any(
        isinstance(node, kinds) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        for node in body
    )


def open_fence(text: str) -> str | None:
    """What closes the fenced block that `text` ends in, its indentation included; `None` if none.

    Output blocks count, unlike in `FenceParser`, which is not fed what was injected. Fences inside
    strings are taken for fences here.
    """
    indent, fence = "", ""
    for line in text.split("\n"):
        if fence == _CALL_CLOSING:
            fence = "" if line.strip() == _CALL_CLOSING else fence
        elif fence:
            closing = _CLOSING.match(line)
            if closing is None or closing[1][0] != fence[0] or len(closing[1]) < len(fence):
                continue
            if not closing[2].strip():
                fence = ""
            elif closing[2].strip().lower() in OUTPUT_LANGUAGES:
                fence = closing[1]
        elif line.strip() == _CALL_OPENING:
            indent, fence = "", _CALL_CLOSING
        elif opening := _OPENING.match(line):
            lead, fence = opening[1], opening[2]
            indent = " " * len(lead) if lead.strip() else lead
        elif line.count("`") == 3 and (inline := _INLINE_OPENING.search(line)):
            indent, fence = "", inline[1]
    return indent + fence if fence else None


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
