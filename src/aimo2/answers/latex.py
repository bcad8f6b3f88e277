r"""Turn an answer as written into a short list of tokens. Knows notation, not values.

Unicode, Markdown, TeX spacing, fonts and thousands separators are brought to one spelling, and
the arguments of `\frac`, `\sqrt`, `^` and `_` get explicit braces. Every text is cut off by length
and by depth first, so that all later work is bounded.
"""

import re
import unicodedata
from collections.abc import Sequence

MAX_CHARS = 2_000
MAX_DEPTH = 40

OPENERS = frozenset({"(", "[", "{", "\\{", "\\lfloor", "\\lceil"})
CLOSERS = frozenset({")", "]", "}", "\\}", "\\rfloor", "\\rceil"})
_LISTS, _LIST_ENDS = ("(", "[", "\\{"), (")", "]", "\\}")


class Unreadable(ValueError):  # noqa: N818 - a state of the text, not a fault of the caller
    """The text is no answer that can be read here; `str(error)` says why."""


_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("−–—‒‐‑﹣－", "-"),
        **dict.fromkeys("×✕·⋅∙∗⨯", "*"),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("≤≦⩽", "\\leq "),
        **dict.fromkeys("≥≧⩾", "\\geq "),
        **dict.fromkeys("∪⋃", "\\cup "),
        **dict.fromkeys("∅⌀", "\\emptyset "),
        **dict.fromkeys("°˚", "^\\circ "),
        **dict.fromkeys("€£¥₹₩", ""),
        **dict.fromkeys("‘’′´", "'"),
        "√": "\\sqrt ",
        "∛": "\\sqrt[3]",
        "π": "\\pi ",
        "∞": "\\infty ",
        "∈": "\\in ",
        "≈": "\\approx ",
        "≡": "\\equiv ",
        "±": "\\pm ",
        "٬": ",",
        "，": ",",
        "、": ", ",
        "；": ";",
        "٫": ".",
        "。": ".",
        "⌊": "\\lfloor ",
        "⌋": "\\rfloor ",
        "⌈": "\\lceil ",
        "⌉": "\\rceil ",
        "⟨": "(",
        "⟩": ")",
    }
)

_RENAMED = {
    "\\times": "*",
    "\\cdot": "*",
    "\\ast": "*",
    "\\div": "/",
    "\\lbrace": "\\{",
    "\\rbrace": "\\}",
    "\\lbrack": "[",
    "\\rbrack": "]",
    "\\langle": "(",
    "\\rangle": ")",
    "\\lparen": "(",
    "\\rparen": ")",
    "\\vert": "|",
    "\\lvert": "|",
    "\\rvert": "|",
    "\\|": "\\Vert",
    "\\le": "\\leq",
    "\\ge": "\\geq",
    "\\leqslant": "\\leq",
    "\\geqslant": "\\geq",
    "\\lt": "<",
    "\\gt": ">",
    "\\infin": "\\infty",
    "\\varnothing": "\\emptyset",
    "\\degree": "\\circ",
    "\\mod": "\\bmod",
    "\\dbinom": "\\binom",
    "\\tbinom": "\\binom",
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
    "\\cfrac": "\\frac",
    "\\colon": ":",
    "\\%": "%",
    "\\#": "#",
    "\\minus": "-",
    "**": "^",
    "\\bigcup": "\\cup",
    "\\lor": ",",
    "\\vee": ",",
    "\\land": ",",
    "\\wedge": ",",
    "\\hdots": "\\dots",
    "\\ldots": "\\dots",
    "\\cdots": "\\dots",
    "\\rightarrow": "\\to",
}
_SIZES = (
    r"\left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \middle \large \Large \small \huge"
)
_STYLES = (
    r"\displaystyle \textstyle \scriptstyle \limits \nolimits \boxed \fbox \underline \ensuremath"
)
_FONTS = r"\mathbf \mathrm \boldsymbol \bm \mathit \mathsf \mathtt \mathcal \bold \bf \rm \it"
_TEXT = r"\text \textbf \textit \textrm \texttt \textsf \textnormal \emph \mbox \hbox \operatorname"
_EMPTY = r"\mathop \phantom \mathstrut \strut \null \relax"
_DROPPED = frozenset(f"{_SIZES} {_STYLES} {_FONTS} {_TEXT} {_EMPTY}".split())
_FUNCTION_NAMES = (
    "sqrt pi sin cos tan cot sec csc arcsin arccos arctan log ln exp gcd lcm max min infty"
)
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
WORDS = {
    "mod": "\\bmod",
    "modulo": "\\bmod",
    "infinity": "\\infty",
    "inf": "\\infty",
    "and": ",",
    "or": ",",
    "asin": "\\arcsin",
    "acos": "\\arccos",
    "atan": "\\arctan",
    **{name: f"\\{name}" for name in _FUNCTIONS},
}

