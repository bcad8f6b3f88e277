r"""Bring an answer to one text for each value, or say in one line why that cannot be done.

Everything here runs in this process in bounded time and memory; what needs algebra is left open,
for the judge. The modulus is applied here, never by the model.
"""

from dataclasses import dataclass
from fractions import Fraction

from aimo2.answers import exact
from aimo2.answers.comparing import compare
from aimo2.answers.forms import Named, Number, written
from aimo2.answers.grammar import Node, parse
from aimo2.answers.latex import Unreadable, tokens
from aimo2.answers.reading import (
    algebra,
    is_name,
    is_opaque,
    option,
    read,
    split,
    unwrapped,
    without_unit,
)
from aimo2.config import AnswerType

MAX_DIGITS = 1_000
"""Of an integer that is kept as it is."""
_SHOWN_CHARS = 60
_SHOWN_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Canonical:
    """The one text for a value; `None` where there is none, and then `note` says why.

    `note`: one line where something needs explaining; may be set beside a value. `question`: the
    LaTeX that algebra would have to bring to an integer, where only that can settle it.
    """

    value: str | None
    note: str | None = None
    question: str | None = None


def canonical(raw: str, answer_type: AnswerType, modulus: int | None = None) -> Canonical:
    """`raw` as the answer type has it; `modulus` reduces integers to 0 ... modulus - 1.

    Raises `ValueError` where the modulus is below 1.
    """
    if modulus is not None and modulus < 1:
        raise ValueError(f"a modulus must be 1 or more, not {modulus}")
    try:
        return _integer(raw, modulus) if answer_type == "int" else _expression(raw)
    except Unreadable as error:
        return Canonical(None, f"{error}: {shown(raw)}")


def same(a: str, b: str) -> bool | None:
    """Whether two raw answers are equal; `None` where only algebra can tell."""
    if a.strip() == b.strip():
        return bool(a.strip())
    try:
        asking = compare(read(a), read(b))
        next(asking)
    except Unreadable:
        return False
    except StopIteration as verdict:
        return bool(verdict.value)
    return None


def shown(raw: str) -> str:
    """The text on one line, cut to what a note can hold."""
    line = " ".join(raw[: 4 * _SHOWN_CHARS].split())
    printable = "".join(char if char.isprintable() else "�" for char in line)
    return printable if len(printable) <= _SHOWN_CHARS else printable[: _SHOWN_CHARS - 1] + "…"


def _expression(raw: str) -> Canonical:
    form = read(raw)
    if isinstance(form, Named) and isinstance(form.body, Number):
        form = form.body
    value = written(form)
    if written(read(value)) != value:  # Broken notation, which each reading takes differently.
        raise Unreadable("not clear")
    return Canonical(value)


def _integer(raw: str, modulus: int | None) -> Canonical:
    found = unwrapped(tokens(raw))
    if not found:
        return Canonical(None, "empty")
    if len([part for part in split(found, (",", ";")) if part]) > 1:
        return Canonical(None, f"more than one value: {shown(raw)}")
    body = _right_side(option(found)[1] or found)
    try:
        return _settled(_node(body), raw, modulus)
    except exact.TooLarge:
        return Canonical(None, f"too large: {shown(raw)}")
    except exact.NotInteger:
        return Canonical(None, f"not an integer: {shown(raw)}")
    except (exact.Irrational, Unreadable) as error:
        why = f"not an integer: {shown(raw)}" if isinstance(error, exact.Irrational) else None
        why = why or f"not a number: {shown(raw)}"
        hopeless = is_opaque(body) or any(token.startswith("\\text{") for token in body)
        return Canonical(None, why, None if hopeless else algebra(body))


def _right_side(found: list[str]) -> list[str]:
    """What stands behind the last `=`, or before it where only a name stands behind it.

    Before an `\\approx`, unless only names stand there.
    """
    exactly, *roughly = split(found, ("\\approx",))
    if roughly and _has_digit(exactly) and not is_name(exactly):
        found = exactly
    sides = [side for side in split(found, ("=", "\\equiv", "\\approx", "\\in")) if side]
    bodies = [body for side in sides if (body := without_unit(unwrapped(side))[0])]
    if not bodies:
        raise Unreadable("empty")
    return next((body for body in reversed(bodies) if _has_digit(body)), bodies[-1])


def _has_digit(body: list[str]) -> bool:
    return any(token[-1].isdecimal() for token in body)


def _node(body: list[str]) -> Node:
    based = _in_base(body)
    return parse(body) if based is None else Fraction(based)


def _in_base(body: list[str]) -> int | None:
    """The digits of `52_{8}`, as in `comparing`: who names the base was asked in it."""
    if len(body) != 5 or body[1:3] != ["_", "{"] or not (body[0] + body[3]).isdecimal():
        return None
    digits, base = int(max(body[0])), int(body[3])
    return int(body[0]) if 2 <= base <= 36 and digits < base else None


def _settled(node: Node, raw: str, modulus: int | None) -> Canonical:
    try:
        value = exact.value(node)
    except exact.TooLarge:
        if modulus is None:
            raise
        return Canonical(str(exact.residue(node, modulus)), _reduced(modulus, shown(raw)))
    return integer(value, raw, modulus)


def integer(value: Fraction, raw: str, modulus: int | None) -> Canonical:
    """The canonical form of a value that is known exactly."""
    if value.denominator != 1:
        return Canonical(None, f"not an integer: {_brief(value, raw)}")
    number = value.numerator
    if modulus is not None:
        note = None if 0 <= number < modulus else _reduced(modulus, _brief(value, raw))
        return Canonical(str(number % modulus), note)
    if number.bit_length() >= MAX_DIGITS * 3.32:
        return Canonical(None, f"too large: {shown(raw)}")
    return Canonical(str(number), "negative" if number < 0 else None)


def _brief(value: Fraction, raw: str) -> str:
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    return str(value) if bits < _SHOWN_DIGITS * 3.32 else shown(raw)


def _reduced(modulus: int, source: str) -> str:
    return f"reduced modulo {modulus} from {source}"
