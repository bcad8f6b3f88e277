r"""The child process that does algebra: JSON lines in, JSON lines out. Knows no time limit.

Run as a script by `judge.py`, which ends it when it takes too long. It imports nothing of this
package, so that it starts fast. math-verify reads LaTeX with a grammar, but makes its numbers by
`sympify`, which evaluates text as Python: that evaluation is replaced by one that takes numbers
only. An audit hook refuses processes and sockets, should anything slip through.

Equality is math-verify's, and then doubted: it rounds to 15 digits, so a difference that is not
zero at 60 digits, at points picked for the purpose, makes the answers unequal.
"""

import json
import os
import re
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any

_DIGITS = 60
_TOLERANCE = 10.0**-40
_POINTS = ((7, 3), (-11, 5), (13, 17))
"""Numerators and denominators that the variables' values are made of."""
_MAX_REPLY_CHARS = 4_000
_FORBIDDEN_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.")
_NUMBER_CODE = re.compile(r"\s*(Integer|Float)\s*\(\s*'?([0-9.]+(?:[eE][-+]?[0-9]+)?)'?\s*\)\s*")

Request = dict[str, Any]
Reply = dict[str, Any]


def answer(request: Request) -> Reply:
    """What one request comes to; a failure of the algebra is a reply with a note."""
    try:
        if request["op"] == "equal":
            return {"equal": equal(request["a"], request["b"])}
        return value(request["latex"])
    except (MemoryError, RecursionError) as error:
        return {"note": f"too deep or too large ({type(error).__name__})"}
    except Exception as error:  # noqa: BLE001 - the boundary: sympy raises anything at all
        return {"note": f"not decided ({type(error).__name__})"}


def equal(a: str, b: str) -> bool:
    """Whether two LaTeX texts are equal, decided by math-verify and not refuted by digits."""
    from math_verify import verify
    from sympy import Expr, MatrixBase, MatrixExpr

    left, right = _parse(a), _parse(b)
    if left is None or right is None:
        return False
    if _is_relation(left) or _is_relation(right):
        return _same_relation(left, right)
    if isinstance(left, MatrixExpr | MatrixBase) or isinstance(right, MatrixExpr | MatrixBase):
        return _same_matrix(left, right)
    if not (isinstance(left, Expr) and isinstance(right, Expr)):
        return bool(left == right)
    if _differ(left, right):
        return False
    return bool(verify(left, right, timeout_seconds=None, raise_on_error=True))


def _same_matrix(left: Any, right: Any) -> bool:
    import sympy

    left, right = (matrix.doit() for matrix in (left, right))
    matrices = isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase)
    if not matrices or left.shape != right.shape:
        return False
    return all(sympy.simplify(entry).is_zero is True for entry in left - right)


def value(latex: str) -> Reply:
    """`value`: the text of a fraction, where the LaTeX has an exact rational value."""
    import sympy

    parsed = _parse(latex)
    if parsed is None or getattr(parsed, "free_symbols", True):
        return {"note": "not a number"}
    simple = sympy.simplify(parsed.doit())
    if simple.is_Rational is not True:
        return {"note": "not an integer" if simple.is_integer is False else "not a number"}
    text = f"{simple.p}/{simple.q}"
    return {"value": text} if len(text) < _MAX_REPLY_CHARS else {"note": "too large"}


def _parse(latex: str) -> Any:
    """The expression; `None` where math-verify cannot read all of it."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # Its normalization would take the t of 5t for a unit; the texts here are normal already.
    as_it_is = NormalizationConfig(basic_latex=False, boxed="none")
    config = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=as_it_is)
    found = parse(f"${latex}$", [config], fallback_mode="no_fallback", parsing_timeout=None)
    return _with_imaginary_unit(found[0]) if found else None


def _with_imaginary_unit(expression: Any) -> Any:
    """A free `i` is the imaginary unit; an index of a sum is not free."""
    import sympy

    units = [s for s in getattr(expression, "free_symbols", ()) if s.name == "i"]
    return expression.subs(dict.fromkeys(units, sympy.I)) if units else expression


def _is_relation(expression: Any) -> bool:
    from sympy.core.relational import Relational

    return isinstance(expression, Relational)


def _same_relation(left: Any, right: Any) -> bool:
    """Whether both are one equation or inequality, up to a factor (positive for the latter)."""
    import sympy

    if not (_is_relation(left) and _is_relation(right)):
        return False
    left, right = (
        relation.reversed if isinstance(relation, sympy.Lt | sympy.Le) else relation
        for relation in (left, right)
    )
    ratio = sympy.simplify((left.lhs - left.rhs).doit() / (right.lhs - right.rhs).doit())
    if left.func is not right.func or not ratio.is_number or ratio.is_finite is not True:
        return False
    inequality = isinstance(left, sympy.Gt | sympy.Ge)
    return ratio.is_positive is True if inequality else ratio.is_zero is False


def _differ(left: Any, right: Any) -> bool:
    """Whether the two are seen to differ by their digits at one of the points."""
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    return any(_differ_at(left, right, symbols, point) for point in _POINTS)


def _differ_at(left: Any, right: Any, symbols: list[Any], point: tuple[int, int]) -> bool:
    import sympy

    over, under = point
    place = {
        symbol: sympy.Rational(over + 2 * index, under + index)
        for index, symbol in enumerate(symbols)
    }
    difference, scale = (
        sympy.N(expression.subs(place).doit(), _DIGITS, maxn=4 * _DIGITS)
        for expression in (left - right, sympy.Abs(left) + sympy.Abs(right))
    )
    if not (difference.is_number and scale.is_number and difference.is_finite and scale.is_finite):
        return False
    return bool(abs(difference) > _TOLERANCE * abs(scale))


def _take_numbers_only(code: str, _locals: object, _globals: object) -> Any:
    """In place of sympy's `eval`: builds the numbers that it makes itself, refuses the rest."""
    import sympy

    match = _NUMBER_CODE.fullmatch(code)
    if match is None:
        raise ValueError("text is never evaluated here")
    return sympy.Integer(int(match[2])) if match[1] == "Integer" else sympy.Rational(match[2])


def _refuse(event: str, _arguments: tuple[object, ...]) -> None:
    if event.startswith(_FORBIDDEN_EVENTS):
        raise PermissionError(f"{event} is refused in a worker")


def protect(memory_mib: int) -> None:
    """Limits on this process, for good: memory, no core file, death with the parent (Linux)."""
    sys.addaudithook(_refuse)
    if sys.platform == "win32":
        return
    import resource

    size = memory_mib * 2**20
    for limit, most in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL


def prepare(path: list[str]) -> None:
    """Import what the work needs, from where the parent has it, and close the way to `eval`."""
    import logging

    sys.path[:] = path
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401
    import sympy.physics.units  # noqa: F401 - simplify loads it, and it evaluates names as it loads
    from sympy.parsing import sympy_parser

    sympy_parser.eval_expr = _take_numbers_only


def _read_all(lines: "SimpleQueue[str]") -> None:
    """Hand over each line; at the end of input, end the process even in the midst of work."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def main() -> None:
    """Answer requests until the input ends. The first line is the set-up."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _die_with_parent()
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read_all, args=(lines,), daemon=True).start()
    setup = json.loads(lines.get())
    prepare(setup["path"])
    protect(setup["memory_mib"])
    replies.write('{"ready": true}\n')
    replies.flush()
    while True:
        request = json.loads(lines.get())
        begun = time.monotonic()
        reply = answer(request) | {"seconds": time.monotonic() - begun}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