_STRONG_COMMA = "\ue000"
_TEXT_COMMANDS = r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|mbox|hbox|emph|textup)"
_MATH_FONTS = r"\\(?:math(?:bf|rm|it|sf|tt|normal)|operatorname|bm|boldsymbol|bold)"
_NO_LETTERS = r"(?:[^\w{}]|[\d_])*"
_IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Chinese, Japanese and Korean, of which none is a variable."""
_UNIT = r"(?:[A-Za-z]{1,4}/)?(?:[mgshlLJNWVAKCFT]|[A-Za-z]{2,4})"
"""Letters that are a unit where they stand upright behind a value; e and i are not among them."""
_POWER = r"(?:\s*\^\s*(?:-?\d|\{\s*-?\d\s*\}))?"
_BEHIND_VALUE = r"(?:(?<=[\d)}])|(?<=\}/)|(?<=\\circ))\s*"
_UNIT_ENDS = rf"(?={_POWER}\s*(?:$|[}},;/=]))"
_CLEANING: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+", r"^{\g<0>}"),
        (r"[₀₁₂₃₄₅₆₇₈₉]+", r"_{\g<0>}"),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"\\?\$", " "),
        (r"\{,\}|,\s*(?:\\!\s*)+", _STRONG_COMMA),
        (r"(?<!\\)\\(?:[,;:!> ]|q?quad\b|thinspace\b|enspace\b|thickspace\b)|~", " "),
        (r"\\(?:hspace|vspace|textcolor|color|label|tag)\*?\s*\{[^{}]*\}", " "),
        (r"\\(?:left|right)\s*\.", " "),
        (r"_\s*\{\s*(?:\\text\s*\{)?\s*base[ ~]*\}?\s*(?=\d+\s*\})", "_{"),
        (rf"{_MATH_FONTS}\s*\{{\s*(\([A-Z]\)[.:]?)\s*\}}", r"\\text{\1}"),
        (
            rf"{_BEHIND_VALUE}(?:\\mathrm|{_TEXT_COMMANDS})"
            rf"\s*\{{\s*({_UNIT}){_POWER}\s*\}}{_UNIT_ENDS}",
            r"\\text{\1}",
        ),
        (
            rf"(?:{_TEXT_COMMANDS}|{_MATH_FONTS})\s*\{{({_NO_LETTERS}|[^{{}}]*\d[^{{}}]*)\}}",
            r" \1 ",
        ),
        (rf"{_MATH_FONTS}\s*\{{\s*([A-Za-z][A-Za-z .]*[A-Za-z.])\s*\}}", r"\\text{\1}"),
        (rf"{_TEXT_COMMANDS}\s*\{{([^{{}}]*)\}}", r"\\text{\1}"),
        (rf"(?<=[\d)}}])\s*([{_IDEOGRAPHS}]+)\.?(?=\s*\}}*\s*$)", r"\\text{\1}"),
        (r"\\text\{([万亿萬億])(?=[^}])", r"\\text{\1}\\text{"),
        (r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![a-zA-Z]))", " \\\\circ "),
    )
)
_WRAPPINGS: tuple[tuple[str, str], ...] = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
)
_END = re.compile(r"(?:\\[,;:!]?|[\s,;~])+$")
_BOLD_START = re.compile(r"(\*\*|__|\*|`)(?=\S)(.+?)(?<=\S)\1")

_TOKEN = re.compile(
    rf"""\\text\{{[^{{}}]*\}}
    |\d{{1,3}}(?:{_STRONG_COMMA}\d{{3}})+(?!\d)(?:\.\d+)?
    |(?P<comma>\d{{1,3}}(?:,\d{{3}})+(?!\d|,\d)(?:\.\d+)?)
    |\d{{1,3}}(?:[ ]\d{{3}})+(?![ ]?\d)(?:\.\d+)?
    |\d{{1,3}}(?:[_']\d{{3}})+(?![_']?\d)
    |\d*\.\d*\\overline\s*\{{\d+\}}
    |(?:\d+\.\d+|\.\d+|\d+\.?)(?:[eE][-+]?\d+(?![A-Za-z]))?
    |\\[A-Za-z]+\*?|\\.
    |[A-Za-z]+|\*\*|!!
    |\S""",
    re.VERBOSE | re.DOTALL,
)


def clean(raw: str) -> str:
    """The text without its wrapping, in ASCII as far as its symbols have an ASCII or TeX name.

    Raises `Unreadable` where it is longer than `MAX_CHARS`.
    """
    text = raw.strip() if len(raw) <= 2 * MAX_CHARS else raw
    if len(text) > MAX_CHARS:
        raise Unreadable(f"too long: {len(text):,} characters")
    text = _ascii(_unwrap(text))
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    return _unwrap(text.translate(_SUPERSCRIPT).translate(_SUBSCRIPT))


def _unwrap(text: str) -> str:
    """Without outer Markdown or mathematics delimiters and without a closing full stop."""
    while True:
        before = text
        text = _END.sub("", text.strip())
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        for left, right in _WRAPPINGS:
            inner = text[len(left) : -len(right)]
            if (
                len(text) > len(left + right)
                and text == left + inner + right
                and right not in inner
            ):
                text = inner
        text = _BOLD_START.sub(r"\2", text, count=1) if text[:1] in "*_`" else text
        if text == before:
            return text


def _ascii(text: str) -> str:
    text = "".join(_vulgar_fraction(char) if char in _VULGAR else char for char in text)
    for pattern, replacement in _CLEANING[:2]:
        text = pattern.sub(replacement, text)
    text = text.translate(_SUPERSCRIPT).translate(_SUBSCRIPT).translate(_SYMBOLS)
    text = unicodedata.normalize("NFKC", text).translate(_SYMBOLS)
    return "".join(map(_ascii_digit, text))


_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_VULGAR = frozenset("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒")


def _vulgar_fraction(char: str) -> str:
    over, _, under = unicodedata.normalize("NFKC", char).partition("⁄")
    return f"\\frac{{{over}}}{{{under}}}"


def _ascii_digit(char: str) -> str:
    """Any script's decimal digit as an ASCII one; nothing for characters of no width."""
    if char.isascii():
        return char
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    if unicodedata.category(char) in ("Cs", "Co"):
        return "\ufffd"  # Half a character could not be stored or sent; a private one is ours.
    return "" if char in _INVISIBLE else char


