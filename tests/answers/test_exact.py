import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.answers import exact
from aimo2.answers.grammar import Call, Node, parse
from aimo2.answers.latex import Unreadable, tokens

SMALL = st.integers(-30, 30)


def value(text: str) -> Fraction:
    return exact.value(parse(tokens(text)))


def residue(text: str, modulus: int) -> int:
    return exact.residue(parse(tokens(text)), modulus)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2^10", 1024),
        ("-2^2", -4),
        ("(-2)^3", -8),
        ("2^3^2", 512),
        ("2^{-1}", Fraction(1, 2)),
        ("4^{1/2}", 2),
        ("(8/27)^{2/3}", Fraction(4, 9)),
        ("(-1)^{1001}", -1),
        ("1^{10^9}", 1),
        ("0^0", 1),
        ("0^5", 0),
        (r"\sqrt{144}", 12),
        (r"\sqrt[3]{-27}", -3),
        (r"\sqrt{\frac{9}{4}}", Fraction(3, 2)),
        ("5!", 120),
        ("0!", 1),
        ("7!!", 105),
        ("(3!)!", 720),
        (r"\binom{6}{3}", 20),
        (r"\binom{3}{6}", 0),
        (r"{10 \choose 2}", 45),
        (r"\lfloor -3.5 \rfloor", -4),
        (r"\lceil 3.2 \rceil", 4),
        ("|-7|", 7),
        ("1/2*3", Fraction(3, 2)),
        ("2(3)(4)", 24),
        (r"1\frac{4}{5}", Fraction(9, 5)),
        (r"-1\frac{4}{5}", Fraction(-9, 5)),
        ("137 1/2", Fraction(275, 2)),
        (r"2\cdot\frac{5}{3}", Fraction(10, 3)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("7.3e1", 73),
        ("7.3E-1", Fraction(73, 100)),
        (r"1{,}234.5", Fraction(2469, 2)),
        ("17 mod 5", 2),
        (r"2^{100} \bmod 1000", 376),
        ("73 (mod 1000)", 73),
        (r"\frac{20!}{18!}", 380),
    ],
)
def test_arithmetic_has_its_value(text: str, expected: int | Fraction) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "7 3",
        "x",
        "1/2(3)",
        "7{3}",
        "1/0",
        r"\frac{1}{0}",
        "0^{-1}",
        "(-1)!",
        "1+",
        "(1",
        "7 mod 0",
        "1/2 mod 7",
        r"\binom{-1}{2}",
        "(-10^{5})!!",
        "3!!!!!!!!!!!!",
        "2" + "^2" * 20,
        "|" * 40 + "1" + "|" * 40,
        "1 mod 2 mod 3",
        "1e5x",
        "1:2",
    ],
)
def test_what_is_no_arithmetic_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        value(text)


@pytest.mark.parametrize("text", [r"\sqrt{2}", r"\pi", "2^{1/2}", r"\sqrt{-4}", r"\sqrt[99]{2}"])
def test_an_irrational_value_is_not_rounded(text: str) -> None:
    with pytest.raises(exact.Irrational):
        value(text)


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^9}",
        "99999!",
        "10^{10^{10}}",
        "1e999999999",
        "1e-999999999",
        r"\binom{10^9}{10^6}",
        "2^{32000}*2^{32000}",
        "(9!)!",
    ],
)
def test_a_value_with_too_many_digits_is_not_computed(text: str) -> None:
    with pytest.raises(exact.TooLarge):
        value(text)


@pytest.mark.parametrize(
    ("text", "modulus", "expected"),
    [
        ("7^{7^7}", 1000, pow(7, 7**7, 1000)),
        ("2^{10^9}", 1000, pow(2, 10**9, 1000)),
        ("-3^{50000}", 1000, -pow(3, 50000, 1000) % 1000),
        ("3^{50000}-2^{50000}", 997, (pow(3, 50000, 997) - pow(2, 50000, 997)) % 997),
        ("6^{50000}*7", 10, 2),
        (r"\frac{10^{20000}-1}{9}", 1000, 111),
        (r"\frac{10^{20000}-1}{-9}", 1000, 889),
        ("100000!", 1000, 0),
        ("(10^{10^5})!", 1000, 0),
        ("9000!", 9001, 9000),  # Wilson's theorem; 9001 is prime
        (r"7^{7^7} \bmod 1000", 50, 43),
        ("2^{2^{2^{2^{2^2}}}}", 10**9 + 7, pow(2, pow(2, 65536, 10**9 + 6), 10**9 + 7)),
        ("-5", 1000, 995),
        ("5", 1, 0),
    ],
)
def test_a_residue_is_right_where_the_value_is_too_large(
    text: str, modulus: int, expected: int
) -> None:
    assert residue(text, modulus) == expected


