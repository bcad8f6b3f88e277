r"""LaTeX formulas as MathML, for the part of LaTeX that models write; all else is `Unreadable`.

Only our own tags are written, every text in them is escaped, and no attribute comes from the
source: `\href` or `\style` cannot smuggle anything in. Knows no document, only one formula.
"""

import html
import re
from typing import Final

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+(?:[.,][0-9]+)*|\s+|.", re.DOTALL)
_DEEPEST: Final = 40


def _names(text: str) -> list[str]:
    return text.split()


_IDENTIFIERS = {
    **{
        name: chr(0x3B1 + number)
        for number, name in enumerate(
            _names("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi"
            " omicron pi rho varsigma sigma tau upsilon phi chi psi omega")
        )
    },
    **dict(zip(_names("Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"), "ΓΔΘΛΞΠΣΦΨΩ",
               strict=True)),
    "varepsilon": "ε", "vartheta": "ϑ", "varphi": "φ", "varpi": "ϖ", "varrho": "ϱ", "ell": "ℓ",
    "infty": "∞", "emptyset": "∅", "varnothing": "∅", "partial": "∂", "nabla": "∇", "hbar": "ℏ",
    "Re": "ℜ", "Im": "ℑ", "aleph": "ℵ", "degree": "°", "circ": "∘", "prime": "′", "top": "⊤",
    "bot": "⊥", "ldots": "…", "dots": "…", "cdots": "⋯", "vdots": "⋮", "ddots": "⋱", "dotsc": "…",
    "dotsb": "⋯", "angle": "∠", "triangle": "△", "square": "□", "Box": "□", "checkmark": "✓",
}  # fmt: skip
_OPERATORS = {
    "times": "×", "cdot": "⋅", "div": "÷", "pm": "±", "mp": "∓", "ast": "∗", "star": "⋆",
    "oplus": "⊕", "otimes": "⊗", "cup": "∪", "cap": "∩", "setminus": "∖", "backslash": "∖",
    "wedge": "∧", "land": "∧", "vee": "∨", "lor": "∨", "neg": "¬", "lnot": "¬", "mid": "∣",
    "nmid": "∤", "parallel": "∥", "perp": "⊥", "le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥",
    "geq": "≥", "geqslant": "≥", "ne": "≠", "neq": "≠", "equiv": "≡", "approx": "≈", "cong": "≅",
    "sim": "∼", "simeq": "≃", "propto": "∝", "ll": "≪", "gg": "≫", "lt": "<", "gt": ">",
    "in": "∈", "notin": "∉", "ni": "∋", "subset": "⊂", "subseteq": "⊆", "supset": "⊃",
    "supseteq": "⊇", "subsetneq": "⊊", "to": "→", "rightarrow": "→", "leftarrow": "←",
    "Rightarrow": "⇒", "Leftarrow": "⇐", "leftrightarrow": "↔", "Leftrightarrow": "⇔", "iff": "⟺",
    "implies": "⟹", "longrightarrow": "⟶", "Longrightarrow": "⟹", "mapsto": "↦", "uparrow": "↑",
    "downarrow": "↓", "forall": "∀", "exists": "∃", "therefore": "∴", "because": "∵",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "langle": "⟨", "rangle": "⟩",
    "lvert": "|", "rvert": "|", "vert": "|", "Vert": "‖", "lVert": "‖", "rVert": "‖",
    "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]", "colon": ":", "mod": "mod",
    "{": "{", "}": "}", "|": "‖", "%": "%", "$": "$", "#": "#", "_": "_", "&": "&",
}  # fmt: skip
_LARGE = {
    "sum": "∑", "prod": "∏", "int": "∫", "iint": "∬", "oint": "∮", "bigcup": "⋃", "bigcap": "⋂",
    "coprod": "∐", "bigoplus": "⨁",
}  # fmt: skip
_FUNCTIONS = frozenset(
    _names(
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp det dim ker deg"
        " gcd lcm arg hom Pr"
    )
)
_LIMITS = frozenset(_names("lim max min sup inf limsup liminf"))
_SPACES = {",": "0.17em", ":": "0.22em", ";": "0.28em", " ": "0.25em", "quad": "1em",
           "qquad": "2em", "!": None, "thinspace": "0.17em"}  # fmt: skip
_ACCENTS = {"hat": "^", "widehat": "^", "bar": "‾", "overline": "‾", "vec": "→", "tilde": "~",
            "widetilde": "~", "dot": "˙", "ddot": "¨", "overrightarrow": "→"}  # fmt: skip
_TEXTS = frozenset(_names("text textbf textit textrm texttt mbox textnormal operatorname"))
_FONTS = frozenset(_names("mathrm mathbf mathit mathsf mathtt mathcal mathfrak mathscr boldsymbol"
                          " bm pmb mathbb"))  # fmt: skip
