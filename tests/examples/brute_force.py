"""Confirm each answer of `examples/warmup.jsonl` from its statement alone. Knows no answers.

One function a problem, entered under its id: it enumerates, simulates or solves what the statement
defines, in exact arithmetic, and never takes the short way to the answer. Only the expected value
of one problem is a series: summed far enough to tell its fraction. Each takes well under a second.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations, pairwise, permutations, product
from math import isqrt

import sympy

Check = Callable[[], int]
Point = tuple[Fraction, Fraction]

CHECKS: dict[str, Check] = {}
"""Problem id to the function that works out its answer."""


def confirms(problem_id: str) -> Callable[[Check], Check]:
    """Enter a function in `CHECKS`; raises ValueError if the id has one already."""

    def enter(check: Check) -> Check:
        if problem_id in CHECKS:
            raise ValueError(f"two checks for {problem_id}")
        CHECKS[problem_id] = check
        return check

    return enter


def parts(value: Fraction) -> int:
    """Numerator plus denominator in lowest terms, the form in which fractions are asked for."""
    return value.numerator + value.denominator


def digit_sum(n: int) -> int:
    return sum(map(int, str(n)))


@confirms("warmup-01")
def robot_on_a_cliff() -> int:
    height = 0
    for minute in range(1, 41):
        height += -5 if minute % 4 == 0 else minute + 2
    return height


@confirms("warmup-02")
def two_spinners() -> int:
    spins = list(product(range(1, 8), range(1, 10)))
    return parts(Fraction(sum(a * b % 4 == 1 for a, b in spins), len(spins)))


@confirms("warmup-03")
def rectangles_by_area_and_perimeter() -> int:
    # b * (a - 2) = 2 * a + 56 has no b for a <= 2 and b <= 62 for a >= 3: 500 is generous.
    sides = ((a, b) for a in range(1, 501) for b in range(a, 501))
    return sum(a * b for a, b in sides if a * b - 2 * (a + b) == 56)


@confirms("warmup-04")
def digit_sum_kept_by_doubling() -> int:
    return sum(digit_sum(n) == digit_sum(2 * n) for n in range(1, 1000))


@confirms("warmup-05")
def rectangles_with_one_marked_square() -> int:
    spans_down = list(combinations(range(7), 2))
    spans_across = list(combinations(range(10), 2))
    marked = [(2, 3), (5, 8)]
    count = 0
    for (top, bottom), (left, right) in product(spans_down, spans_across):
        inside = sum(top < row <= bottom and left < column <= right for row, column in marked)
        count += inside == 1
    return count


@confirms("warmup-06")
def quartic_at_five() -> int:
    x, *rest = sympy.symbols("x a b c d")
    quartic = x**4 + sum(k * x**i for i, k in enumerate(rest))
    given = {1: 0, 2: -6, 3: -12, 4: -18}
    solved = sympy.solve([quartic.subs(x, at) - value for at, value in given.items()], rest)
    return int(quartic.subs(solved).subs(x, 5))


@confirms("warmup-07")
def lattice_points_inside() -> int:
    corners = [(0, 0), (17, 4), (5, 23)]
    sides = [*pairwise(corners), (corners[-1], corners[0])]

    def inside(x: int, y: int) -> bool:
        return all((b - a) * (y - q) - (d - q) * (x - a) > 0 for (a, q), (b, d) in sides)

    return sum(inside(x, y) for x, y in product(range(18), range(24)))


@confirms("warmup-08")
def codes_without_close_neighbours() -> int:
    codes = product(range(1, 7), repeat=5)
    return sum(all(abs(a - b) >= 2 for a, b in pairwise(code)) for code in codes)


@confirms("warmup-09")
def product_of_three_in_steps_of_two() -> int:
    return sum(n * (n + 2) * (n + 4) % 105 == 0 for n in range(1, 1001))


@confirms("warmup-10")
def number_plus_its_reversal() -> int:
    numbers = (n for n in range(100, 1000) if n % 10)
    return sum((n + int(str(n)[::-1])) % 7 == 0 for n in numbers)


@confirms("warmup-11")
def triples_with_a_divisor() -> int:
    divisors = [d for d in range(1, 2161) if 2160 % d == 0]
    pairs = product(divisors, repeat=2)
    return sum(b % a == 0 and 2160 % (a * b) == 0 for a, b in pairs)


@confirms("warmup-12")
def paths_without_two_diagonals_running() -> int:
    def paths(right: int, up: int, after_diagonal: bool) -> int:
        if right < 0 or up < 0:
            return 0
        if right == up == 0:
            return 1
        straight = paths(right - 1, up, False) + paths(right, up - 1, False)
        return straight + (0 if after_diagonal else paths(right - 1, up - 1, True))

    return paths(5, 4, False)


@confirms("warmup-13")
def functional_equation() -> int:
    f = sympy.symbols("f1:13")
    pairs = [(x, y) for x in range(1, 12) for y in range(1, 13 - x)]
    rules = [f[x + y - 1] - f[x - 1] - f[y - 1] - x * y * (x + y) for x, y in pairs]
    (solution,) = sympy.linsolve([*rules, f[5] - 100], f)
    return int(solution[11])


@confirms("warmup-14")
def diagonal_of_two_right_triangles() -> int:
    # A = (0, 0) and C = (65, 0); B above the diagonal, D below it.
    def corner(from_a: int, from_c: int) -> Point:
        x = Fraction(from_a**2 - from_c**2 + 65**2, 2 * 65)
        return x, root(from_a**2 - x**2)

    (bx, by), (dx, dy) = corner(16, 63), corner(33, 56)
    return parts(root((bx - dx) ** 2 + (by + dy) ** 2))


def root(square: Fraction) -> Fraction:
    """The rational square root; AssertionError when there is none."""
    answer = Fraction(isqrt(square.numerator), isqrt(square.denominator))
    assert answer * answer == square
    return answer


@confirms("warmup-15")
def ant_on_a_prism() -> int:
    triangle, floor = 3, 2
    neighbours = {
        (i, j): [((i + 1) % triangle, j), ((i + 2) % triangle, j), (i, 1 - j)]
        for i, j in product(range(triangle), range(floor))
    }
    walks = [(0, 0)]
    for _ in range(6):
        walks = [there for here in walks for there in neighbours[here]]
    return parts(Fraction(walks.count((0, 0)), len(walks)))


@confirms("warmup-16")
def sequence_of_remainders() -> int:
    terms = [1, 4]
    while len(terms) < 100:
        terms.append((terms[-1] ** 2 + terms[-2]) % 19)
    return sum(terms)


@confirms("warmup-17")
def stained_glass_windows() -> int:
    seen = set()
    for disc, *ring in product(range(5), repeat=7):
        if disc not in ring and all(ring[i] != ring[i - 1] for i in range(6)):
            seen.add((disc, min(tuple(ring[i:] + ring[:i]) for i in range(6))))
    return len(seen)


@confirms("warmup-18")
def folded_sheet() -> int:
    sheet = [(Fraction(x), Fraction(y)) for x, y in [(0, 0), (18, 0), (18, 24), (0, 24)]]
    target = (Fraction(18), Fraction(12))

    def nearness(p: Point) -> Fraction:
        """Positive where `p` is nearer to the corner A = (0, 0) than to its new place."""
        return (p[0] - target[0]) ** 2 + (p[1] - target[1]) ** 2 - p[0] ** 2 - p[1] ** 2

    def mirrored(p: Point) -> Point:
        # The axis is at right angles to `target` and passes through its midpoint.
        scale = nearness(p) / (target[0] ** 2 + target[1] ** 2)
        return p[0] + scale * target[0], p[1] + scale * target[1]

    kept = clipped(sheet, lambda p: -nearness(p))
    flap = [mirrored(p) for p in clipped(sheet, nearness)]
    assert mirrored(sheet[0]) == target
    assert target in flap
    assert all(0 <= x <= 18 and 0 <= y <= 24 and nearness((x, y)) <= 0 for x, y in flap)
    return parts(area(kept))


def clipped(polygon: list[Point], inside: Callable[[Point], Fraction]) -> list[Point]:
    """The part of a convex polygon where an affine function is at least 0 (Sutherland-Hodgman)."""
    found = []
    for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        at_p, at_q = inside(p), inside(q)
        if at_p >= 0:
            found.append(p)
        if at_p * at_q < 0:
            t = at_p / (at_p - at_q)
            found.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return found


def area(polygon: list[Point]) -> Fraction:
    """Area of a simple polygon, by the shoelace formula."""
    sides = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum((p[0] * q[1] - q[0] * p[1] for p, q in sides), Fraction(0))) / 2


@confirms("warmup-19")
def words_of_odd_blocks() -> int:
    def blocks(word: tuple[str, ...]) -> Iterator[int]:
        start = 0
        for i in range(1, len(word) + 1):
            if i == len(word) or word[i] != word[start]:
                yield i - start
                start = i

    words = product("ABC", repeat=7)
    return sum(all(length % 2 for length in blocks(word)) for word in words)


@confirms("warmup-20")
def power_and_cube() -> int:
    return sum((3**n + n**3 + 1) % 11 == 0 for n in range(1, 1501))


@confirms("warmup-21")
def first_digits_agree() -> int:
    # Both digits are constant between neighbouring multiples of 1/170: look at each midpoint.
    middles = [Fraction(2 * k + 1, 340) for k in range(170)]
    agree = sum(int(10 * x) % 10 == int(10 * (17 * x)) % 10 for x in middles)
    return parts(Fraction(agree, len(middles)))


@confirms("warmup-22")
def doubling_into_tripling() -> int:
    # By induction h(m) >= m, so that no m above 1400 counts.
    h = {1: 1}
    for m in range(2, 1401):
        h[m] = 3 * h[m // 2] + 1 + m % 2
    return sum(value <= 1400 for value in h.values())


@confirms("warmup-23")
def stickers_on_chairs() -> int:
    stickers = 0
    for child in range(1, 181):
        chair = None
        while chair != 0:
            chair = ((chair or 0) + child) % 180
            stickers += 1
    return stickers


@confirms("warmup-24")
def triples_by_pair_products() -> int:
    triples = product(range(1, 14), repeat=3)
    return sum((a * b + b * c + c * a) % 13 == 1 for a, b, c in triples)


@confirms("warmup-25")
def roses_off_the_diagonals() -> int:
    plans = permutations(range(7))
    return sum(all(c not in (r, 6 - r) for r, c in enumerate(plan)) for plan in plans)


@confirms("warmup-26")
def feet_of_perpendiculars() -> int:
    b, c = sympy.Point(0, 0), sympy.Point(28, 0)
    x, y = sympy.symbols("x y", real=True)
    apexes = sympy.solve([x**2 + y**2 - 17**2, (x - 28) ** 2 + y**2 - 25**2], [x, y])
    (a,) = [sympy.Point(*found) for found in apexes if found[1] > 0]
    triangle = sympy.Triangle(a, b, c)
    places = sympy.solve(
        [sympy.Line(a, b).distance(sympy.Point(x, y)) ** 2 - 8**2, y - 3], [x, y], dict=True
    )
    points = [sympy.Point(place[x], place[y]) for place in places]
    (p,) = [point for point in points if triangle.encloses_point(point)]
    feet = [side.projection(p) for side in map(sympy.Line, (a, b, c), (b, c, a))]
    found = abs(sympy.Polygon(*feet).area)
    return int(found.p + found.q)


@confirms("warmup-27")
def rolls_until_neighbouring_faces() -> int:
    # E(rolls) = sum over n >= 0 of P(no such pair in n rolls), which shrinks like 0.73 ** n.
    ending = dict.fromkeys(range(1, 7), 1)
    expected = Fraction(1)
    for n in range(1, 300):
        expected += Fraction(sum(ending.values()), 6**n)
        ending = {
            face: sum(ways for last, ways in ending.items() if abs(last - face) != 1)
            for face in ending
        }
    nearest = expected.limit_denominator(10**6)
    assert abs(nearest - expected) < Fraction(1, 10**30)
    return parts(nearest)


@confirms("warmup-28")
def choices_by_sum_of_squares() -> int:
    squares = (n * n for n in range(1, 16))
    return sum(sum(chosen) % 5 == 0 for chosen in combinations(squares, 5))


@confirms("warmup-29")
def quartics_that_factor() -> int:
    wanted = range(-1000, 1001)
    divisors = [d for d in range(-100, 101) if d and 100 % d == 0]
    found = {a for a in wanted if any(d**4 + a * d**2 + 100 == 0 for d in divisors)}
    # (x^2 + p x + q)(x^2 + r x + s). A root z has |z|^2 = |t| with t^2 + a t + 100 = 0, hence
    # |t| < 1000 and |z| < 31.7: p and r, sums of two roots, are below 64 in size.
    for q in divisors:
        s = 100 // q
        for p, r in product(range(-64, 65), repeat=2):
            cubic, square, linear = p + r, q + s + p * r, p * s + q * r
            if cubic == linear == 0 and square in wanted:
                found.add(square)
    return len(found)


@confirms("warmup-30")
def triangles_with_an_obtuse_angle() -> int:
    perimeter = 0
    for a, b, c in combinations_up_to(50):
        # The law of cosines with cos 120 degrees = -1/2; the angle lies opposite the longest side.
        if c * c == a * a + b * b + a * b:
            perimeter += a + b + c
    return perimeter


def combinations_up_to(limit: int) -> Iterator[tuple[int, int, int]]:
    """Side lengths a <= b <= c <= limit of every triangle."""
    for c in range(1, limit + 1):
        for b in range(1, c + 1):
            for a in range(max(1, c - b + 1), b + 1):
                yield a, b, c
