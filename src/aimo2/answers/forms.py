r"""What an answer can be: number, words, name = value, list, interval, set, or bare LaTeX.

`written` gives one text for each value, as far as it is known. Knows no notation but its own.
"""

from dataclasses import dataclass
from fractions import Fraction

from aimo2.answers.latex import WORDS


@dataclass(frozen=True, slots=True)
class Number:
    """`value`: as written, before a percent sign is applied. `listing`: `1,234` read as a list."""

    value: Fraction
    percent: bool = False
    listing: "Several | None" = None


@dataclass(frozen=True, slots=True)
class Words:
    """Text that is no mathematics, case-folded; up to three letters may be a product after all.

    Their case is kept, unless they are a common word.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """LaTeX that only algebra can compare.

    `about`: its approximate value, where it has one. `opaque`: notation without one agreed
    meaning (`1/2x`, `x2`, `f'`), equal to nothing but itself.
    """

    latex: str
    about: float | None = None
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """`name = body`."""

    name: str
    body: "Form"


@dataclass(frozen=True, slots=True)
class Choice:
    """A lettered option together with what it says."""

    letter: str
    body: "Form"


@dataclass(frozen=True, slots=True)
class Several:
    r"""More than one value. `kind`: its brackets (`()`, `[)`, `{}` for a set), `""` for a bare
    list, `cup` for a union, `matrix` and its `row`s.
    """

    kind: str
    items: "tuple[Form, ...]"


_SHORT_WORDS = (
    "yes no odd one two six ten all any not red dne max min mon tue wed thu fri sat sun jan feb mar"
    " apr may jun jul aug sep oct nov dec"
)
_NO_PRODUCTS = frozenset((*_SHORT_WORDS.split(), *WORDS))


def is_product(text: str) -> bool:
    """Whether these are two or three letters that may be multiplied, and no common word."""
    letters = len(text) in (2, 3) and text.isalpha() and text.isascii()
    return letters and text.casefold() not in _NO_PRODUCTS


Form = Number | Words | Leaf | Named | Choice | Several


def written(form: Form) -> str:
    """One text for each value, as far as it is known; `read` takes it back."""
    match form:
        case Number():
            return f"{form.value}%" if form.percent else str(form.value)
        case Words():
            parts = form.text.split()
            plain = all(part.isalpha() and part.isascii() and part not in WORDS for part in parts)
            return form.text if plain else f"\\text{{{form.text}}}"
        case Leaf():
            return form.latex
        case Named():
            return f"{form.name} = {written(form.body)}"
        case Choice():
            return f"({form.letter}) {written(form.body)}"
        case Several():
            return _written_several(form)


def _written_several(form: Several) -> str:
    items = [written(item) for item in form.items]
    if form.kind == "matrix":
        rows = " \\\\ ".join(items)
        return f"\\begin{{pmatrix}}{rows}\\end{{pmatrix}}"
    if form.kind == "row":
        return " & ".join(items)
    if form.kind == "cup":
        return " \\cup ".join(items)
    if form.kind == "{}":
        inside = ", ".join(sorted(items))
        return f"\\{{{inside}\\}}" if items else "\\emptyset"
    brackets = form.kind if len(form.kind) == 2 else "  "
    return f"{brackets[0]}{', '.join(items)}{brackets[1]}".strip()
