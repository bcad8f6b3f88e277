"""Problems to measure with: competition-like statements with drawn numbers, as many as wanted.

Each is different, so that a prefix cache holds the instructions in front of them and not them.
They are about as long as real ones (20 to 120 words). Knows no answers: they are for speed only.
"""

import random
from collections.abc import Sequence

from aimo2.types import Problem

_TEMPLATES = (
    "Let $S$ be the set of positive integers $n$ at most ${a}$ such that $n^2 + {b}n + {c}$ is"
    " divisible by ${p}$. Determine the number of elements of $S$, and then the remainder of the"
    " sum of all elements of $S$ when it is divided by $1000$.",
    "A triangle $ABC$ has side lengths $AB = {a}$, $BC = {b}$ and $CA = {c}$, up to a common"
    " factor that makes it possible. The incircle touches $BC$ in $D$, and the line $AD$ meets the"
    " circumcircle again in $E$. The ratio $AD / DE$ can be written as $m/n$ in lowest terms."
    " Find $m + n$.",
    "A sequence is given by $x_0 = {a}$, $x_1 = {b}$ and $x_{{n+2}} = {c}x_{{n+1}} - x_n$ for every"
    " $n \\ge 0$. Find the smallest positive $k$ for which $x_k$ leaves the remainder $x_0$ on"
    " division by ${p}$.",
    "On a board of {r} by {c} squares, a path goes from the lower left to the upper right corner"
    " along grid lines, with steps to the right and upwards only. In how many of these paths is"
    " the number of turns a multiple of $3$? Give the remainder modulo ${p}$.",
    "In a tournament of {r} players, everybody plays once against everybody else, and no game is"
    " drawn. A group of three players is called cyclic if each of them has won exactly one game"
    " against the other two. What is the largest possible number of cyclic groups, if some player"
    " has won exactly {s} games and the others are ranked by a list of {b} numbers?",
    "For a positive integer $n$ let $f(n)$ be the sum of the squares of its decimal digits. How"
    " many integers $n$ with ${a} \\le n \\le {c}00$ have the property that repeated application"
    " of $f$ leads to $1$?",
    "Let $P(x) = x^3 - {a}x^2 + {b}x - {c}$ have the roots $u$, $v$ and $w$ over the complex"
    " numbers. Compute the remainder of $(u + v)^4 + (v + w)^4 + (w + u)^4$ modulo ${p}$.",
    "{r} lamps stand in a circle, all of them off. In step $i$, for $i = 1, 2, \\dots, {a}$, the"
    " lamps whose number is a multiple of $i$ modulo {r} change their state. How many lamps are on"
    " at the end?",
    "Find the number of ordered triples $(x, y, z)$ of integers with $0 \\le x, y, z < {p}$ such"
    " that $x^2 + {b}y^2 + {c}z^2$ is divisible by ${p}$.",
    "A fair coin is tossed until the pattern of {s} equal results in a row appears. The expected"
    " number of tosses, given that the first {r} tosses do not contain it and that heads come with"
    " probability $1/{b}$, is written as $m/n$ in"
    " lowest terms. Determine $m + n$ modulo $1000$.",
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
    return template.format(
        a=draw.randrange(100, 100_000),
        b=draw.randrange(100, 10_000),
        c=draw.randrange(100, 10_000),
        p=draw.choice(_PRIMES),
        r=draw.randrange(7, 40),
        s=draw.randrange(3, 12),
    )
