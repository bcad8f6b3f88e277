"""What a notebook takes besides Python becomes Python; strings and real errors stay."""

import ast

import pytest

from aimo2.sandbox.guest.mend import mended


def mend(code: str) -> str:
    return mended(code, ast.parse)[0]


@pytest.mark.parametrize(
    ("code", "becomes"),
    [
        ("!pip install sympy\nx = 1", "pass\nx = 1"),
        ("pip install sympy -q", "pass"),
        ("%matplotlib inline\n!ls \\\n  -l\n1", "pass\npass\n1"),
        ("%%time\nx = 1", "pass\nx = 1"),
        ("%time x = 1\n%timeit -n 10 -r 3 f(x)", "x = 1\nf(x)"),
        ("def f():\n    %time y = 2\n    return y", "def f():\n    y = 2\n    return y"),
        ("files = !ls\na, b = %who", "files = None\na, b = None"),
        ("sympy.factor?\n?print", "pass\npass"),
        ("  x = 1\n  y = 2", "x = 1\ny = 2"),
        ("```python\nx = 1\n```", "x = 1"),
        ("\n```\nx = 1", "x = 1"),
        (">>> def f():\n...     return 1\n...\n>>> f()\n1", "def f():\n    return 1\n\nf()"),
    ],
)
def test_a_command_becomes_python(code: str, becomes: str) -> None:
    assert mend(code) == becomes


@pytest.mark.parametrize(
    "code",
    ["a = 7\nprint(a\n% 3)", "s = '''\n%time\n!ls\n>>> x\n'''", "x = 5 # !pip\n'100 %'", ""],
)
def test_what_is_python_stays_as_it_is(code: str) -> None:
    assert mend(code) == code


def test_text_within_strings_is_not_touched_beside_a_command() -> None:
    code = "s = '''\n%time\n!ls\n'''\n%matplotlib inline"
    assert mend(code) == "s = '''\n%time\n!ls\n'''\npass"


@pytest.mark.parametrize("code", ["x = (", "%time\nx = (", "if x\n!ls", "\0", "x = 1 +\n" * 99])
def test_what_cannot_be_mended_fails_as_it_came(code: str) -> None:
    with pytest.raises((SyntaxError, ValueError)) as found:
        ast.parse(code)
    with pytest.raises(type(found.value)) as raised:
        mend(code)
    assert str(raised.value) == str(found.value)
