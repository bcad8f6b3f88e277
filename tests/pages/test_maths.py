import unicodedata
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as some

from aimo2.pages.maths import Unreadable, mathml

TAGS = {
    "math", "mrow", "mi", "mo", "mn", "mtext", "mfrac", "msqrt", "mroot", "msup", "msub", "msubsup",
    "munder", "mover", "munderover", "mspace", "mtable", "mtr", "mtd",
}  # fmt: skip
ATTRIBUTES = {"display", "width", "class", "accent", "stretchy", "linethickness"}


def spoken(source: str) -> str:
    """The formula's tags and texts, without rows that only group."""
    text = mathml(source).removeprefix("<math>").removesuffix("</math>")
    return text.replace("<mrow>", "").replace("</mrow>", "")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (r"\frac12", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        ("x^23", "<msup><mi>x</mi><mn>2</mn></msup><mn>3</mn>"),
        ("a_1^2", "<msubsup><mi>a</mi><mn>1</mn><mn>2</mn></msubsup>"),
        ("f'", "<msup><mi>f</mi><mo>′</mo></msup>"),
        (r"\sqrt[3]{x}", "<mroot><mi>x</mi><mn>3</mn></mroot>"),
        (r"\sum_{i}^n", "<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover>"),
        (r"\alpha\le\Omega", "<mi>α</mi><mo>≤</mo><mi>Ω</mi>"),
        (r"x<y", "<mi>x</mi><mo>&lt;</mo><mi>y</mi>"),
        (r"\text{if }n", "<mtext>if </mtext><mi>n</mi>"),
        (r"\mathbb{Z}", "<mi>ℤ</mi>"),
        (r"\left\{x\right.", '<mo stretchy="true">{</mo><mi>x</mi>'),
        (r"\not=", "<mo>≠</mo>"),
        ("1,234.5", "<mn>1,234.5</mn>"),
        ("a-b", "<mi>a</mi><mo>−</mo><mi>b</mi>"),
        (r"\{1\}", "<mo>{</mo><mn>1</mn><mo>}</mo>"),
    ],
)
def test_what_models_write_is_read(source: str, wanted: str) -> None:
    assert unicodedata.normalize("NFC", spoken(source)) == wanted


@pytest.mark.parametrize("name", ["pmatrix", "cases", "aligned", "matrix"])
def test_tables_keep_their_shape(name: str) -> None:
    tree = ElementTree.fromstring(mathml(rf"\begin{{{name}}} 1 & 2 \\ 3 & 4 \end{{{name}}}"))
    rows = list(tree.iter("mtr"))
    assert [["".join(cell.itertext()) for cell in row] for row in rows] == [["1", "2"], ["3", "4"]]


@pytest.mark.parametrize(
    "source",
    [
        r"\href{javascript:alert(1)}{x}", r"\style{x}{y}", r"\unknown", r"\frac{", "}{", "a^b^c",
        r"\left(x", r"\begin{tikzpicture}\end{tikzpicture}", r"\begin{cases}1\end{aligned}",
        r"\text{$x$}", r"\sqrt[", "%", "{" * 100, r"\frac" * 1000, "x^" * 500, r"\left<script>x",
    ],
)  # fmt: skip
def test_the_rest_is_unreadable_and_says_so(source: str) -> None:
    with pytest.raises(Unreadable):
        mathml(source)


PIECES = [
    "{", "}", "^", "_", "&", "\\\\", "\\frac", "\\sqrt", "[", "]", "x", "12", "\\text", "<", ">",
    "\\left", "\\right", "(", ".", "\\begin{cases}", "\\end{cases}", "'", "\\not", "\\pmod", " ",
    "\\mathbb", "\\hat", "\\sum", "<script>", "\\overset", "\\boxed", "é", "\\", "$",
]  # fmt: skip


@given(some.lists(some.sampled_from(PIECES), max_size=25).map("".join) | some.text(max_size=40))
def test_anything_gives_well_formed_mathml_of_our_own_tags_or_is_unreadable(source: str) -> None:
    try:
        written = mathml(source)
    except Unreadable:
        return
    if any(ord(char) < 32 for char in source):
        return  # `visible` has replaced them before, in a page.
    for element in ElementTree.fromstring(written).iter():
        assert element.tag in TAGS
        assert element.attrib.keys() <= ATTRIBUTES
