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
    ("code", "becomes"),
    [
        # A block was begun for the model, which went on in words and opened its own.
        ("1. First, we'll count.\n\n```python\nx = 1\nx", "\n\n\nx = 1\nx"),
        ("Let's see.\n  ```Python\n  x = 1\n  x", "\n\nx = 1\nx"),
        ("import math\n```python\nx = math.pi", "import math\n\nx = math.pi"),
        ("One.\n```py\nx = (\n```python3\nx = 2", "\n\n\n\nx = 2"),
        ("Time it.\n```python\n%time x = 1", "\n\nx = 1"),
    ],
)
def test_a_fence_inside_a_cell_begins_the_code_anew(code: str, becomes: str) -> None:
    """Lines keep their numbers, which a traceback names."""
    assert mend(code) == becomes


@pytest.mark.parametrize(
    "code",
    [
        "a = 7\nprint(a\n% 3)",
        "s = '''\n%time\n!ls\n>>> x\n'''",
        "s = '''\n```python\nx\n```\n'''",
        "x = 5 # !pip\n'100 %'",
        "",
    ],
)
def test_what_is_python_stays_as_it_is(code: str) -> None:
    assert mend(code) == code


def test_text_within_strings_is_not_touched_beside_a_command() -> None:
    code = "s = '''\n%time\n!ls\n'''\n%matplotlib inline"
    assert mend(code) == "s = '''\n%time\n!ls\n'''\npass"
    assert mend(code.replace("!ls", "```python")) == "s = '''\n%time\n```python\n'''\npass"


@pytest.mark.parametrize(
    "code",
    [
        "x = (",
        "%time\nx = (",
        "One.\n```python\nx = (",
        "```python\n" * 9 + "x x",
        "if x\n!ls",
        "\0",
        "x = 1 +\n" * 99,
    ],
)
def test_what_cannot_be_mended_fails_as_it_came(code: str) -> None:
    with pytest.raises((SyntaxError, ValueError)) as found:
        ast.parse(code)
    with pytest.raises(type(found.value)) as raised:
        mend(code)
    assert str(raised.value) == str(found.value)
