"""Problems to measure with: competition-like statements with drawn numbers, as many as wanted.

Each is different, so that a prefix cache holds the instructions in front of them and not them.
Their kinds, their lengths and the work that they make are those of the usual problem sets: algebra
for the most part, then numbers, geometry and counting; cells of milliseconds, and now and then one
that searches for seconds or fails (docs/measurements.md has the comparison). Knows no answers: they
are for speed only.
"""

import random
from collections.abc import Sequence

from aimo2.types import Problem

_TEMPLATES = (
    # algebra
    "The parabolas $y = {d}x^2 - {a}x + {c}$ and $y = {e}x^2 + {b}x - {a}$ meet at two points of"
    " the complex plane. What is the product of the $x$-coordinates of these two points? Write it"
    " as a fraction in lowest terms.",
    "A shop sells notebooks for ${d}.{e}0$ dollars and pens for ${e}.20$ dollars each. Mira pays"
    " exactly for {a} notebooks and {b} pens, and Jonas has {c} dollars with him. How many dollars"
    " are left to the two if they put together what Jonas has and pay for Mira?",
    "For real numbers $x$ and $y$ we have ${d}x + {e}y = {c}$ and ${e}x - {d}y = {a}$. Determine"
    " $x^2 + y^2$ as a common fraction.",
    "Let $f(x) = {d}x + {a}$ and $g(x) = x^2 - {b}$. For which real numbers $t$ do $f(g(t))$ and"
    " $g(f(t))$ have the same value? Give the sum of all such $t$.",
    "An arithmetic progression has {a} as its third and {c} as its eleventh term. What is the sum"
    " of its first {b} terms?",
    # intermediate algebra
    "The polynomial $P(x) = {d}x^2 - {a}x - {b}$ has the roots $u$ and $v$. Compute $u^3 + v^3 +"
    " \\frac{{{c}}}{{u}} + \\frac{{{c}}}{{v}} + \\frac{{1}}{{uv}}$, and simplify it as far as it"
    " goes.",
    "Find the sum of all real solutions $x$ of $\\sqrt{{x + {c}}} + \\sqrt{{x + {a}}} = {b}$, or"
    " show that there is none and answer $0$.",
    "What is the least value of $x^2 + {d}y^2 + {e}z^2$ over all real numbers $x$, $y$ and $z$ with"
    " ${d}x + {a}y + {b}z = {c}$? Give your answer as a fraction in lowest terms.",
    "A function $f$ satisfies $f(1) = {d}$ and $f(n + 1) = \\frac{{{e}f(n) + {a}}}{{f(n) + {b}}}$"
    " for every positive integer $n$. Which positive number does $f(n)$ approach when $n$ grows?",
    # number theory
    "What is the remainder when ${a}^{{{c}}} + {b}^{{{c}}}$ is divided by ${p}$?",
    "Determine the smallest positive integer that leaves the remainder {d} on division by ${p}$,"
    " is divisible by {e} and has a digit sum greater than {d}, and that is larger than {c}.",
    "How many positive divisors of ${a}^2 \\cdot {c}$ are multiples of {d} and not of {e}?",
    "Written in base $b$, a number has the digits ${d}{e}{d}_b$, and written in base $b + 1$ the"
    " digits ${e}{d}_{{b + 1}}$ are those of a number that is smaller by more than {c}. Find the"
    " smallest base $b > 9$ for which this is so.",
    # geometry
    "A triangle $ABC$ has a right angle at $C$, and its legs are $CA = {a}$ and $CB = {b}$. The"
    " altitude from $C$ meets $AB$ in $H$, and $M$ is the midpoint of $AB$. The area of the"
    " triangle $CHM$ is $m/n$ in lowest terms. Find $m + n$.",
    "The circle with centre $({d}, {e})$ and radius ${a}$ meets the line ${e}x - {d}y = {b}$ in"
    " the points $P$ and $Q$. What is the length of the segment $PQ$? Give $0$ if it does not"
    " meet the line.",
    "A right circular cone of height {a} and base radius {d} stands on its base and is cut by a"
    " plane parallel to it, so that the upper part has $\\frac{{1}}{{{e}}}$ of the cone's surface"
    " without its base. How far is the plane from the base?",
    "In a regular polygon of {b} sides that are ${d}$ long, a diagonal is drawn from one vertex to"
    " the third one after it. What is the length of this diagonal, to the nearest hundredth?",
    # counting and probability
    "A drawer holds {a} red, {b} blue and {d} green socks. Three of them are taken out at random,"
    " one after the other and without putting any back. What is the probability that all of them"
    " have the same colour? Write it as a fraction in lowest terms.",
    "In how many ways can {a} equal balls be put into {d} different boxes, if the first box has to"
    " get at least {e} of them and no box but the first may stay empty?",
    "Two fair dice have {b} faces and {a} faces, numbered from $1$. They are thrown together. What"
    " is the expected value of the larger of the two numbers?",
    # precalculus
    "Let $z = {d} + {e}i$ and $w = {a} - {b}i$. Compute the real part of $\\frac{{z^3}}{{w}} +"
    " \\bar{{z}}w$.",
    "Find the sine of the angle between the vectors $({d}, {e}, {a})$ and $({b}, {d}, -{e})$, and"
    " give its square as a fraction in lowest terms.",
    "How many solutions has $\\sin {d}x + \\cos {e}x = \\frac{{{d}}}{{{a}}}$ in the interval"
    " $0 \\le x < 2\\pi$?",
    # olympiad
    "Let $S$ be the set of positive integers $n$ of at most ${c}$ such that $n^2 + {a}n + {b}$ is"
    " divisible by ${p}$. Determine the number of elements of $S$, and then the remainder of the"
    " sum of all elements of $S$ when it is divided by $1000$.",
    "A sequence is given by $x_0 = {d}$, $x_1 = {e}$ and $x_{{n+2}} = {a}x_{{n+1}} - x_n$ for every"
    " $n \\ge 0$. Find the remainder of $x_{{{c}}}$ on division by ${p}$.",
    "On a board of {d} by {e} squares, a path goes from the lower left to the upper right corner"
    " along grid lines, with steps to the right and upwards only, and turns at most {a} times. In"
    " how many of these paths is the number of turns a multiple of $3$? Give the remainder modulo"
    " ${p}$.",
    "{b} lamps stand in a circle, all of them off. In step $i$, for $i = 1, 2, \\dots, {a}$, the"
    " lamps whose number is a multiple of $i$ change their state. How many lamps are on at the"
    " end?",
    "Find the number of ordered triples $(x, y, z)$ of integers with $0 \\le x, y, z < {p}$ such"
    " that $x^2 + {d}y^2 + {a}z^2$ is divisible by ${p}$.",
)
_PRIMES = (13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101)


def drawn_problems(number: int, seed: int) -> Sequence[Problem]:
    """`number` different problems; the same for the same seed."""
    draw = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < number:
        texts[_statement(_TEMPLATES[len(texts) % len(_TEMPLATES)], draw)] = None
    return [Problem(id=f"drawn-{index}", statement=text) for index, text in enumerate(texts)]


def _statement(template: str, draw: random.Random) -> str:
    first, second = draw.sample(range(2, 10), 2)
    return template.format(
        a=draw.randrange(11, 60),
        b=draw.randrange(11, 60),
        c=draw.randrange(100, 1000),
        d=first,
        e=second,
        p=draw.choice(_PRIMES),
    )
