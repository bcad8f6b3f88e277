r"""Exact values of arithmetic, in bounded time and memory. Knows no notation.

Every step is bounded by the bits of its result. A residue of a tower of powers is found without
its value (Euler's theorem, generalised: a^e = a^(e mod phi(m) + phi(m)) modulo m for every a, as
long as e >= log2 m).
"""

import functools
import math
import operator
from collections.abc import Callable
from fractions import Fraction

from aimo2.answers.grammar import Call, Node
from aimo2.answers.latex import Unreadable

MAX_BITS = 32_768
"""Of any numerator or denominator on the way: a product of two takes about a millisecond."""
_MAX_MODULUS = 10**10
_MAX_FACTORS = 20_000
"""Multiplications for one factorial modulo m."""
_MAX_ROOT_BITS, _MAX_ROOT_DEGREE = 8_192, 64


class TooLarge(ValueError):  # noqa: N818
    """The value is there, but has too many digits to be written down."""


class Irrational(ValueError):  # noqa: N818
    """The value is no fraction, or not one that this module can see."""


class NotInteger(ValueError):  # noqa: N818
    """A residue was asked of a value that is not an integer."""


def value(node: Node) -> Fraction:
    """The exact value. Raises `TooLarge`, `Irrational`, or `Unreadable` where there is none."""
    if isinstance(node, Fraction):
        return _bounded(node)
    if node.op == "mod":
        return _modulo(node.args[0], _whole(value(node.args[1])))
    values = map(value, node.args)
    if node.op in _FOLDED:
        return functools.reduce(lambda a, b: _bounded(_FOLDED[node.op](a, b)), values)
    return _bounded(_OPERATIONS[node.op](*values))


def _modulo(node: Node, modulus: int) -> Fraction:
    try:
        return Fraction(residue(node, modulus))
    except NotInteger:
        raise Unreadable("a fraction has no remainder") from None


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
        if isinstance(node, Fraction) or modulus > _MAX_MODULUS:
            raise
        return _large_residue(node, modulus)
    if exact.denominator != 1:
        raise NotInteger
    return exact.numerator % modulus


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
    raise TooLarge


def _large_fold(node: Call, modulus: int) -> int:
    try:
        residues = [residue(arg, modulus) for arg in node.args]
    except NotInteger:
        raise TooLarge from None  # The fractions may add up to an integer; it is not known.
    return (sum(residues) if node.op == "add" else math.prod(residues)) % modulus


def _large_power(base: Node, exponent: Node, modulus: int) -> int:
    try:
        root = residue(base, modulus)
    except NotInteger:
        raise TooLarge from None  # The exponent might be negative.
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