_DOUBLE = dict(zip("CHNPQRZE", "ℂℍℕℙℚℝℤ𝔼", strict=True))
_IGNORED = frozenset(_names("displaystyle textstyle limits nolimits big Big bigg Bigg bigl bigr"
                            " Bigl Bigr biggl biggr left. right. hline tag nonumber"))  # fmt: skip
_BRACKETS = {"pmatrix": "()", "bmatrix": "[]", "vmatrix": "||", "Bmatrix": "{}", "cases": "{.",
             "Vmatrix": "‖‖"}  # fmt: skip
_TABLES = frozenset({*_BRACKETS, "matrix", "smallmatrix", "array", "aligned", "align", "align*",
                     "gathered", "gather", "gather*", "split", "equation", "equation*",
                     "eqnarray", "eqnarray*", "alignat"})  # fmt: skip
_MINUS = {"-": "−", "*": "∗", "'": "′"}


class Unreadable(ValueError):  # noqa: N818 - reads as a state
    """Not in the part of LaTeX that is known here; the message says what."""


def mathml(source: str, *, display: bool = False) -> str:
    """The formula as a `<math>` element. Raises `Unreadable`."""
    reader = _Reader(_TOKEN.findall(source))
    body = reader.row()
    if reader.next() is not None:
        raise Unreadable(f"{reader.next()} without its opening")
    mode = ' display="block"' if display else ""
    return f"<math{mode}>{body}</math>"


def _mo(text: str) -> str:
    return f"<mo>{html.escape(text)}</mo>"


def _mi(text: str) -> str:
    return f"<mi>{html.escape(text)}</mi>"


