import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.answers import canonical, same

EQUAL = [
    ("1/2", "0.5"),
    (r"\frac12", "0.5"),
    (r"\frac{1}{2}", r"50\%"),
    ("0.5", "50 percent"),
    ("50%", "50"),
    (r"17.5\%", "17.5"),
    (".35625", "0.35625"),
    (r"1\frac{4}{5}", "1.8"),
    (r"137 \frac{1}{2}", "275/2"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
    (r"90^\circ", "90"),
    (r"5.4 \text{ cents}", "5.4"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"\$32,\!348", "32348"),
    (r"\$18.90", "18.9"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("1,234", "1234"),
    ("1,234", "1, 234"),
    ("(1,234)", "(1, 234)"),
    ("x=5", "5"),
    ("x = 5", "x=5.0"),
    ("x=3 or x=5", r"\{3,5\}"),
    ("x=3 or x=5", "5, 3"),
    (r"x=3 \text{ and } x=5", "3 and 5"),
    ("x=1, y=2", "y=2, x=1"),
    ("x=1, y=2", "(1, 2)"),
    ("(x,y)=(1,2)", "(1,2)"),
    ("(1,2)=(x,y)", "x=1, y=2"),
    (r"\left(a_1,b\right)=\left(3,4\right)", "(3,4)"),
    (r"(x,y)\in\{(1,2),(3,4)\}", r"\{(3,4),(1,2)\}"),
    ("(x,y)=(1,2) or (x,y)=(3,4)", "(3,4), (1,2)"),
    (r"0<\theta<\pi", r"(0,\pi)"),
    (r"\theta>1", r"(1,\infty)"),
    ("a_1>1", r"(1,\infty)"),
    ("3 < x_{2}", r"(3,\infty)"),
    ("AB", r"\text{AB}"),
    ("Mon", "mon"),
    ("y = 2x+3", "2x+3"),
    (r"\{1,2,3\}", r"\{3,1,2\}"),
    (r"\{5\}", "5"),
    ("3, 5, 7", "7, 5, 3"),
    ("(1, 2)", "1, 2"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac \pi 2)"),
    (r"\left[ \frac{1}{2}, 1 \right)", "[0.5, 1)"),
    (r"x \in [-2,7]", r"-2 \le x \le 7"),
    (r"7 \ge x > -2", "(-2, 7]"),
    ("x > 5", r"(5,\infty)"),
    ("5 < x", r"(5,\infty)"),
    (r"x<2 \text{ or } x>3", r"(-\infty,2)\cup(3,\infty)"),
    (r"(2,12) \cup (12,102)", r"(12, 102) \cup (2, 12)"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1-\sqrt5, 1+\sqrt5\}"),
    ("[1, 2, 3]", "3, 2, 1"),
    (
        r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}",
        r"\begin{bmatrix}-\frac13\\\frac23\end{bmatrix}",
    ),
    (r"\text{(C)}", "C"),
    ("(C)", r"\textbf{C}"),
    (r"\textbf{(C)}\ 12", "12"),
    ("(C) 12", "C"),
    ("(C) 12", r"\text{(C) }12.0"),
    (r"\text{even}", "Even"),
    (r"\text{no solution}", "no solution."),
    ("4210_{5}", "4210_5"),
    ("4343_6", "4343"),
    (r"4343_{\text{base }6}", "4343_6"),
    (r"12^{\mathrm{th}}", "12"),
    ("12th", "12"),
    ("x^{2}+1 = x^2+1", "x^2+1"),
    (
        r"\begin{pmatrix} 1+1 \\ 3 \end{pmatrix} = \begin{pmatrix} 2 \\ 3 \end{pmatrix}",
        r"\begin{pmatrix}2\\3\end{pmatrix}",
    ),
    (r"3 \sqrt {13}", r"3\sqrt{13}"),
    (r"\emptyset", r"\{\}"),
    ("5 million", "5,000,000"),
    ("2021 \\cdot 505 \\cdot 337", "343943885"),
    ("2^{1009}", "2^{1009}"),
]
UNEQUAL = [
    ("0.333", "1/3"),
    ("0.3333333333333333", "1/3"),
    ("1.41421356", r"\sqrt{2}"),
    ("3.14159", r"\pi"),
    ("50%", "0.5%"),
    ("50", "0.5"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2]", "[1,2)"),
    ("(1,234)", "1234"),
    ("1,234", "12, 34"),
    ("1, 2", "1, 2, 3"),
    ("1, 1, 2", "1, 2, 2"),
    ("x=1, y=2", "x=2, y=1"),
    ("x=1, y=2", "x=1, z=2"),
    ("x=1, y=2", "(2, 1)"),
    ("(x,y)=(1,2)", "(2,1)"),
    ("(x,y)=(1,2)", "(x,y)=(2,1)"),
    ("(x,y)=(1,2)", "(a,b)=(1,2)"),
    (r"\pi > 3", r"(3,\infty)"),
    (r"2\theta > 1", r"(1,\infty)"),
    ("AB", "ab"),
    ("2AB", "2ab"),
    ("no", "on"),
    ("x > 5", "x < 5"),
    ("x > 5", r"x \geq 5"),
    ("(C)", "(B)"),
    ("(C) 12", "(C) 13"),
    ("(C) 12", "(B) 12"),
    ("C", "c"),
    (r"\text{even}", r"\text{odd}"),
    ("52_8", "42"),
    ("52_8", "52_9"),
    ("2^{1009}", "2^{1009}+1"),
    ("5 6", "11"),
    ("5 6", "30"),
    ("1/2x", "x/2"),
    ("3R^2", "3r^2"),
    ("5 \\text{ or more}", "5"),
    ("73", ""),
    ("", ""),
    ("73", "(73"),
    ("73", "seventy-three apples"),
    (r"\pi", "4"),
    ("9^{9^{9}}", "0"),
    ("f'(x)", "f(x)"),
    (r"\text{a}", r"\text{b}"),
]
ALGEBRA = [
    (r"3\sqrt{13}", r"\sqrt{117}"),
    ("2x+2", "2(x+1)"),
    ("y = x", "x = y"),
    ("xy", "yx"),
    ("xyz", "zyx"),
    (r"\log_2 8", "3"),
    (r"(1, \sqrt{8})", r"(1, 2\sqrt{2})"),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_answers_are_equal_either_way_round(a: str, b: str) -> None:
    assert same(a, b) is True
    assert same(b, a) is True


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_unequal_answers_are_unequal_either_way_round(a: str, b: str) -> None:
    assert same(a, b) is False
    assert same(b, a) is False


@pytest.mark.parametrize(("a", "b"), ALGEBRA)
def test_what_needs_algebra_is_left_open(a: str, b: str) -> None:
    assert same(a, b) is None


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_canonical_texts_of_equal_answers_are_equal(a: str, b: str) -> None:
    left, right = canonical(a, "expr").value, canonical(b, "expr").value
    assert left is not None
    assert right is not None
    assert same(left, right) is True or (a, b) == ("1,234", "1, 234")


FRACTIONS = st.fractions(max_denominator=1000)


@given(FRACTIONS, FRACTIONS)
def test_fractions_are_equal_exactly_when_their_values_are(a: object, b: object) -> None:
    left = f"\\frac{{{a.numerator}}}{{{a.denominator}}}"  # type: ignore[attr-defined]
    assert same(left, str(b)) is (a == b)
    assert same(left, str(a)) is True


@given(st.lists(st.integers(), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_sets_have_no_order_and_tuples_have_one(numbers: list[int], rng: object) -> None:
    shuffled = list(numbers)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    inside, other = ", ".join(map(str, numbers)), ", ".join(map(str, shuffled))
    assert same(f"\\{{{inside}\\}}", f"\\{{{other}\\}}") is True
    assert same(f"({inside})", f"({other})") is (numbers == shuffled)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6), st.integers(1, 9))
def test_a_decimal_is_not_its_neighbour(number: object, digit: int) -> None:
    assert same(f"{number:f}", f"{number:f}{digit}") is False
