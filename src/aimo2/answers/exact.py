r"""Exact values of arithmetic: fractions, powers, roots, factorials, binomials. No other libraries.

The grammar is closed: a token that is not in it is `Unreadable`, so nothing is ever evaluated as
code. Every step is bounded by the bits of its result, so that time and memory are bounded too;
a residue of a tower of powers is found without its value (Euler's theorem, generalised:
a^e = a^(e mod phi(m) + phi(m)) modulo m for every a, as long as e >= log2 m).
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from aimo2.answers.latex import Unreadable

MAX_BITS = 32_768
"""Of any numerator or denominator on the way: a product of two takes about a millisecond."""
_MAX_MODULUS = 10**10
_MAX_FACTORS = 20_000
"""Multiplications for one factorial modulo m."""
_MAX_ROOT_BITS, _MAX_ROOT_DEGREE = 8_192, 64
_MAX_FACTORIALS = 4
"""Exclamation marks in a row, so that the tree's depth stays that of the brackets."""


class TooLarge(ValueError):  # noqa: N818
    """The value is there, but has too many digits to be written down."""


class Irrational(ValueError):  # noqa: N818
    """The value is no fraction, or not one that this module can see."""


class NotInteger(ValueError):  # noqa: N818
    """A residue was asked of a value that is not an integer."""


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
    """Recursive descent; the depth is bounded because the tokens' depth is."""

    def __init__(self, found: Sequence[str]) -> None:
        self._tokens = found
        self._position = 0

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
        if self.peek() != "^":
            return base
        self._take()
        exponent = self._group("{", "}")
        if self.peek() == "^":  # 2^3^2 is 2^(3^2)
            self._take()
            exponent = Call("pow", (exponent, self._group("{", "}")))
        return Call("pow", (base, exponent))

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
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
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
        digits = [token for token in ahead if token.isdigit()][:2]
        over, under = digits if len(digits) == 2 else ("0", "0")
        latex = ahead == ["\\frac", "{", over, "}", "{", under, "}"]
        plain = ahead[:3] == [over, "/", under]
        if not whole.isdigit() or not (latex or plain) or not 0 < int(over) < int(under):
            return None
        self._position += 7 if latex else 3
        return int(whole) + Fraction(int(over), int(under))

    def _group(self, left: str, right: str) -> Node:
        self._expect(left)
        node = self._sum()
        self._expect(right)
        return node

    def _bracket(self, opener: str) -> Node:
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
    if not (whole + part).isdigit() or (part and not part.isdigit()):
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


def value(node: Node) -> Fraction:
    """The exact value. Raises `TooLarge`, `Irrational`, or `Unreadable` where there is none."""
    if isinstance(node, Fraction):
        return _bounded(node)
    if node.op == "mod":
        modulus = _whole(value(node.args[1]))
        return Fraction(residue(node.args[0], modulus))
    values = map(value, node.args)
    if node.op in _FOLDED:
        return functools.reduce(lambda a, b: _bounded(_FOLDED[node.op](a, b)), values)
    return _bounded(_OPERATIONS[node.op](*values))


def _bounded(result: Fraction) -> Fraction:
    if max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_BITS:
        raise TooLarge
    return result


def _whole(number: Fraction) -> int:
    if number.denominator != 1:
        raise Irrational
    return number.numerator


def _divide(over: Fraction, under: Fraction) -> Fraction:
    if not under:
        raise Unreadable("division by zero")
    return over / under


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    base = _root(base, Fraction(exponent.denominator))
    times = exponent.numerator
    if base == 0 and times < 0:
        raise Unreadable("division by zero")
    if base not in (0, 1, -1):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
        if bits * abs(times) > MAX_BITS:
            raise TooLarge
    elif times:
        times = 2 - times % 2 if times > 0 else -(2 - times % 2)
    return base**times


def _root(number: Fraction, degree: Fraction) -> Fraction:
    k = _whole(degree)
    bits = max(number.numerator.bit_length(), number.denominator.bit_length())
    if k < 1 or (k > 1 and (k > _MAX_ROOT_DEGREE or bits > _MAX_ROOT_BITS)):
        raise Irrational
    if number < 0:
        if k % 2 == 0:
            raise Irrational
        return -_root(-number, degree)
    return Fraction(_integer_root(number.numerator, k), _integer_root(number.denominator, k))


