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
        ("%time x = 5\nx", "5\n"),
        (">>> x = 6\n>>> x\n6", "6\n"),
        ("open('written.py', 'w').write('z = 4'); import written; written.z", "4\n"),
        ("display(1, 'a')", "1\n'a'\n"),
        ("from IPython.display import Math, display\ndisplay(Math('x^2'))", "x^2\n"),
        ("from sympy import *\ninit_printing()\nsqrt(8)", "2*sqrt(2)\n"),
        ("from multiprocessing import Pool\nwith Pool(4) as p: print(p.map(abs, [-1]))", "[1]\n"),
        (
            "from concurrent.futures import ProcessPoolExecutor as P\n"
            "with P() as p: print(list(p.map(abs, [-2])))",
            "[2]\n",
        ),
        (
            "import multiprocessing as m\nq = m.Queue()\n"
            "p = m.Process(target=q.put, args=(3,)); p.start(); p.join()\nq.get()",
            "3\n",
        ),
        ("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(9)", "9\n"),
        ("import sys\nsys.stdout.reconfigure(line_buffering=True); sys.stdout.close(); 3", "3\n"),
        (
            "import sys\nsys.setrecursionlimit(10**6)\n"
            "def f(n): return n and 1 + f(n - 1)\nf(70_000)",
            "70000\n",
        ),
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
        (
            "from multiprocessing import get_context, synchronize\n"
            "synchronize.Lock(ctx=get_context())",
            "other",
            "no other programs or processes here",
        ),
        ("raise ExceptionGroup('g', [ValueError(7)])", "other", "  ValueError: 7"),
        ("raise ValueError('\\ud800')", "value", "ValueError: \\ud800"),
        ("import os\nos.fork()", "other", "no other programs or processes here"),
        ("import socket\nsocket.socket()", "other", "(no network and no other programs"),
    ],
)
def test_how_a_cell_fails(one_cell: One, code: str, kind: ErrorKind, last_line: str) -> None:
    result = one_cell(code)
    assert (result.error, result.state_lost) == (kind, False)
    assert last_line in result.traceback.splitlines()[-1]
    assert len(result.traceback) < 4000


@pytest.mark.parametrize(
    ("code", "import_"),
    [
        ("factor(12)", "from sympy import factor"),
        ("def f(): return sqrt(2)\nf()", "from sympy import sqrt"),
        ("comb(4, 2)", "from math import comb"),
        ("np.array([1])", "import numpy as np"),
        ("sp.symbols('x')", "import sympy as sp"),
        ("from sympy.ntheory.modular import mod_inverse", "from sympy import mod_inverse"),
    ],
)
def test_the_import_that_a_name_lacks_is_named(one_cell: One, code: str, import_: str) -> None:
    assert one_cell(code).traceback.endswith(f" ({import_})")


@pytest.mark.parametrize(
    "code",
    [
        "E + 1",  # more likely a point than Euler's number
        "beta + 1",
        "total_cost",
        "__all__",
        "raise NameError('sqrt')",
        "from sympy import no_such_name",
        "from sympy import pow",  # a built-in
        "import sympy\nsympy.no_such_name",
        "import sys\nsys.modules['sympy'] = sys.modules['math'] = 5\nfactor(12)",
        "import sympy\nsympy.__all__ = 5\nno_such_name",
        "import sympy\nvars(sympy)['_secret'] = 1\n_secret",
        "class sqrt(NameError): pass\nraise sqrt(name='sqrt')",
    ],
)
def test_no_import_is_named_where_none_is_known(one_cell: One, code: str) -> None:
    result = one_cell(code)
    assert result.error in ("name", "import", "type")
    assert not result.traceback.endswith(")")
    assert "site-packages" not in result.traceback


def test_an_own_definition_wins_and_nothing_is_defined_by_itself(lab: Lab) -> None:
    first = lab.cells("factor(12)", "def factor(n): return n\nfactor(12)", "'sqrt' in globals()")
    assert [each.error for each in first] == ["name", None, None]
    assert [each.output for each in first[1:]] == ["12\n", "False\n"]


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


def test_the_runner_needs_no_built_in_that_a_cell_can_break(lab: Lab) -> None:
    breaks = """
import builtins, sys, threading
builtins.print = builtins.repr = builtins.len = builtins.isinstance = None
sys.unraisablehook = threading.excepthook = sys.setrecursionlimit = None
__builtins__ = None
"""
    cells = lab.cells(breaks, "6 * 7", "1 / 0")
    assert [cells[1].output, cells[2].error] == ["42\n", "value"]


def test_a_thread_and_a_destructor_fail_in_few_words(one_cell: One) -> None:
    thread = "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start(); t.join()"
    said = one_cell(thread).output
    assert said.startswith("Exception in Thread-1 (<lambda>):\n")
    assert said.endswith("ZeroDivisionError: division by zero\n")
    assert "threading.py" not in said
    said = one_cell("class A:\n  def __del__(self): [][1]\nA()\nNone").output
    assert "A.__del__" in said
    assert said.endswith("IndexError: list index out of range\n")


def test_future_statements_hold_for_later_cells(lab: Lab) -> None:
    first, later = lab.cells("from __future__ import annotations", "def f(a: Undefined): 0\n'ok'")
    assert (first.error, later.output) == (None, "'ok'\n")


def test_endless_recursion_under_a_huge_limit_is_told_as_such(one_cell: One) -> None:
    result = one_cell("import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)")
    assert (result.error, result.state_lost) == ("recursion", False)
    assert "more calls ..." in result.traceback


def test_drawing_gives_what_can_be_computed(one_cell: One) -> None:
    code = """
import matplotlib.pyplot as plt
n, bins, patches = plt.hist([1, 2, 2, 3], bins=2)
figure, (left, right) = plt.subplots(1, 2)
line, = left.plot([1])
for ax in plt.subplots(2, 3)[1].flat: ax.set_title("t")
print(n.tolist(), bins.tolist())
plt.show()
"""
    result = one_cell(code)
    assert (result.error, result.output.splitlines()[1:]) == (None, ["[1, 3] [1.0, 2.0, 3.0]"])


def test_an_alarm_ends_with_its_cell(lab: Lab) -> None:
    alarm = """
import signal, time
signal.signal(signal.SIGALRM, lambda *a: 1 / 0)
signal.setitimer(signal.ITIMER_REAL, {})
"""
    cells = lab.cells(
        alarm.format(0.1),
        "time.sleep(0.3); 'undisturbed'",
        alarm.format(0.1) + "time.sleep(5)",
        "signal.signal(signal.SIGALRM, signal.SIG_DFL); signal.alarm(1);",
        "time.sleep(1.2); 'alive'",
    )
    assert [cell.output for cell in cells[1::3]] == ["'undisturbed'\n", "'alive'\n"]
    assert [cell.error for cell in cells] == [None, None, "value", None, None]
