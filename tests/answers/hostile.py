"""Hostile texts, made and not written down: deep, huge, long, in odd scripts, or code."""

import itertools
import random
from collections.abc import Iterator

MEGABYTE = 1_000_000


def texts() -> list[str]:
    """More than 200 texts, none of which is equal to 73."""
    return [*_nested(), *_powers(), *_long(), *_unicode(), *_code(), *_malformed(), *_noise()]


def _nested() -> Iterator[str]:
    for depth in (10, 39, 41, 100, 500, 10_000):
        yield "(" * depth + "74" + ")" * depth
        yield "{" * depth + "74" + "}" * depth
        yield r"\sqrt{" * depth + "74" + "}" * depth
        yield r"\frac{1}{1+" * depth + "74" + "}" * depth
        yield r"2^{" * depth + "74" + "}" * depth
        yield r"\{" * depth + "74" + r"\}" * depth
        yield "|" * depth + "74" + "|" * depth
        yield r"\sqrt" * depth + "74"
        yield r"\frac" * depth + "74"
        yield "74" + "!" * depth
        yield "-" * depth + "74"
        yield "2^" * depth + "74"
        yield "^-" * depth + "74"
        yield r"\text{" * depth + "74" + "}" * depth


def _powers() -> Iterator[str]:
    yield from (
        "9^{9^{9^{9}}}",
        "7^{7^{7^{7^{7}}}}",
        "9**9**9**9",
        "10^{10^{10}}",
        "10^{-10^{10}}",
        "2^{1000000000}+1",
        "(2^{99999})^{99999}",
        "99999999!",
        "(999!)!",
        "((9!)!)!",
        r"\binom{10^{9}}{5\cdot10^{8}}",
        r"\sqrt[10^{9}]{2}",
        r"\sqrt[999]{10^{3000}}",
        "1e999999999",
        "1e-999999999",
        "7.3e99999999999999999999",
        r"\sum_{k=1}^{10^{12}}\frac{1}{k^{2}}",
        r"\prod_{k=1}^{10^{8}}(1+k)",
        r"\int_{0}^{1}\sin(x^{x^{x}})dx",
        r"\sin(10^{10^{8}})",
        r"\lfloor\pi\cdot10^{10^{6}}\rfloor",
        r"x^{10^{8}}-1",
        r"(x+y+z+w)^{400}",
        r"(1+\sqrt{2}+\sqrt{3}+\sqrt{5}+\sqrt{7}+\sqrt{11})^{99}",
        r"\log_{2}(3^{3^{3^{3^{3}}}})",
        "+".join(["3^{20000}"] * 200),
        "*".join(["19999!"] * 250),
        "/".join(["3^{20000}"] * 200),
        "+".join(["1/3^{9999}"] * 150),
        "+".join([rf"\sqrt[63]{{7^{{{n}}}}}" for n in range(100, 200)]),
        r"7^{7^{7^{7}}} \bmod 10^{9}+7",
        r"73 \bmod 0",
        r"7 \bmod 7 \bmod 7" + r" \bmod 7" * 200,
    )


def _long() -> Iterator[str]:
    for piece in ("9", "7,", "(", "x+", "\\", "$", "*", " ", "{}", "a", "1 ", "=", "\\frac{1}{2}"):
        yield piece * (MEGABYTE // len(piece))
    yield "73" + " " * MEGABYTE + "4"
    yield "1," * 900 + "1"
    yield "1+" * 900 + "1"
    yield "1*" * 900 + "2"
    yield "9" * 1900
    yield "0." + "3" * 1900
    yield "&".join(["1"] * 900)
    yield r"\begin{pmatrix}" + r"1\\" * 600 + r"\end{pmatrix}"
    yield r"\text{a}" * 280
    yield r"\pm1" * 400


def _unicode() -> Iterator[str]:
    yield from ("٧٤", "７４", "𝟕𝟒", "七十三", "⁷³", "₇₃", "VII", "73̸", "\u202e37", "ﷺ" * 1900)
    yield from (
        "7\ud83d",
        "\x00",
        "74\x00",
        "\x1b[31m74",
        "½" * 900,
        "²" * 1900,
        "∛" * 500,
        "😀73😀",
    )
    yield from (
        "7\u0301" * 900,
        "Ⅶ",
        "〇",
        "74%",
        "‰",
        "7‱",
        "∞",
        "-∞",
        "NaN",
        "nan",
        "inf",
        "None",
    )


def _code() -> Iterator[str]:
    calls = (
        "__import__('os').system('touch {0}')",
        "open('{0}','w')",
        "exec('raise SystemExit')",
        "().__class__.__bases__[0].__subclasses__()",
        "lambda: 73",
        "[x for x in range(10**9)]",
        "print(74)",
        "sympy.Symbol('x')",
        "73 if 0 else 74",
        "import os",
        "os._exit(0)",
        "globals()",
        "eval('74')",
        "f'{{74}}'",
        "0x49+1",
        "7_4",
        "True",
    )
    for call in calls:
        yield call
        yield rf"\text{{{call}}}"
        yield rf"x_{{{call}}}+1"


def _malformed() -> Iterator[str]:
    yield from (
        "",
        " ",
        "$",
        "$$",
        "\\",
        "\\\\",
        "{",
        "}",
        "(",
        "^",
        "_",
        "=",
        "==",
        "73=74",
        "7 3 4",
    )
    yield from (r"\frac", r"\frac{}{}", r"\frac{1}{0}", r"\sqrt{}", r"\sqrt[0]{73}", r"\sqrt{-73}")
    yield from (
        "0^{-1}",
        "(-1)!",
        "73/0",
        "7 4",
        "73 73",
        "73;74",
        "73,74",
        "73 or 74",
        "7.3.7",
        "73..",
    )
    yield from (r"\begin{pmatrix}73", r"\end{73}", r"\begin{cases}73\\74\end{cases}", r"\left(73")
    yield from (
        "<73",
        ">73",
        "≠73",
        "73<x<74",
        "x=73 y=74",
        "73x",
        "x73",
        "73!",
        "-73",
        "73^2",
        "7e",
        "e73",
    )
    yield from (
        "73.0000000000000000000000001",
        "72." + "9" * 500,
        r"72.\overline{8}",
        "730",
        "0.73",
        "7,3",
    )


def _noise() -> Iterator[str]:
    rng = random.Random(73)
    pieces = (
        *(
            "7",
            "3",
            "1",
            "0",
            "x",
            "\\frac",
            "\\sqrt",
            "^",
            "_",
            "{",
            "}",
            "(",
            ")",
            "[",
            "]",
            "\\{",
        ),
        *(
            "+",
            "-",
            "*",
            "/",
            "!",
            "=",
            "<",
            ",",
            "\\text{a}",
            "\\pi",
            "\\circ",
            "%",
            "\\infty",
            " ",
        ),
    )
    for length in itertools.islice(itertools.cycle((5, 20, 80, 300)), 80):
        yield "7" + "".join(rng.choice(pieces) for _ in range(length)) + "+x^{9}"
