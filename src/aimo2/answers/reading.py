r"""Read an answer as a value. Knows notation and its habits; asks no algebra. Conventions:

- `1,234` is a number, also equal to the list 1, 234; inside brackets a comma separates, so
  `(1,234)` is a pair.
- `1\frac{4}{5}` is a mixed number. Decimals are exact: 0.333 is not 1/3.
- Units, currency signs and degree signs are dropped; `5 million` is multiplied out.
- `x = 3 or x = 5` is the list 3, 5; `x = 1, y = 2` keeps its names. `x > 5` is an interval.
- `1 \pm \sqrt{2}` is a list of two.
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from aimo2.answers import exact
from aimo2.answers.forms import Choice, Form, Leaf, Named, Number, Several, Words, is_product
from aimo2.answers.grammar import number, parse
from aimo2.answers.latex import CLOSERS, OPENERS, Unreadable, clean, close_of, joined, tokens

_MAX_ITEMS = 64
_MAX_TOKENS = 250
_MAX_BARS = 6
_MAX_BITS = 3_320
"""Of a fraction that is kept as a number: about a thousand digits."""
_RELATIONS = frozenset({"<", ">", "\\leq", "\\geq", "=", "\\neq", "\\approx", "\\equiv"})
_MULTIPLES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MULTIPLES |= dict.fromkeys("万萬", 10**4) | dict.fromkeys("亿億", 10**8)
_UNIT_NAMES = (
    "mm cm dm km ft yd mi in kg mg lb lbs oz ml hr hrs min mins sec secs mph kph sq cu deg rad usd"
)
_ORDINAL_ENDS = ("st", "nd", "rd", "th")
_UNITS = frozenset((*_UNIT_NAMES.split(), *_ORDINAL_ENDS))
_ORDINALS = (*_ORDINAL_ENDS, *(f"\\text{{{end}}}" for end in _ORDINAL_ENDS))
_OTHER_WORDS = (
    "then when else with where over times plus minus unless maybe or and not if to than more less"
    " least most about mod remainder"
)
_NOT_UNITS = frozenset(_OTHER_WORDS.split())
_BOUNDS = re.compile("[以或和至余餘多约約半]|左右")
"""In Chinese words behind a number: it is a bound, one of several, or not the whole of it."""
_ALGEBRAIC = re.compile(
    r"[A-Za-z]{1,3}|\\(?!dots|prime|text)[A-Za-z]+|\\[{}|\\]|[-+*/^_()\[\]{}|!=<>,%&]|!!"
)
"""A token that algebra knows; up to three letters in a row may be a product."""
_LETTER = re.compile(r"\(?\s*([A-Z])\s*\)?[.:]?")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+")


def read(raw: str) -> Form:
    """What the answer says. Raises `Unreadable` where it says nothing."""
    form = _form(tokens(raw))
    if isinstance(form, Number) and _GROUPED.fullmatch(text := clean(raw)):
        items = tuple(Number(Fraction(int(part))) for part in text.split(","))
        return Number(form.value, form.percent, Several("", items))
    return form


def _form(found: Sequence[str]) -> Form:
    found = unwrapped(found)
    if not found:
        raise Unreadable("empty")
    letter, rest = option(found)
    if letter:
        return Choice(letter, _form(rest)) if rest else Words(letter)
    if found == ["\\emptyset"] or found == ["\\{", "\\}"]:
        return Several("{}", ())
    for kind, separators in (("", (",", ";")), ("cup", ("\\cup",))):
        parts = [part for part in split(found, separators) if part]
        if len(parts) > 1:
            return _several(kind, parts)
        if not parts:
            raise Unreadable("empty")
        found = parts[0]
    return _single(found)


def unwrapped(found: Sequence[str]) -> list[str]:
    """Without braces around the whole and without degree signs."""
    found = _without_degrees(found)
    while found and found[0] == "{" and close_of(found, 0) == len(found) - 1:
        found = found[1:-1]
    return found


def _without_degrees(found: Sequence[str]) -> list[str]:
    """Drops degree signs, and the scale behind the last one."""
    if list(found[-2:-1]) == ["\\circ"] and found[-1] in ("C", "F"):
        found = found[:-1]
    return [token for token in found if token != "\\circ"]


def split(found: Sequence[str], separators: Sequence[str]) -> list[list[str]]:
    """The parts between separators that stand outside all brackets."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in found:
        depth += (token in OPENERS or token == "\\begin") - (token in CLOSERS or token == "\\end")
        if depth == 0 and token in separators:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def option(found: Sequence[str]) -> tuple[str, list[str]]:
    r"""The letter of a multiple-choice option and the tokens behind it: `(C) 12`, `\text{C}`."""
    if found[0].startswith("\\text{"):
        match = _LETTER.fullmatch(found[0][6:-1])
        return (match[1], list(found[1:])) if match else ("", list(found))
    if len(found) > 3 and found[0] == "(" and found[2] == ")" and found[1] in "ABCDE":
        return found[1], list(found[3:])
    return "", list(found)


