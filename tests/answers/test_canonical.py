from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.answers import canonical, extract

# Each writes an integer in one style; `{}` is the number.
STYLES = [
    "{}",
    " {} ",
    "{}.",
    "{},",
    "{}.0",
    "{}.000",
    "**{}**",
    "__{}__",
    "*{}*",
    "`{}`",
    '"{}"',
    "${}$",
    "$${}$$",
    r"\({}\)",
    r"\[{}\]",
    r"**\({}\)**",
    "$**{}**$",
    "({})",
    "{{{}}}",
    "{{{{{}}}}}",
    r"\left({}\right)",
    r"\text{{{}}}",
    r"\mathbf{{{}}}",
    r"\boldsymbol{{{}}}",
    r"\mathrm{{{}}}",
    r"\textbf{{{}}}",
    r"\boxed{{{}}}",
    r"\boxed{{\text{{{}}}}}",
    r"\underline{{{}}}",
    r"\displaystyle {}",
    r"\color{{red}}{}",
    r"\textcolor{{blue}}{{{}}}",
    r"\quad {}\quad",
    r"\,{}\,",
    "~{}",
    r"{}\\",
    "\u200b{}\ufeff",
    "n = {}",
    "n={}",
    "x_1 = {}",
    "f(2) = {}",
    "m + n = {}",
    "{} = n",
    r"\text{{Answer: }}{}",
    r"N \equiv {} \pmod{{10^{{30}}}}",
    r"n \approx {}",
    r"{}^\circ",
    r"{}^{{\circ}}",
    "{}°",
    "{}%",
    r"{}\%",
    "${}",
    r"\${}",
    "€{}",
    r"{} \text{{ cm}}",
    r"{}\text{{ cm}}^2",
    r"{} \text{{ square units}}",
    r"{} \mathrm{{~km}}",
    r"{} \mbox{{ inches}}^{{3}}",
    r"{}\ \text{{m/s}}",
    "{} cm",
    "{} apples",
    "{} dollars",
    r"{}^{{\text{{th}}}}",
    r"{}\text{{种}}",
    r"{}\text{{ 个}}",
    "{}种",
    "{} 通り。",
    "${}$개",
    r"{}\,\mathrm{{m}}",
    r"{} \mathrm{{~m}}^2",
    r"{}\,\mathrm{{km/h}}",
    r"{}\,\mathrm{{m}}/\mathrm{{s}}",
    r"{}\,\mathrm{{m/s^2}}",
    r"{}\text{{ m}}^{{2}}",
    r"{}\text{{ m^2}}",
    r"{}^\circ\mathrm{{C}}",
    r"\mathbf{{(C)}}\ {}",
    r"\mathrm{{(C)}}\ {}",
    r"\textbf{{(C) }}{}",
    "{}/1",
    r"\frac{{{}}}{{1}}",
    r"\dfrac{{{}}}1",
    r"{} \cdot 1",
    r"{} \times 10^0",
    "{} + 0",
    "{}e0",
    r"\lfloor {} \rfloor",
    r"\left\lceil {} \right\rceil",
]
PLAIN_STYLES = [style for style in STYLES if "10^{{30}}" not in style]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("number", [0, 5, 73, 1234567])
def test_an_integer_is_read_in_every_style(style: str, number: int) -> None:
    assert canonical(style.format(number), "int").value == str(number)


@pytest.mark.parametrize("style", PLAIN_STYLES)
def test_every_style_gives_the_same_expression(style: str) -> None:
    value = canonical(style.format(73), "expr").value
    assert value in ("73", "73%", "m+n=73", "(C) 73")