def tokens(raw: str) -> list[str]:
    r"""The answer's tokens: numbers, `\commands`, words, `\text{...}`, and single characters.

    Numbers keep a decimal point and an exponent but no separators. Raises `Unreadable`.
    """
    found = _split(clean(raw))
    _check_depth(found)
    return braced(found)


def _split(text: str) -> list[str]:
    found: list[str] = []
    position, depth = 0, 0
    while match := _TOKEN.search(text, position):
        token = match[0]
        if match["comma"] and depth:  # Inside brackets a comma separates: (1,234) is a pair.
            token = token.partition(",")[0]
        position = match.start() + len(token)
        token = _spelled(token)
        depth += (token in _LISTS) - (token in _LIST_ENDS)
        if token:
            found.append(token)
    return found


def _spelled(token: str) -> str:
    if token[0].isdecimal() or (token[0] == "." and len(token) > 1):
        return re.sub(rf"[,{_STRONG_COMMA} _']", "", token)
    if token.startswith("\\text{"):
        return _text_token(token[6:-1])
    if token[0] == "\\" and token in _DROPPED:
        return ""
    if token == _STRONG_COMMA:
        return ","
    return _RENAMED.get(token) or (WORDS.get(token.lower(), token) if token.isalpha() else token)


def _text_token(content: str) -> str:
    word = " ".join(content.split())
    connective = WORDS.get(word.strip(",").strip().lower())
    return connective or (f"\\text{{{word}}}" if word else "")