def _several(kind: str, parts: Sequence[Sequence[str]]) -> Several:
    if len(parts) > _MAX_ITEMS:
        raise Unreadable(f"more than {_MAX_ITEMS} values")
    items: list[Form] = []
    for part in parts:
        item = _form(part)
        flat = isinstance(item, Several) and item.kind in ("", kind)
        items += item.items if isinstance(item, Several) and flat else [item]
    if kind == "" and all(_is_inequality(part) for part in parts):
        kind = "cup"
    return _without_names(kind, items)


def _without_names(kind: str, items: Sequence[Form]) -> Several:
    """Drop the one name that all share; order different ones by name, and keep them."""
    named = [item for item in items if isinstance(item, Named)]
    names = sorted({item.name for item in named})
    if len(names) == 1:
        bare = tuple(item.body if isinstance(item, Named) else item for item in items)
        return Several(kind, bare)
    if kind == "" and len(names) == len(items):
        return Several("names", tuple(sorted(named, key=_name)))
    return Several(kind, tuple(items))


def _name(item: Form) -> str:
    return item.name if isinstance(item, Named) else ""


def _single(found: list[str]) -> Form:
    if "\\in" in found and is_name(found[: found.index("\\in")]):
        return _form(found[found.index("\\in") + 1 :])
    interval = _interval(found)
    if interval is not None:
        return interval
    exactly, *roughly = split(found, ("\\approx",))
    if roughly and exactly:  # What stands before the sign is the answer: x = \\pi \\approx 3.14.
        return _form(roughly[-1] if is_name(exactly) else exactly)
    sides = split(found, ("=",))
    if len(sides) > 1 and is_name(sides[0]) and sides[-1]:
        return Named(joined(sides[0]), _form(sides[-1]))
    if len(sides) == 2 and is_name(sides[1]) and sides[0]:
        return Named(joined(sides[1]), _form(sides[0]))
    if len(sides) > 1 and all(sides):
        return _equation(found, sides)
    if found[0] in ("(", "[", "\\{") and close_of(found, 0) == len(found) - 1:
        return _bracketed(found)
    if found[0] == "\\begin":
        return _matrix(found)
    return _value(found)


def _equation(found: list[str], sides: Sequence[list[str]]) -> Form:
    """`9 + 8 + 6 = 23` is 23; any other equation is compared as one."""
    values = [_form(side) for side in sides]
    return values[0] if all(value == values[0] for value in values) else _value(found)


def is_name(found: Sequence[str]) -> bool:
    r"""`x`, `a_{1}`, `f(x)`, `\angle ABC`, `\text{Area}`, `(x, y)`: what one is called."""
    if found[:1] == ["("] and close_of(found, 0) == len(found) - 1:
        return all(map(is_name, split(found[1:-1], (",",))))
    return (
        0 < len(found) <= 8
        and (found[0].isalpha() or (found[0][0] == "\\" and found[0][1:2].isalpha()))
        and not any(token in _RELATIONS or token in "+-*/^!" for token in found)
        and found[0] not in ("\\frac", "\\sqrt", "\\binom", "\\begin")
    )


def _is_inequality(found: Sequence[str]) -> bool:
    return any(token in ("<", ">", "\\leq", "\\geq") for token in found)


def _interval(found: Sequence[str]) -> Several | None:
    r"""`x > 5`, `5 < x`, `-2 \leq x < 7` as intervals."""
    marks = [token for token in found if token in _RELATIONS]
    sides = split(found, marks)
    if not 1 <= len(marks) <= 2 or not _is_inequality(marks) or not all(sides):
        return None
    if len(sides) == 2 and _is_letter(sides[1]):
        sides, marks = sides[::-1], [_MIRRORED.get(marks[0], "=")]
    if len(sides) == 2 and _is_letter(sides[0]) and marks[0] in _MIRRORED:
        return _ray(marks[0], sides[1])
    if len(sides) == 3 and _is_letter(sides[1]):
        return _between(sides[0], marks, sides[2])
    return None