GROUPINGS: list[Callable[[int], str]] = [
    lambda n: f"{n:,}",
    lambda n: f"{n:,}".replace(",", "{,}"),
    lambda n: f"{n:,}".replace(",", r",\!"),
    lambda n: f"{n:,}".replace(",", r"\,"),
    lambda n: f"{n:,}".replace(",", r"\;"),
    lambda n: f"{n:,}".replace(",", " "),
    lambda n: f"{n:,}".replace(",", "~"),
    lambda n: f"{n:,}".replace(",", "\u202f"),
    lambda n: f"{n:,}".replace(",", "_"),
    lambda n: f"{n:,}".replace(",", "'"),
    lambda n: f"{n:,}".replace(",", "，"),
    lambda n: str(n).translate(str.maketrans("0123456789-", "٠١٢٣٤٥٦٧٨٩-")),
    lambda n: str(n).translate(str.maketrans("0123456789-", "０１２３４５６７８９－")),
    lambda n: str(n).translate(str.maketrans("0123456789", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗")),
    lambda n: str(n).replace("-", "−"),
    lambda n: str(n).replace("-", "–"),
    lambda n: f"{n:+d}",
    lambda n: f"00{n}" if n >= 0 else str(n),
    lambda n: f"\\frac{{{3 * n}}}{{3}}",
    lambda n: f"{2 * n}/2",
    lambda n: f"\\sqrt{{{n * n}}}" if n >= 0 else f"-\\sqrt{{{n * n}}}",
    lambda n: f"{n - 7}+7",
    lambda n: f"{n}.0e0",
    lambda n: f"{n}0E-1",
]


@given(n=st.integers(-(10**12), 10**12), style=st.sampled_from(GROUPINGS))
def test_any_integer_is_read_in_any_grouping(n: int, style: Callable[[int], str]) -> None:
    assert canonical(style(n), "int").value == str(n)


@given(
    n=st.integers(0, 10**9),
    style=st.sampled_from([style for style in PLAIN_STYLES if not set("$(e") & set(style)]),
    group=st.sampled_from(GROUPINGS[:6]),
)
def test_any_integer_is_read_out_of_a_box(n: int, style: str, group: Callable[[int], str]) -> None:
    found = extract(f"so $\\boxed{{{style.format(group(n))}}}$ as asked")
    assert found is not None
    assert canonical(found.raw, "int").value == str(n)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("2^{10}", "1024"),
        ("2^10", "1024"),
        ("2**10", "1024"),
        ("2¹⁰", "1024"),
        ("10^3+7", "1007"),
        ("5!", "120"),
        (r"\binom{6}{3}", "20"),
        ("7.3e1", "73"),
        (r"7.3 \times 10^{1}", "73"),
        ("√16", "4"),
        (r"\frac{20!}{18!}", "380"),
        ("1001001_2", "1001001"),
        ("52_8", "52"),
        ("N = 52_{8}", "52"),
        ("73_{10}", "73"),
        ("5 million", "5000000"),
        (r"5 \text{ million}", "5000000"),
        ("2^{100}", str(2**100)),
        ("9 + 8 + 6 = 23", "23"),
        (r"\frac{4}{2} = 2", "2"),
        (r"\text{-5}", "-5"),
        (r"1024 \approx 1.02\times 10^3", "1024"),
        (r"2^{10} = 1024 \approx 1000", "1024"),
        (r"m+n \approx 73", "73"),
        (r"x_1 \approx 73", "73"),
        ("5万", "50000"),
        (r"5\text{万元}", "50000"),
        ("3亿人", "300000000"),
    ],
)
def test_arithmetic_is_carried_out(raw: str, value: str) -> None:
    assert canonical(raw, "int").value == value


@pytest.mark.parametrize(
    ("raw", "modulus", "value", "note"),
    [
        ("41040", 1000, "40", "reduced modulo 1000 from 41040"),
        ("-5", 1000, "995", "reduced modulo 1000 from -5"),
        ("-5", None, "-5", "negative"),
        ("0", 1000, "0", None),
        ("999", 1000, "999", None),
        ("-0", None, "0", None),
        ("3/2", None, None, "not an integer: 3/2"),
        ("3/2", 1000, None, "not an integer: 3/2"),
        ("72.9999", None, None, "not an integer: 729999/10000"),
        ("7^{7^7}", 1000, "343", "reduced modulo 1000 from 7^{7^7}"),
        ("10**(10**9)", None, None, "too large: 10**(10**9)"),
        ("10**(10**9)", 1000, "0", "reduced modulo 1000 from 10**(10**9)"),
        ("10^{-10^9}", 1000, None, "too large: 10^{-10^9}"),
        (r"\frac{10^{20000}}{3}", 1000, None, r"not an integer: \frac{10^{20000}}{3}"),
        ("9" * 1001, None, None, "too large: " + "9" * 59 + "…"),
        ("9" * 1001, 1000, "999", "reduced modulo 1000 from " + "9" * 59 + "…"),
        (r"\sqrt{2}", None, None, r"not an integer: \sqrt{2}"),
        ("x + 1", None, None, "not a number: x + 1"),
        ("3, 5", None, None, "more than one value: 3, 5"),
        (r"\text{no solution}", None, None, r"not a number: \text{no solution}"),
        ("", None, None, "empty"),
        ("73以上", None, None, "not a number: 73以上"),
        (r"3\text{个半}", None, None, r"not a number: 3\text{个半}"),
        (r"3\mathrm{i}", None, None, r"not a number: 3\mathrm{i}"),
        (r"\frac{10}{3} \approx 3", None, None, "not an integer: 10/3"),
        ("(73", None, None, "a bracket is not closed or not opened: (73"),
        ("1/0", None, None, "not a number: 1/0"),
    ],
)
def test_what_is_odd_is_explained(
    raw: str, modulus: int | None, value: str | None, note: str | None
) -> None:
    result = canonical(raw, "int", modulus)
    assert (result.value, result.note) == (value, note)