class _Reader:
    """A recursive descent over the tokens, of bounded depth."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def next(self) -> str | None:
        """The next token that is no white space; `None` at the end."""
        while self._at < len(self._tokens) and self._tokens[self._at].isspace():
            self._at += 1
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def take(self) -> str:
        token = self.next()
        if token is None:
            raise Unreadable("ends too early")
        self._at += 1
        return token

    def expect(self, wanted: str) -> None:
        if (found := self.take()) != wanted:
            raise Unreadable(f"{found} instead of {wanted}")

    def row(self) -> str:
        """Atoms with their scripts, up to what closes the row."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Unreadable("too deep")
        parts: list[str] = []
        while (token := self.next()) not in (None, "}", "&", "\\\\", "\\right", "\\end"):
            assert token is not None
            parts.append(self._scripted())
        self._depth -= 1
        return f"<mrow>{''.join(parts)}</mrow>"

    def _scripted(self) -> str:
        """An atom, and what is written below and above it."""
        token = self.next()
        under = token is not None and token[1:] in _LIMITS | (_LARGE.keys() - {"int", "iint"})
        base = "<mrow></mrow>" if token in ("^", "_") else self._atom()
        below = above = ""
        while (mark := self.next()) in ("^", "_", "'"):
            if mark == "'":
                self.take()
                above += "<mo>′</mo>"
                continue
            self.take()
            script = self._argument()
            if (above and mark == "^" and not above.startswith("<mo>′")) or (below and mark == "_"):
                raise Unreadable("two scripts in one place")
            above, below = (above + script, below) if mark == "^" else (above, script)
        if above.count("<mo>′") > 0:
            above = f"<mrow>{above}</mrow>"
        tags = {(1, 1): ("msubsup", "munderover"), (1, 0): ("msub", "munder")}
        tags |= {(0, 1): ("msup", "mover")}
        if not (below or above):
            return base
        tag = tags[bool(below), bool(above)][under]
        return f"<{tag}>{base}{below}{above}</{tag}>"

    def _argument(self) -> str:
        """A group, or a single atom."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Unreadable("too deep")
        token = self.next()
        if token in ("^", "_", "}", "&", None):
            raise Unreadable(f"{token} instead of an argument")
        if token is not None and token[0].isdigit() and len(token) > 1:
            # x^23 raises x to 2 only, and \frac12 has two arguments.
            self._tokens[self._at] = token[1:]
            found = f"<mn>{token[0]}</mn>"
        else:
            found = self._atom()
        self._depth -= 1
        return found

    def _atom(self) -> str:
        token = self.take()
        if token == "{":
            body = self.row()
            self.expect("}")
            return body
        if token.startswith("\\") and len(token) > 1:
            return self._command(token[1:])
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return _mi(token)
        if token in ("#", "%", "\\", "$", "~"):
            if token == "~":
                return '<mspace width="0.25em"/>'
            raise Unreadable(f"a bare {token}")
        return _mo(_MINUS.get(token, token))

    def _command(self, name: str) -> str:
        for table, write in ((_IDENTIFIERS, _mi), (_OPERATORS, _mo), (_LARGE, _mo)):
            if name in table:
                return write(table[name])
        if name in _FUNCTIONS or name in _LIMITS:
            return f"<mi>{name}</mi>" + ("<mo>&#8289;</mo>" if name in _FUNCTIONS else "")
        if name in _SPACES:
            width = _SPACES[name]
            return f'<mspace width="{width}"/>' if width else ""
        if name in _IGNORED:
            return ""
        if name in _TEXTS:
            return f"<mtext>{html.escape(self._verbatim())}</mtext>"
        if name in _FONTS:
            return self._font(name)
        if name in _ACCENTS:
            return f'<mover accent="true">{self._argument()}{_mo(_ACCENTS[name])}</mover>'
        return self._structure(name)

    def _structure(self, name: str) -> str:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return f"<mfrac>{self._argument()}{self._argument()}</mfrac>"
        if name in ("binom", "dbinom", "tbinom"):
            inner = f'<mfrac linethickness="0">{self._argument()}{self._argument()}</mfrac>'
            return f"<mrow><mo>(</mo>{inner}<mo>)</mo></mrow>"
        if name == "sqrt":
            return self._root()
        if name in ("boxed", "fbox"):
            return f'<mrow class="boxed">{self._argument()}</mrow>'
        if name == "underline":
            return f"<munder>{self._argument()}<mo>_</mo></munder>"
        if name in ("pmod", "bmod", "pod"):
            return self._modulus(name)
        if name in ("overset", "stackrel", "underset"):
            script, base = self._argument(), self._argument()
            tag = "munder" if name == "underset" else "mover"
            return f"<{tag}>{base}{script}</{tag}>"
        if name == "left":
            return self._fenced()
        if name == "begin":
            return self._table()
        if name == "not":
            return _mo(html.unescape(re.sub("<[^>]*>", "", self._argument())) + "\u0338")
        raise Unreadable(f"\\{name} is not known")

    def _modulus(self, name: str) -> str:
        word = '<mspace width="0.3em"/><mi>mod</mi><mspace width="0.3em"/>'
        if name == "bmod":
            return word
        inner = ("" if name == "pod" else word) + self._argument()
        return f'<mspace width="0.5em"/><mrow><mo>(</mo>{inner}<mo>)</mo></mrow>'

    def _root(self) -> str:
        if self.next() != "[":
            return f"<msqrt>{self._argument()}</msqrt>"
        self.take()
        parts: list[str] = []
        while self.next() != "]":
            parts.append(self._scripted())
        self.take()
        return f"<mroot>{self._argument()}<mrow>{''.join(parts)}</mrow></mroot>"

    def _font(self, name: str) -> str:
        if name == "mathbb":
            letters = self._verbatim()
            return _mi("".join(_DOUBLE.get(letter, letter) for letter in letters))
        if name in ("mathrm", "mathsf", "mathtt") and self.next() == "{":
            return f"<mtext>{html.escape(self._verbatim())}</mtext>"
        return self._argument()

    def _verbatim(self) -> str:
        """The characters of a group as they stand, without formulas in it."""
        if self.next() != "{":
            return self.take()
        self.take()
        parts: list[str] = []
        while True:
            if self._at >= len(self._tokens):
                raise Unreadable("a text without its end")
            token = self._tokens[self._at]
            self._at += 1
            if token == "}":
                return "".join(parts)
            if token in ("{", "$") or (token.startswith("\\") and token[1:].isalpha()):
                raise Unreadable("a formula inside a text")
            parts.append(token.removeprefix("\\") if len(token) == 2 else token)

    def _delimiter(self) -> str:
        token = self.take()
        name = token.removeprefix("\\")
        shown = _OPERATORS.get(name, name) if token.startswith("\\") else token
        if token != "." and (len(shown) != 1 or shown.isalnum()):
            raise Unreadable(f"{token} is no delimiter")
        return "" if token == "." else f'<mo stretchy="true">{html.escape(shown)}</mo>'

    def _fenced(self) -> str:
        opening = self._delimiter()
        body = self.row()
        self.expect("\\right")
        return f"<mrow>{opening}{body}{self._delimiter()}</mrow>"

    def _table(self) -> str:
        name = self._verbatim()
        if name not in _TABLES:
            raise Unreadable(f"the environment {name} is not known")
        if name in ("array", "alignat"):
            self._verbatim()
        rows: list[list[str]] = [[]]
        while True:
            rows[-1].append(f"<mtd>{self.row()}</mtd>")
            token = self.take()
            if token == "\\end":
                break
            if token == "\\\\":
                rows.append([])
            elif token != "&":
                raise Unreadable(f"{token} in a table")
        if self._verbatim() != name:
            raise Unreadable(f"the environment {name} is not closed")
        body = "".join(f"<mtr>{''.join(cells)}</mtr>" for cells in rows)
        kind = ' class="aligned"' if name.startswith(("align", "split", "eqn")) else ""
        marks = _BRACKETS.get(name, "..")
        table = f"<mtable{kind}>{body}</mtable>"
        before, after = (
            "" if mark == "." else f'<mo stretchy="true">{mark}</mo>' for mark in list(marks)
        )
        return f"<mrow>{before}{table}{after}</mrow>"