_MIRRORED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}


_GREEK_NAMES = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi"
    " rho sigma tau upsilon phi varphi chi psi omega"
    " Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega"
)
_GREEK = frozenset(f"\\{name}" for name in _GREEK_NAMES.split())


def _is_letter(found: Sequence[str]) -> bool:
    r"""`x`, `\theta`, `a_{1}`."""
    first, index = found[:1], found[1:]
    if index and (index[:2] != ["_", "{"] or close_of(index, 1) != len(index) - 1):
        return False
    return bool(first) and ((len(first[0]) == 1 and first[0].isalpha()) or first[0] in _GREEK)


def _ray(mark: str, bound: Sequence[str]) -> Several:
    closed = mark in ("\\leq", "\\geq")
    if mark in (">", "\\geq"):
        return Several("[)" if closed else "()", (_form(bound), Leaf("\\infty")))
    return Several("(]" if closed else "()", (Leaf("-\\infty"), _form(bound)))


def _between(low: Sequence[str], marks: Sequence[str], high: Sequence[str]) -> Several | None:
    if marks[0] in (">", "\\geq"):
        low, high, marks = high, low, [_MIRRORED.get(mark, "=") for mark in reversed(marks)]
    if not set(marks) <= {"<", "\\leq"}:
        return None
    kind = ("[" if marks[0] == "\\leq" else "(") + ("]" if marks[1] == "\\leq" else ")")
    return Several(kind, (_form(low), _form(high)))


def _bracketed(found: Sequence[str]) -> Form:
    kind = (found[0] + found[-1]).replace("\\", "")
    parts = [part for part in split(found[1:-1], (",", ";")) if part]
    if len(parts) < 2 and kind != "{}":
        return _value(found) if kind != "()" or not parts else _form(parts[0])
    if kind == "[]" and len(parts) > 2:  # Only two values can be an interval.
        kind = ""
    return Several(kind, _several(kind, parts).items if parts else ())


def _matrix(found: Sequence[str]) -> Form:
    start = close_of(found, 1) + 1
    if "\\end" not in found or "matrix" not in found[2]:
        return Leaf(joined(found))
    rows = split(found[start : found.index("\\end")], ("\\\\",))
    cells = [[_form(cell) for cell in split(row, ("&",)) if cell] for row in rows if row]
    if sum(map(len, cells)) > _MAX_ITEMS:
        raise Unreadable(f"more than {_MAX_ITEMS} values")
    return Several("matrix", tuple(Several("row", tuple(row)) for row in cells))


def _value(found: Sequence[str]) -> Form:
    text = _words(found)
    if text:
        return Words(text)
    body, percent = without_unit(found)
    if "\\pm" in body or "\\mp" in body:
        return _both_signs(body)
    sign = "\\%" if percent else ""
    try:
        node = parse(body)
        quantity = exact.value(node)
    except Unreadable:
        return Leaf(algebra(body) + sign, opaque=is_opaque(body))
    except exact.TooLarge:
        return Leaf(algebra(body) + sign, math.inf, is_opaque(body))
    except exact.Irrational:
        return Leaf(algebra(body) + sign, exact.approximate(node), is_opaque(body))
    return Number(quantity, percent) if _writable(quantity) else Leaf(algebra(body) + sign)


def _both_signs(body: Sequence[str]) -> Form:
    upper = {"\\pm": "+", "\\mp": "-"}
    lower = {"\\pm": "-", "\\mp": "+"}
    items = tuple(_value([signs.get(token, token) for token in body]) for signs in (upper, lower))
    return Several("", items)


def _writable(quantity: Fraction) -> bool:
    return max(quantity.numerator.bit_length(), quantity.denominator.bit_length()) < _MAX_BITS


def _words(found: Sequence[str]) -> str:
    if not all(token.startswith("\\text{") or token.isalpha() for token in found):
        return ""
    if len(found) > 1 and any(len(token) == 1 for token in found):
        return ""
    text = " ".join(token.removeprefix("\\text{").rstrip("}") for token in found).strip(" .,:;")
    return text if is_product(text) or len(text) == 1 else text.casefold()


