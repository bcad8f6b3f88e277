r"""Whether two answers are equal. Knows no processes.

Comparing is a generator that yields the pairs of LaTeX texts which only algebra can decide and is
sent their verdicts, so that the same rules serve with and without a worker. Conventions:

- `50%` equals both 0.5 and 50; `50%` and `0.5%` differ.
- A bare list has no order, except beside a pair, which has one; sets have none.
- `x = 5` equals 5. `x = 5` and `y = 5` are equal only if algebra says so, and it does not.
- `52_8` equals `52`, whose base may be understood, and not its value 42.
- `xy` equals `yx`, but `AB` is not `ab`; `yes` and `Yes` are one word.
- `(C) 12` equals both its letter and its value; two such answers must agree in both.
"""

import math
import re
from collections.abc import Generator, Sequence

from aimo2.answers import exact
from aimo2.answers.forms import (
    Choice,
    Form,
    Leaf,
    Named,
    Number,
    Several,
    Words,
    is_product,
    written,
)

Asking = Generator[tuple[str, str], bool, bool]

_UNREADABLE = re.compile(r"\d_\{|\\text\{|\\dots")
_IN_BASE = re.compile(r"(\d+)_\{\d+\}")
_NEAR = 1e-9
"""Relative; floats of short expressions are good to about 1e-13."""
_INFINITIES = ("\\infty", "-\\infty")
_LETTER = re.compile(r"\\[A-Za-z]+|([A-Za-z])")


def compare(a: Form, b: Form) -> Asking:
    """Whether the answers are equal; yields what only algebra can tell. Symmetric."""
    if isinstance(a, Choice) or isinstance(b, Choice):
        return (yield from _compare_choices(a, b))
    if isinstance(a, Named) or isinstance(b, Named):
        return (yield from _compare_named(a, b))
    if isinstance(a, Several) or isinstance(b, Several):
        return (yield from _compare_several(a, b))
    if isinstance(a, Number) and isinstance(b, Number):
        return _same_number(a, b)
    if written(a) == written(b) or _same_digits(a, b) or _same_digits(b, a):
        return True
    if _hopeless(a, b) or _hopeless(b, a):
        return False
    return (yield from _ask(a, b))


def _ask(a: Form, b: Form) -> Asking:
    """Leave it to algebra, unless its reader would mix up capital and small letters."""
    left, right = written(a), written(b)
    letters = set(_LETTER.findall(f"{left} {right}")) - {""}
    if any(letter.swapcase() in letters for letter in letters):
        return False
    return (yield left, right)


def _same_number(a: Number, b: Number) -> bool:
    if a.percent == b.percent:
        return a.value == b.value
    percent, plain = (a, b) if a.percent else (b, a)
    return plain.value in (percent.value, percent.value / 100)


def _same_digits(a: Form, b: Form) -> bool:
    """Whether `a` names the base of `b`'s digits, as in 52_{8} and 52."""
    match = _IN_BASE.fullmatch(a.latex) if isinstance(a, Leaf) else None
    return match is not None and match[1] == written(b)


def _hopeless(a: Form, b: Form) -> bool:
    """Whether no algebra can make them equal: words, other bases, values far apart."""
    if isinstance(a, Words) and isinstance(b, Words):
        return not (is_product(a.text) and is_product(b.text))
    if isinstance(a, Words):
        return len(a.text) > 3
    if isinstance(a, Leaf) and (a.opaque or _UNREADABLE.search(a.latex)):
        return True
    if isinstance(a, Leaf) and a.latex in _INFINITIES:
        return True
    near, other = _about(a), _about(b)
    if near is None or other is None:
        return False
    if math.isinf(near) or math.isinf(other):
        return near != other
    return abs(near - other) > _NEAR * max(abs(near), abs(other))


def _about(form: Form) -> float | None:
    if isinstance(form, Leaf):
        return form.about
    return exact.approximate(form.value) if isinstance(form, Number) and not form.percent else None


def _compare_choices(a: Form, b: Form) -> Asking:
    if isinstance(a, Choice) and isinstance(b, Choice):
        return a.letter == b.letter and (yield from compare(a.body, b.body))
    choice, other = (a, b) if isinstance(a, Choice) else (b, a)
    assert isinstance(choice, Choice)
    return other == Words(choice.letter) or (yield from compare(choice.body, other))


def _compare_named(a: Form, b: Form) -> Asking:
    if isinstance(a, Named) and isinstance(b, Named):
        if a.name == b.name:
            return (yield from compare(a.body, b.body))
        bodies = (a.body, b.body)  # y = x is x = y, but x = 5 is not y = 5.
        return all(map(_is_plain, bodies)) and (yield from _ask(a, b))
    named, other = (a, b) if isinstance(a, Named) else (b, a)
    assert isinstance(named, Named)
    if isinstance(other, Leaf) and "=" in other.latex:
        return _is_plain(named.body) and not other.opaque and (yield from _ask(a, b))
    return (yield from compare(named.body, other))


def _is_plain(form: Form) -> bool:
    letter = isinstance(form, Words) and len(form.text) == 1
    return letter or isinstance(form, Number) or (isinstance(form, Leaf) and not form.opaque)


def _compare_several(a: Form, b: Form) -> Asking:
    several, other = (a, b) if isinstance(a, Several) else (b, a)
    assert isinstance(several, Several)
    if isinstance(other, Number) and other.listing is not None:
        return (yield from _compare_several(several, other.listing))
    if isinstance(other, Leaf) and "matrix" in other.latex:
        return (yield from _ask(several, other))
    if not isinstance(other, Several):
        alone = several.kind in ("", "{}") and len(several.items) == 1
        return alone and (yield from compare(several.items[0], other))
    kinds = {several.kind, other.kind}
    if len(several.items) != len(other.items) or not _comparable(kinds):
        return False
    if kinds <= {"", "{}", "cup"}:
        return (yield from _same_items(several.items, other.items))
    return (yield from _same_order(several.items, other.items))


def _comparable(kinds: set[str]) -> bool:
    return len(kinds) == 1 or kinds in ({"", "{}"}, {"", "()"}, {"names", "()"}, {"names", ""})


def _same_order(a: Sequence[Form], b: Sequence[Form]) -> Asking:
    for left, right in zip(a, b, strict=True):
        if isinstance(left, Named) and isinstance(right, Named) and left.name != right.name:
            return False
        if not (yield from compare(left, right)):
            return False
    return True


def _same_items(a: Sequence[Form], b: Sequence[Form]) -> Asking:
    """Whether each item of the one has its own equal in the other."""
    rest = list(b)
    for item in a:
        for index, other in enumerate(rest):
            if (yield from compare(item, other)):
                del rest[index]
                break
        else:
            return False
    return True
