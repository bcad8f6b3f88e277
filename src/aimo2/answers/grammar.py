r"""Arithmetic as a tree: fractions, powers, roots, factorials, binomials. Finds no values.

The grammar is closed: a token that is not in it is `Unreadable`, so nothing is ever evaluated as
code, and the tree is never deeper than the brackets are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from aimo2.answers.latex import Unreadable

_MAX_BARS = 10
_MAX_TOWER = 10
_MAX_FACTORIALS = 4
"""Exclamation marks in a row, so that the tree's depth stays that of the brackets."""


@dataclass(frozen=True, slots=True)
class Call:
    """An operation on exact values, not carried out yet."""

    op: str
    args: "tuple[Node, ...]"


Node = Fraction | Call


def parse(found: Sequence[str]) -> Node:
    """The tokens as arithmetic. Raises `Unreadable` for anything else."""
    parser = _Parser(found)
    node = parser.total()
    if parser.peek() is not None:
        raise Unreadable(f"not a number: unexpected {parser.peek()}")
    return node


def _combined(op: str, parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Call(op, tuple(parts))


class _Parser:
    """Recursive descent, as deep as the tokens are; bars are no brackets and are counted here."""

    def __init__(self, found: Sequence[str]) -> None:
        self._tokens = found
        self._position = 0
        self._bars = 0

    def peek(self) -> str | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _take(self) -> str:
        token = self.peek()
        if token is None:
            raise Unreadable("not a number: it ends too early")
        self._position += 1
        return token

    def _expect(self, wanted: str) -> None:
        if self._take() != wanted:
            raise Unreadable(f"not a number: {wanted} is missing")

    def total(self) -> Node:
        """A sum, and at most one modulus behind it: `73 (mod 1000)`, `7 \\bmod 3`."""
        node = self._sum()
        bracketed = self._modulus_ahead()
        if bracketed:
            self._take()
        if self.peek() in ("\\bmod", "\\pmod"):
            self._take()
            node = Call("mod", (node, self._sum()))
        if bracketed:
            self._expect(")")
        return node

    def _modulus_ahead(self) -> bool:
        return list(self._tokens[self._position : self._position + 2]) == ["(", "\\bmod"]

    def _sum(self) -> Node:
        terms = [self._product()]
        while self.peek() in ("+", "-"):
            minus = self._take() == "-"
            term = self._product()
            terms.append(Call("neg", (term,)) if minus else term)
        return _combined("add", terms)

    def _product(self) -> Node:
        """Factors; those behind `/` are collected, so that a/b*c is (a*c)/b.

        What stands beside a quotient without a sign, as in 1/2(3), has no agreed meaning.
        """
        over, under = [self._signed()], list[Node]()
        while (token := self.peek()) is not None:
            if token in ("*", "/"):
                self._take()
                (over if token == "*" else under).append(self._signed())
            elif token in _STARTS and not under and not self._modulus_ahead():
                over.append(self._power())
            else:
                break
        node = _combined("mul", over)
        return Call("div", (node, _combined("mul", under))) if under else node

    def _signed(self) -> Node:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self._take() == "-"
        node = self._power()
        return Call("neg", (node,)) if negative else node

    def _power(self) -> Node:
        base = self._postfix()
        exponents: list[Node] = []
        while self.peek() == "^" and len(exponents) < _MAX_TOWER:
            self._take()
            exponents.append(self._group("{", "}"))
        for exponent in reversed(exponents[:-1]):  # 2^3^2 is 2^(3^2)
            exponents[-1] = Call("pow", (exponent, exponents[-1]))
        return Call("pow", (base, exponents[-1])) if exponents else base

    def _postfix(self) -> Node:
        node = self._atom()
        for _ in range(_MAX_FACTORIALS):
            if self.peek() not in ("!", "!!"):
                break
            op = "factorial" if self._take() == "!" else "double_factorial"
            node = Call(op, (node,))
        return node

    def _atom(self) -> Node:
        token = self._take()
        if token[0].isdecimal() or (token[0] == "." and len(token) > 1):
            return self._mixed(token) or number(token)

        if token in ("(", "[", "{", "\\lfloor", "\\lceil", "|"):
            return self._bracket(token)
        if token == "\\pi":
            return Call("pi", ())
        if token in ("\\frac", "\\binom"):
            args = (self._group("{", "}"), self._group("{", "}"))
            return Call(token[1:], args)
        if token == "\\sqrt":
            degree = self._group("[", "]") if self.peek() == "[" else Fraction(2)
            return Call("root", (self._group("{", "}"), degree))
        raise Unreadable(f"not a number: unexpected {token}")

    def _mixed(self, whole: str) -> Node | None:
        r"""`1\\frac{4}{5}` and `1 4/5`: a whole number beside a proper fraction."""
        ahead = list(self._tokens[self._position : self._position + 7])
        digits = [token for token in ahead if token.isdecimal()][:2]
        over, under = digits if len(digits) == 2 else ("0", "0")
        latex = ahead == ["\\frac", "{", over, "}", "{", under, "}"]
        plain = ahead[:3] == [over, "/", under]
        if not whole.isdecimal() or not (latex or plain) or not 0 < int(over) < int(under):
            return None
        self._position += 7 if latex else 3
        return int(whole) + Fraction(int(over), int(under))

    def _group(self, left: str, right: str) -> Node:
        self._expect(left)
        node = self._sum()
        self._expect(right)
        return node

    def _bracket(self, opener: str) -> Node:
        self._bars += opener == "|"
        if self._bars > _MAX_BARS:
            raise Unreadable(f"more than {_MAX_BARS} absolute values")
        node = self._sum()
        if opener == "{" and self.peek() == "\\choose":
            self._take()
            node = Call("binom", (node, self._sum()))
        self._expect(_CLOSE[opener])
        op = _BRACKET_OPS.get(opener)
        return Call(op, (node,)) if op else node


_STARTS = frozenset({"(", "\\frac", "\\sqrt", "\\binom", "\\lfloor", "\\lceil", "\\pi"})
_CLOSE = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "|": "|"}
_BRACKET_OPS = {"\\lfloor": "floor", "\\lceil": "ceil", "|": "abs"}


def number(token: str) -> Node:
    r"""A number's value: digits, a point, an exponent, or `0.\overline{3}`.

    Raises `Unreadable` where it is none.
    """
    if "\\overline" in token:
        return _repeating(token)
    mantissa, _, exponent = token.lower().partition("e")
    whole, _, part = mantissa.partition(".")
    if not (whole + part).isdecimal() or (part and not part.isdecimal()):
        raise Unreadable(f"not a number: {token}")
    value = Fraction(int(whole + part), 10 ** len(part))
    if not exponent:
        return value
    return Call("mul", (value, Call("pow", (Fraction(10), Fraction(int(exponent))))))


def _repeating(token: str) -> Fraction:
    start, _, cycle = token.partition("\\overline")
    digits = cycle.strip(" {}")
    whole, _, part = start.partition(".")
    shown = Fraction(int(whole + part or "0"), 10 ** len(part))
    return shown + Fraction(int(digits), 10 ** len(part) * (10 ** len(digits) - 1))