def _check_depth(found: Sequence[str]) -> None:
    depth = 0
    for token in found:
        depth += (token in OPENERS) - (token in CLOSERS)
        if depth > MAX_DEPTH:
            raise Unreadable(f"nested more than {MAX_DEPTH} deep")
        if depth < 0:
            break
    if depth:
        raise Unreadable("a bracket is not closed or not opened")


def close_of(found: Sequence[str], start: int) -> int:
    """Where the bracket that opens at `start` closes; half-open intervals pair `(` with `]`.

    Raises `Unreadable` where it does not.
    """
    braces = list(found[start : start + 1]) == ["{"]
    depth = 0
    for index in range(start, len(found)):
        token = found[index]
        if braces == (token in "{}"):
            depth += (token in OPENERS) - (token in CLOSERS)
            if depth == 0:
                return index
    raise Unreadable("a bracket is not closed")


_NUM_ARGS = {"\\frac": 2, "\\binom": 2, "\\sqrt": 1, "^": 1, "_": 1, "\\overline": 1, "\\pmod": 1}


_VALUES = frozenset({"\\frac", "\\binom", "\\sqrt"})


def braced(found: Sequence[str]) -> list[str]:
    r"""The same tokens with braces around every argument: `\frac12` is `\frac{1}{2}`."""
    return _Bracer(found).everything(0)


class _Bracer:
    """Reads tokens from a stack whose top is the next one."""

    def __init__(self, found: Sequence[str]) -> None:
        self._rest = list(reversed(found))

    def everything(self, depth: int) -> list[str]:
        result: list[str] = []
        while self._rest:
            result += self._with_arguments(depth)
        return result

    def _with_arguments(self, depth: int) -> list[str]:
        if depth > MAX_DEPTH:
            raise Unreadable(f"nested more than {MAX_DEPTH} deep")
        result = [command := self._rest.pop()]
        if command == "\\sqrt" and self._rest and self._rest[-1] == "[":
            result += ["[", *self._inside(depth), "]"]
        for _ in range(_NUM_ARGS.get(command, 0)):
            result += ["{", *self._argument(command, depth), "}"]
        beside = self._rest[-1] if self._rest else ""
        if command in _VALUES and (beside[:1].isdecimal() or beside == "("):
            result.append("*")  # Some readers take \\frac{1}{2}(3) for a mixed number.
        return result

    def _argument(self, command: str, depth: int) -> list[str]:
        rest = self._rest
        sign = [rest.pop()] if command == "^" and rest and rest[-1] in ("-", "+") else []
        if not rest:
            raise Unreadable(f"{command} has no argument")
        if rest[-1] == "{" or (rest[-1] == "(" and command in ("\\sqrt", "^")):
            return sign + self._inside(depth)
        if rest[-1].isdecimal() and command in ("\\frac", "\\binom"):
            first, others = rest[-1][0], rest[-1][1:]
            rest[-1:] = [others] if others else []
            return [first]  # TeX takes one digit: \\frac12 is a half.
        return sign + self._with_arguments(depth + 1)

    def _inside(self, depth: int) -> list[str]:
        """Pop a whole bracket; what stands in it, with braces."""
        ahead = self._rest[::-1]
        end = close_of(ahead, 0)
        del self._rest[len(ahead) - end - 1 :]
        return _Bracer(ahead[1:end]).everything(depth + 1)


def joined(found: Sequence[str]) -> str:
    """The tokens as short LaTeX; a space only where two names would run together."""
    pieces: list[str] = []
    for token in found:
        written = {"*": "\\cdot", "\\circ": "^\\circ"}.get(token, token)
        if pieces and _runs_together(pieces[-1], written):
            pieces.append(" ")
        pieces.append(written)
    return "".join(pieces)


def _runs_together(left: str, right: str) -> bool:
    if left[0] == "\\" and left[-1].isalpha():
        return right[0].isalpha()
    both_words = left[-1].isalpha() and right[0].isalpha()
    both_numbers = left[-1].isdecimal() and right[0].isdecimal()
    return both_words or both_numbers