@pytest.mark.parametrize("raw", ["5 6", "1/2(6)", "7{3}", "73 or 74", "73x", "1,2,3", "x2"])
@pytest.mark.parametrize("modulus", [None, 1000])
def test_an_ambiguous_integer_is_refused_and_asked_of_nobody(raw: str, modulus: int | None) -> None:
    result = canonical(raw, "int", modulus)
    assert result.value is None
    assert result.question is None or raw == "73x"


@given(st.integers(), st.integers(1, 10**6))
def test_the_modulus_gives_the_residue_of_any_integer(n: int, modulus: int) -> None:
    result = canonical(str(n), "int", modulus)
    assert result.value == str(n % modulus)
    assert (result.note is None) == (0 <= n < modulus)


def test_a_modulus_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more, not 0"):
        canonical("73", "int", 0)


def test_a_note_is_one_short_printable_line() -> None:
    note = canonical("x\n\x1b[31m" + "y" * 1000, "int").note
    assert note is not None
    assert note.isprintable()
    assert len(note) < 100


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("0.5", "1/2"),
        (r"\frac12", "1/2"),
        ("-.5", "-1/2"),
        (r"50\%", "50%"),
        (r"1\frac{4}{5}", "9/5"),
        ("x = 5", "5"),
        ("y = 2x + 3", "y = 2x+3"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{\pi}{2})"),
        (r"\{3, 1, 2\}", r"\{1, 2, 3\}"),
        ("1,-2", "1, -2"),
        ("x=3 or x=5", "3, 5"),
        ("(3,4]", "(3, 4]"),
        ("x > 5", r"(5, \infty)"),
        (r"-2 \le x < 7", "[-2, 7)"),
        (r"x \in [-2,7]", "[-2, 7]"),
        (r"(0,9) \cup (9,36)", r"(0, 9) \cup (9, 36)"),
        (r"\text{(C)}", "C"),
        ("(C)", "C"),
        (r"\text{Evelyn}", "evelyn"),
        (r"\text{no solution}", r"no solution"),
        (r"\varnothing", r"\emptyset"),
        (r"3 \sqrt {13}", r"3\sqrt{13}"),
        (r"\dfrac{\sqrt3}3", r"\frac{\sqrt{3}}{3}"),
        (r"0.5\pi", r"\frac{1}{2}\pi"),
        ("52_8", "52_{8}"),
        ("AB", "AB"),
        ("Yes", "yes"),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
        (r"\begin{pmatrix} 1 \\ 2/4 \end{pmatrix}", r"\begin{pmatrix}1 \\ 1/2\end{pmatrix}"),
    ],
)
def test_an_expression_has_one_text(raw: str, value: str) -> None:
    assert canonical(raw, "expr").value == value
    assert canonical(value, "expr").value == value


PIECES = st.sampled_from(
    [
        *"0123456789xyC+-*/^_(){}[],=<>|!%.:; ",
        r"\frac",
        r"\sqrt",
        r"\text{a b}",
        r"\{",
        r"\}",
        r"\pi",
        r"\left",
        r"\right",
        r"\cup",
        r"\infty",
        r"\pm",
        "or",
        "cm",
        r"\circ",
        r"\begin{pmatrix}",
        "&",
    ]
)


@given(st.lists(PIECES, max_size=14).map("".join))
def test_the_canonical_text_is_its_own_canonical_text(raw: str) -> None:
    for answer_type in ("int", "expr"):
        value = canonical(raw, answer_type).value
        if value is not None:
            assert canonical(value, answer_type).value == value


@given(st.text(max_size=40))
def test_any_text_has_a_value_or_a_note(raw: str) -> None:
    for modulus in (None, 1000):
        result = canonical(raw, "int", modulus)
        assert result.value is not None or result.note
    result = canonical(raw, "expr")
    assert result.value or result.note