def without_unit(found: Sequence[str]) -> tuple[list[str], bool]:
    """The tokens without label, unit and percent sign; whether there was a percent sign."""
    body, percent = list(found), False
    while len(body) > 1:
        if body[0].startswith("\\text{") and body[0].endswith(":}"):
            del body[0]
        elif body[-1] == "%" or _unit(body) in ("percent", "pct", "percentage", "per cent"):
            del body[-1]
            percent = True
        elif (word := _unit(body)) in _MULTIPLES:
            body[-1:] = ["*", str(_MULTIPLES[word])]
        elif word:
            del body[-1]
        elif _raised(body) and (_unit(body[:-4]) or body[-2] in _ORDINALS):
            del body[-4:]
        elif body[-1] == "/" and len(body) < len(found):
            del body[-1]
        else:
            break
    return body, percent


def _raised(body: Sequence[str]) -> bool:
    return list(body[-4:-2]) == ["^", "{"] and body[-1] == "}"


def _unit(body: Sequence[str]) -> str:
    """The last token as a unit's name; empty where it is none."""
    if len(body) < 2:
        return ""
    last = body[-1]
    if last.startswith("\\text{"):
        name = last[6:-1].casefold().strip(" .")
        other = _NOT_UNITS.intersection(name.split()) or _BOUNDS.search(name)
        return "" if other else name or "unit"
    known = last.lower() in _UNITS or (len(last) > 3 and last.lower() not in _NOT_UNITS)
    behind_value = body[-2][-1].isdecimal() or body[-2] in CLOSERS or len(body[-2]) > 3
    return last.casefold() if last.isalpha() and known and behind_value else ""


def algebra(body: Sequence[str]) -> str:
    """The tokens as LaTeX: decimals as fractions, a sign between factors, no plus at the start."""
    pieces: list[str] = []
    for token in body[1:] if list(body[:1]) == ["+"] and len(body) > 1 else body:
        before = pieces[-1] if pieces else "+"
        factor = _is_numeric(before) or before in (")", "\\pi")
        if (token == "(" and factor) or (before == ")" and _is_numeric(token)):
            pieces.append("*")
        pieces.append(_exact_text(token) if _is_numeric(token) else token)
    return joined(pieces)


def _is_numeric(token: str) -> bool:
    return token[0].isdecimal() or (token[0] == "." and len(token) > 1)


def _exact_text(token: str) -> str:
    if token.isdecimal():
        return token
    try:
        quantity = exact.value(number(token))
    except (Unreadable, exact.TooLarge):
        return token
    over, under = quantity.numerator, quantity.denominator
    return str(over) if under == 1 else f"\\frac{{{over}}}{{{under}}}"


def is_opaque(body: Sequence[str]) -> bool:
    """Whether readers of this would disagree, so that no reader is asked.

    `1/2x` and `1/2(3)`; `x2`; two numbers, or a number and a fraction, side by side; dots and
    primes; words; bars within bars; and what is too long to be an answer.
    """
    if len(body) > _MAX_TOKENS or body.count("|") > _MAX_BARS:
        return True
    if not all(_ALGEBRAIC.fullmatch(token) or _is_numeric(token) for token in body):
        return True
    for left, right in pairwise(body):
        beside = _is_numeric(right) or right == "\\frac"
        if beside and (_is_numeric(left) or (left.isalpha() and _is_numeric(right))):
            return True
        if right == "{" and (_is_numeric(left) or left.isalpha() or left == ")"):
            return True
    quotients = [index for index, token in enumerate(body) if token == "/"]
    return any(_goes_on(body, index + 1) for index in quotients)


def _goes_on(body: Sequence[str], start: int) -> bool:
    """Whether the divisor that starts there is followed by a factor without a sign."""
    index = start
    while index < len(body) and body[index] in ("+", "-"):
        index += 1
    if index < len(body) and body[index] in OPENERS:
        index = close_of(body, index)
    index += 1
    while index < len(body) and body[index] in ("^", "!"):
        index = close_of(body, index + 1) + 1 if body[index] == "^" else index + 1
    following = body[index] if index < len(body) else ""
    return bool(following) and (
        _is_numeric(following) or following.isalpha() or following in ("(", "\\pi", "\\sqrt")
    )