@pytest.mark.parametrize("text", ["1/0", r"\frac{10^{20000}}{0}", "10^{20000}+(-1)!"])
def test_what_has_no_value_has_no_residue(text: str) -> None:
    with pytest.raises(Unreadable):
        residue(text, 1000)


def test_a_modulus_is_at_least_one() -> None:
    with pytest.raises(Unreadable, match="1 or more"):
        exact.residue(Fraction(5), 0)


@pytest.mark.parametrize("text", ["1/2", r"\frac{10^{20000}}{7}", "2.5"])
def test_a_fraction_has_no_residue(text: str) -> None:
    with pytest.raises(exact.NotInteger):
        residue(text, 1000)


@pytest.mark.parametrize(
    "text",
    [
        "2^{10^{20000}-10^{19999}}",  # the exponent might be anything after a subtraction
        "2^{-10^{20000}}",
        r"\frac{10^{20000}}{10^{20000}}",
        r"10^{20000}\cdot\frac{1}{2}",
        r"\lfloor 10^{20000}/3 \rfloor",
        "15000!-1",
        "(1/2)^{-10^{20000}}",
        "3^{-200000}",
        r"2^{\frac{10^{20000}}{3}}",
        r"\frac{10^{20000}}{10^{9}}",
        "(10^{20000}-10^{19999})!",
        "25000!",
    ],
)
def test_a_residue_that_cannot_be_told_is_not_guessed(text: str) -> None:
    with pytest.raises(exact.TooLarge):
        residue(text, 10**9 + 7) if "15000" not in text else residue(text, 10**11)


@given(
    base=st.integers(0, 50), top=st.integers(2, 40), over=st.integers(2, 3), m=st.integers(1, 2000)
)
def test_towers_agree_with_direct_powers(base: int, top: int, over: int, m: int) -> None:
    text = f"{base}^{{{top}^{{{over}}}}}"
    assert residue(text, m) == pow(base, top**over, m)


@given(base=st.integers(0, 60), exponent=st.integers(14, 3000), m=st.integers(1, 5000))
def test_the_exponent_may_be_reduced_by_the_totient(base: int, exponent: int, m: int) -> None:
    # The step that a tower of powers rests on; exponents of at least log2 m, as in its docstring.
    phi = sum(math.gcd(k, m) == 1 for k in range(1, m + 1))
    assert pow(base, exponent % phi + phi, m) == pow(base, exponent, m)


TREES = st.recursive(
    SMALL.map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}){t[1]}({t[2]})"),
        inner.map(lambda t: f"-({t})"),
        st.tuples(inner, st.integers(0, 3)).map(lambda t: f"({t[0]})^{{{t[1]}}}"),
    ),
    max_leaves=8,
)


@given(TREES)
def test_integer_arithmetic_is_pythons(text: str) -> None:
    # eval of digits, brackets and operators that this test made itself
    expected = eval(text.replace("^", "**").replace("{", "(").replace("}", ")"))
    try:
        found = value(text)
    except exact.TooLarge:
        assert abs(expected).bit_length() > exact.MAX_BITS / 2
    else:
        assert found == expected
        assert residue(text, 997) == expected % 997


@given(st.integers(0, 10**60), st.integers(1, 6))
def test_roots_of_powers_are_exact(root: int, degree: int) -> None:
    node = Call("root", (Fraction(root**degree), Fraction(degree)))
    assert exact.value(node) == root


@given(st.integers(2, 10**30), st.integers(2, 6), st.sampled_from([-1, 1]))
def test_roots_of_neighbours_of_powers_are_irrational(root: int, degree: int, off: int) -> None:
    with pytest.raises(exact.Irrational):
        exact.value(Call("root", (Fraction(root**degree + off), Fraction(degree))))


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (r"3\sqrt{2}", 3 * math.sqrt(2)),
        (r"\frac{\pi}{2}-1", math.pi / 2 - 1),
        (r"|-\pi|", math.pi),
        ("2^{1/2}", math.sqrt(2)),
        (r"\sqrt[3]{-2}", -(2 ** (1 / 3))),
        (r"3!\pi", 6 * math.pi),
    ],
)
def test_irrational_values_are_about_right(text: str, about: float) -> None:
    assert exact.approximate(parse(tokens(text))) == pytest.approx(about)


@pytest.mark.parametrize(
    "text",
    ["9^{9^9}", r"\sqrt{-2}", "2^{3000}", "1/0"],
)
def test_where_a_float_cannot_hold_it_none_is_given(text: str) -> None:
    node: Node = parse(tokens(text))
    assert exact.approximate(node) is None
