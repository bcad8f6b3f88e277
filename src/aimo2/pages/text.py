"""Text of a model for a page or a terminal: nothing in it acts, and nothing in it is hidden.

Knows no traces. Everything is linear in the text, whatever it holds.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers.python import PythonLexer

from aimo2.pages.maths import Unreadable, mathml

LONGEST_TEXT = 200_000
"""Characters of one text that a page shows; the middle of a longer one is left out, and said so."""
_LONGEST_CODE = 20_000
"""Characters that are highlighted: a lexer of regular expressions may be slow on hostile code."""
_LONGEST_FORMULA = 2_000
_LONGEST_ANSWER = 120
_LONG_FORMULA = 24
"""Characters from which a formula between words may be wider than a phone and gets a scroll bar."""

_INVISIBLE = (
    *range(0x200B, 0x2010),  # zero width, and left-to-right and right-to-left marks
    *range(0x2028, 0x202F),  # line and paragraph separators, embeddings, overrides
    *range(0x2060, 0x2070),  # word joiner, isolates
    *(0x00AD, 0x061C, 0x180E, 0xFEFF),
)
_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "␡",
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000), *range(0xE0000, 0xE0080)), "�"),
    **{code: f"⟨U+{code:04X}⟩" for code in _INVISIBLE},
}

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*\n?\Z")
_OPENER = re.compile(r"\\\(|\\\[|\$\$|\$")
_CLOSERS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$", "$": "$"}
_BOLD = re.compile(r"\*\*([^*\n]{1,300})\*\*")


def visible(text: str) -> str:
    """The text with its control, direction and zero-width characters as pictures or names.

    So that a terminal obeys none of it, and a page shows what stands there in its true order.
    """
    return text.replace("\r\n", "\n").translate(_PICTURES)


def one_line(text: str, length: int) -> str:
    """The text's words on one line, at most `length` characters."""
    line = visible(" ".join(text[: 8 * length].split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def escaped(text: str) -> str:
    """The text for HTML, as content or in a quoted attribute."""
    return html.escape(visible(text), quote=True)


def shortened(text: str, limit: int = LONGEST_TEXT) -> str:
    """The text, without its middle where it is longer than `limit`."""
    if len(text) <= limit:
        return text
    half = limit // 2
    left_out = f"\n[… {len(text) - 2 * half} characters left out of this page …]\n"
    return text[:half] + left_out + text[-half:]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a reply: prose, or the inside of a fenced block with its `language`."""

    kind: Literal["prose", "code"]
    text: str
    language: str = ""


class Splitter:
    """Cuts a reply into prose and code, part after part: a fence may open in one, close in another.

    The fences themselves are dropped.
    """

    def __init__(self) -> None:
        self._fence: str | None = None
        self._language = ""

    def feed(self, text: str) -> Iterator[Segment]:
        """The segments of the next part."""
        held: list[str] = []
        for line in text.splitlines(keepends=True):
            found = _FENCE.match(line)
            if found is None or not self._is_boundary(found):
                held.append(line)
                continue
            yield from self._segment(held)
            held.clear()
            self._fence, self._language = (
                (found[1], found[2].lower()) if self._fence is None else (None, "")
            )
        yield from self._segment(held)

    def _is_boundary(self, found: re.Match[str]) -> bool:
        if self._fence is None:
            return True
        fence = found[1]
        return fence[0] == self._fence[0] and len(fence) >= len(self._fence) and not found[2]

    def _segment(self, lines: list[str]) -> Iterator[Segment]:
        text = "".join(lines)
        if text.strip():
            yield Segment("prose" if self._fence is None else "code", text, self._language)


def code_html(code: str) -> str:
    """Python, highlighted with classes (`k-...`), or plain where it is very long."""
    code = visible(code.strip("\n"))
    if len(code) > _LONGEST_CODE:
        return html.escape(code)
    formatter = HtmlFormatter(nowrap=True, classprefix="k-")
    return str(highlight(code, PythonLexer(stripnl=False, ensurenl=False), formatter))


def prose_html(text: str) -> str:
    """Prose with its formulas as MathML; one that cannot be read stays as its source."""
    parts: list[str] = []
    after_display = False
    for piece, is_formula, display in _formulas(text):
        if is_formula:
            parts.append(_formula_html(piece, display))
        else:
            # A displayed formula stands on lines of its own anyway.
            parts.append(_words_html(piece.lstrip("\n") if after_display else piece))
        if display and len(parts) > 1:
            parts[-2] = parts[-2].rstrip("\n")
        after_display = display
    return "".join(parts)


def answer_html(answer: str, length: int = 40) -> str:
    """An answer or a gold for a table: as a formula where it is one, otherwise its own words."""
    if "\\" in answer and len(answer) <= _LONGEST_ANSWER:
        try:
            return mathml(visible(answer))
        except Unreadable:
            pass
    return escaped(one_line(answer, length))


def breakable(text: str, length: int = 80) -> str:
    """A name such as a path on one line, which a browser may break behind its slashes."""
    return escaped(one_line(text, length)).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _words_html(text: str) -> str:
    return _BOLD.sub(r"<strong>\1</strong>", escaped(text))


def _formula_html(source: str, display: bool) -> str:
    inner = source[2:-2] if source[:2] in _CLOSERS else source[1:-1]
    try:
        formula = mathml(visible(inner), display=display)
    except Unreadable:
        return f'<code class="tex">{escaped(source)}</code>'
    is_long = len(inner) > _LONG_FORMULA and not display
    return f'<span class="long">{formula}</span>' if is_long else formula


def _formulas(text: str) -> Iterator[tuple[str, bool, bool]]:
    """`text` in pieces: (piece, whether it is a formula with its delimiters, displayed)."""
    done = 0
    position = 0
    while (opener := _OPENER.search(text, position)) is not None:
        position = opener.end()
        end = _closed(text, opener)
        if end is None:
            continue
        if opener.start() > done:
            yield text[done : opener.start()], False, False
        yield text[opener.start() : end], True, opener[0] in ("\\[", "$$")
        done = position = end
    if done < len(text):
        yield text[done:], False, False


def _closed(text: str, opener: re.Match[str]) -> int | None:
    """Where the formula that begins here ends; `None` where it is none."""
    start, closer = opener.end(), _CLOSERS[opener[0]]
    end = text.find(closer, start, start + _LONGEST_FORMULA)
    if end <= start:
        return None
    inside = text[start:end]
    if closer == "$":
        # A price is no formula: as in pandoc, the dollars must hug what they enclose.
        after = text[end + 1 : end + 2]
        if inside[0].isspace() or inside[-1].isspace() or "\n" in inside or after.isdigit():
            return None
    return end + len(closer)
