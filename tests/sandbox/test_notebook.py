"""Cells behave as in a notebook, and say plainly what went wrong."""

from collections.abc import Callable

import pytest

from aimo2.sandbox import CellResult
from aimo2.types import ErrorKind
from tests.sandbox.conftest import Lab

One = Callable[[str], CellResult]


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("2 + 2", "4\n"),
        ("x = 3\nx", "3\n"),
        ("x = 3\nx;", ""),
        ("None", ""),
        ("'text'", "'text'\n"),
        ("print('a'); 'b'", "a\n'b'\n"),
        ("", ""),
        ("# nothing", ""),
        ("import sympy\nsympy.sqrt(8)", "2*sqrt(2)\n"),
        ("from sympy import *\nx = symbols('x')\nsolve(x**2 - 2)", "[-sqrt(2), sqrt(2)]\n"),
        ("import numpy as np\nnp.arange(3)", "array([0, 1, 2])\n"),
        ("import numpy as np\n[np.int64(3), np.sqrt(np.float64(4))]", "[3, 2.0]\n"),
        ("x = 5\nx is 5", "True\n"),
        ("if __name__ == '__main__':\n    print('main')", "main\n"),
        ("import asyncio\nawait asyncio.sleep(0)\n5", "5\n"),
        ("async def f(): return 6\nawait f()", "6\n"),
        ("import asyncio\nasync def f(): return 7\nprint(asyncio.run(f()))", "7\n"),
        ("print(1)\nexit()\nprint(2)", "1\n"),
        ("print(1)\nquit(0)", "1\n"),
        ("import sys\nsys.exit('bye')", "bye\n"),
        ("    y = 1\n    print(y)", "1\n"),
        ("%matplotlib inline\n!pip install sympy\nprint(3)", "3\n"),
        ("import sys\nprint('e', file=sys.stderr)", "e\n"),
        ("import sys\nsys.stdout.buffer.write(b'raw');", "raw"),
        ("'\\d'", "'\\\\d'\n"),
        ("len(str(7 ** 100_000))", "84510\n"),
        ("from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\nA(1)", "A(n=1)\n"),
        ("import pickle\nclass B: pass\ntype(pickle.loads(pickle.dumps(B()))).__name__", "'B'\n"),
        (
            "import threading as t\na = t.Thread(target=print, args=(8,))\na.start(); a.join()",
            "8\n",
        ),
        ("open('notes', 'w').write('kept'); open('notes').read()", "'kept'\n"),
        ("import multiprocessing, sqlite3, decimal, itertools; 1", "1\n"),
        ("import os\n[name for name in os.environ if 'KEY' in name or 'TOKEN' in name]", "[]\n"),
    ],
)
def test_what_a_cell_shows(one_cell: One, code: str, output: str) -> None:
    result = one_cell(code)
    assert (result.output, result.error, result.traceback) == (output, None, "")
    assert (result.bytes_dropped, result.state_lost) == (0, False)
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("code", "kind", "last_line"),
    [
        ("x = (", "syntax", "SyntaxError: '(' was never closed"),
        ("x = '\\0'\n\0", "syntax", "SyntaxError: "),
        ("x = " + "(" * 5000 + ")" * 5000, "syntax", "SyntaxError: "),
        ("undefined", "name", "NameError: name 'undefined' is not defined"),
        ("import no_such_thing", "import", "(available: numpy, sympy, mpmath, networkx, scipy"),
        ("from math import nothing", "import", "ImportError: cannot import name 'nothing'"),
        ("1 + 'a'", "type", "TypeError: unsupported operand"),
        ("(1).nothing", "type", "AttributeError: 'int' object"),
        ("int('x')", "value", "ValueError: invalid literal"),
        ("[][1]", "value", "IndexError: list index out of range"),
        ("1 / 0", "value", "ZeroDivisionError: division by zero"),
        ("assert 1 == 2, 'no'", "assertion", "AssertionError: no"),
        ("def f(): f()\nf()", "recursion", "RecursionError: maximum recursion depth exceeded"),
        ("bytearray(10**10)", "memory", "MemoryError"),
        ("input('n? ')", "input", "InputUnavailable: input() is not available here"),
        ("import sys\nsys.stdin.readline()", "input", "InputUnavailable: input() is not"),
        ("while True: print('y' * 99)", "output", "OutputLimitExceeded: the cell wrote more than"),
        ("raise KeyboardInterrupt", "other", "KeyboardInterrupt"),
        ("class E(Exception):\n def __str__(self): 1/0\nraise E", "other", "E: <exception str()"),
        ("str(10 ** 400_000)", "value", "Exceeds the limit (300000 digits)"),
        ("open('/etc/passwd')", "other", "/etc/passwd"),
        ("import os\nos.fork()", "other", "no other programs or processes here"),
        ("import socket\nsocket.socket()", "other", "(no network and no other programs"),
    ],
)
def test_how_a_cell_fails(one_cell: One, code: str, kind: ErrorKind, last_line: str) -> None:
    result = one_cell(code)
    assert (result.error, result.state_lost) == (kind, False)
    assert last_line in result.traceback.splitlines()[-1]
    assert len(result.traceback) < 4000


def test_a_traceback_holds_the_frames_of_cells_only(lab: Lab) -> None:
    cells = lab.cells("import sympy\ndef f(x):\n    return sympy.sqrt(object())", "f(1)")
    assert cells[1].traceback.splitlines() == [
        "Traceback (most recent call last):",
        '  File "<cell 2>", line 1, in <module>',
        "    f(1)",
        '  File "<cell 1>", line 3, in f',
        "    return sympy.sqrt(object())",
        cells[1].traceback.splitlines()[-1],
    ]
    assert "SympifyError" in cells[1].traceback


def test_a_failing_cell_keeps_what_ran_before_the_failure(lab: Lab) -> None:
    failed, after = lab.cells("a = 1\nprint(a)\nb = 1 / 0\nc = 2", "a, 'b' in globals()")
    assert (failed.output, failed.error) == ("1\n", "value")
    assert after.output == "(1, False)\n"


def test_a_long_message_is_cut_in_its_middle(one_cell: One) -> None:
    result = one_cell("{}['k' * 100_000]")
    assert len(result.traceback) < 2000
    assert " ... " in result.traceback


def test_the_last_value_has_a_name(lab: Lab) -> None:
    assert lab.cells("40 + 2", "_ + 1")[1].output == "43\n"


def test_drawing_is_harmless(one_cell: One) -> None:
    code = """
import matplotlib.pyplot as plt
figure, axes = plt.subplots(2, 2)
axes[0, 1].plot([1, 2], label="x").set(title="t")
with plt.style.context("dark"):
    plt.show()
print("done")
"""
    result = one_cell(code)
    assert result.error is None
    assert result.output.endswith("done\n")


def test_tasks_left_behind_disturb_nobody(lab: Lab) -> None:
    code = (
        "import asyncio\nt = asyncio.ensure_future(asyncio.sleep(9))\nawait asyncio.sleep(0); 1/0"
    )
    failed, after = lab.cells(code, "await asyncio.sleep(0)\n'fine'")
    assert failed.error == "value"
    assert after.output == "'fine'\n"


def test_a_cell_may_break_its_own_streams_for_itself_only(lab: Lab) -> None:
    cells = lab.cells("import sys\nsys.stdout = None\ndel __builtins__.input", "print('back')")
    assert cells[1].output == "back\n"