def _integer_root(number: int, k: int) -> int:
    """The exact k-th root of a natural number, by Newton's method from above."""
    if k == 1 or number < 2:
        return number
    guess = 1 << -(-number.bit_length() // k)
    while True:
        better = ((k - 1) * guess + number // guess ** (k - 1)) // k
        if better >= guess:
            break
        guess = better
    if guess**k != number:
        raise Irrational
    return guess


def _factorial(number: Fraction, step: int = 1) -> Fraction:
    n = _whole(number)
    if n < 0:
        raise Unreadable("the factorial of a negative number")
    if n > 2 and n * (n.bit_length() - 1) > 2 * MAX_BITS:
        raise TooLarge
    return Fraction(math.prod(range(n, 0, -step)))


def _double_factorial(number: Fraction) -> Fraction:
    return _factorial(number, 2)


def _binomial(top: Fraction, bottom: Fraction) -> Fraction:
    n, k = _whole(top), _whole(bottom)
    if n < 0 or k < 0:
        raise Unreadable("a binomial coefficient of a negative number")
    k = min(k, n - k)
    if k > 0 and min(n, k * n.bit_length()) > MAX_BITS:
        raise TooLarge
    return Fraction(math.comb(n, k)) if k >= 0 else Fraction(0)


_FOLDED: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "add": operator.add,
    "mul": operator.mul,
}
_OPERATIONS: dict[str, Callable[..., Fraction]] = {
    "neg": operator.neg,
    "abs": abs,
    "div": _divide,
    "frac": _divide,
    "pow": _power,
    "root": _root,
    "factorial": _factorial,
    "double_factorial": _double_factorial,
    "binom": _binomial,
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "pi": lambda: _irrational(),
}


def _irrational() -> Fraction:
    raise Irrational


_APPROXIMATIONS: dict[str, Callable[..., float]] = {
    "add": lambda *terms: math.fsum(terms),
    "mul": lambda *factors: math.prod(factors),
    "neg": operator.neg,
    "abs": abs,
    "div": operator.truediv,
    "frac": operator.truediv,
    "pow": math.pow,
    "root": lambda a, k: math.copysign(abs(a) ** (1 / k), a) if k % 2 == 1 else a ** (1 / k),
    "pi": lambda: math.pi,
}


def approximate(node: Node) -> float | None:
    """About the value, to tell unequal ones apart; `None` where a float cannot hold it."""
    try:
        if isinstance(node, Fraction):
            return float(node)
        operation = _APPROXIMATIONS.get(node.op)
        args = [approximate(arg) for arg in node.args]
        if operation is None or None in args:
            return float(value(node))
        result = operation(*args)
    except (ArithmeticError, ValueError):
        return None
    return result if isinstance(result, float) and math.isfinite(result) else None


def residue(node: Node, modulus: int) -> int:
    """The value modulo `modulus`, from 0 to `modulus` - 1, also where the value is `TooLarge`.

    Raises `TooLarge` where no residue can be found, `NotInteger`, `Irrational`, or `Unreadable`.
    """
    if modulus < 1:
        raise Unreadable("a modulus must be 1 or more")
    try:
        exact = value(node)
    except TooLarge:
        if isinstance(node, Fraction):
            return node.numerator % modulus if node.denominator == 1 else _not_integer()
        if modulus > _MAX_MODULUS:
            raise
        return _large_residue(node, modulus)
    return exact.numerator % modulus if exact.denominator == 1 else _not_integer()


def _not_integer() -> int:
    raise NotInteger


def _large_residue(node: Call, modulus: int) -> int:
    left = node.args[0]
    if node.op == "neg":
        return -residue(left, modulus) % modulus
    if node.op in _FOLDED:
        return _large_fold(node, modulus)
    if node.op == "pow":
        return _large_power(left, node.args[1], modulus)
    if node.op in ("div", "frac"):
        return _large_quotient(left, _whole(value(node.args[1])), modulus)
    if node.op == "factorial":
        return _large_factorial(left, modulus)
    if node.op == "mod":
        return residue(left, _whole(value(node.args[1]))) % modulus
    raise TooLarge


def _large_fold(node: Call, modulus: int) -> int:
    try:
        residues = [residue(arg, modulus) for arg in node.args]
    except NotInteger:
        raise TooLarge from None  # The fractions may add up to an integer; it is not known.
    return (sum(residues) if node.op == "add" else math.prod(residues)) % modulus


def _large_power(base: Node, exponent: Node, modulus: int) -> int:
    root = residue(base, modulus)
    try:
        times = value(exponent)
    except TooLarge:
        if not _grows(exponent):
            raise
        phi = _totient(modulus)
        return pow(root, residue(exponent, phi) + phi, modulus)
    if times.denominator != 1 or times < 0:
        raise TooLarge
    return pow(root, times.numerator, modulus)


def _grows(node: Node) -> bool:
    """Whether no step makes the value smaller, so that one huge part makes the whole huge."""
    if isinstance(node, Fraction):
        return node.denominator == 1 and node >= 2
    return node.op in ("add", "mul", "pow", "factorial") and all(map(_grows, node.args))


def _large_quotient(over: Node, under: int, modulus: int) -> int:
    if not under:
        raise Unreadable("division by zero")
    if modulus * abs(under) > _MAX_MODULUS:
        raise TooLarge
    rest = residue(over, modulus * abs(under))
    if rest % under:
        raise NotInteger
    return rest // under % modulus


def _large_factorial(argument: Node, modulus: int) -> int:
    try:
        n = value(argument)
    except TooLarge:
        if _grows(argument):
            return 0
        raise
    if n.denominator != 1 or n < 0:
        raise Unreadable("the factorial of a fraction or a negative number")
    if n >= modulus:
        return 0
    if n > _MAX_FACTORS:
        raise TooLarge
    product = 1
    for factor in range(2, n.numerator + 1):
        product = product * factor % modulus
    return product


def _totient(number: int) -> int:
    """Euler's phi by trial division: at most sqrt(number) steps."""
    result, rest, prime = number, number, 2
    while prime * prime <= rest:
        if rest % prime == 0:
            result -= result // prime
            while rest % prime == 0:
                rest //= prime
        prime += 1
    return result - result // rest if rest > 1 else result
