import pytest
import sympy.physics.units  # noqa: F401 - it evaluates names as it loads
from sympy.parsing import sympy_parser

from aimo2.answers import worker


@pytest.fixture(autouse=True)
def no_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sympy_parser, "eval_expr", worker._take_numbers_only)


@pytest.mark.parametrize(
    ("code", "text"),
    [("Integer (73 )", "73"), ("Float ('0.5' )", "1/2"), ("Float ('1e3' )", "1000")],
)
def test_the_numbers_that_sympy_makes_are_made_exactly(code: str, text: str) -> None:
    assert str(worker._take_numbers_only(code, {}, {})) == text


@pytest.mark.parametrize(
    "code",
    ["Symbol ('x' )", "Integer (1 )+Integer (2 )", "__import__('os')", "Integer (f(1) )", "", "73"],
)
def test_other_text_is_never_evaluated(code: str) -> None:
    with pytest.raises(ValueError, match="never evaluated"):
        worker._take_numbers_only(code, {}, {})


def test_sympify_of_text_is_refused() -> None:
    with pytest.raises(ValueError, match="never evaluated"):
        sympy_parser.parse_expr("print(73)")


@pytest.mark.parametrize(
    "latex",
    ['abc("d")', "__import__('os').system('true')", "lambda", "exec(1)", r"\text{print(1)}", "f.x"],
)
def test_code_becomes_symbols_or_nothing(latex: str) -> None:
    reply = worker.answer({"op": "value", "latex": latex})
    assert "value" not in reply


@pytest.mark.parametrize("event", ["os.system", "subprocess.Popen", "socket.connect", "os.fork"])
def test_processes_and_sockets_are_refused(event: str) -> None:
    with pytest.raises(PermissionError, match=event):
        worker._refuse(event, ())
    worker._refuse("open", ())


@pytest.mark.parametrize(
    ("latex", "reply"),
    [
        (r"\log_{2}1024", {"value": "10/1"}),
        (r"\sin(\pi/6)", {"value": "1/2"}),
        (r"\sqrt{2}", {"note": "not an integer"}),
        ("x+1", {"note": "not a number"}),
        (r"\frac{", {"note": "not a number"}),
        (r"\foo", {"note": "not a number"}),
        (r"\infty", {"note": "not an integer"}),
    ],
)
def test_a_value_is_rational_or_explained(latex: str, reply: dict[str, str]) -> None:
    assert worker.answer({"op": "value", "latex": latex}) == reply


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        (r"\sqrt{8}", "2.8284271247461900976", False),
        ("(x+1)^{2}", "x^{2}+2x+1", True),
        ("x+y", "x+z", False),
        ("x = 5", "2x = 10", True),
        ("x = 5", "x = 6", False),
        ("x = 5", "5", False),
        ("x < y", "2x < 2y", True),
        ("x < y", "-x < -y", False),
        ("x < y", "y > x", True),
        ("x < y", r"x \leq y", False),
        ("i^{2}", "-1", True),
        (r"\sum_{i=1}^{3}i", "6", True),
        (r"\foo", r"\foo", False),
        (r"\infty", r"-\infty", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "3", False),
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"\{1,2\}", "3", False),
    ],
)
def test_equality(a: str, b: str, *, equal: bool) -> None:
    assert worker.answer({"op": "equal", "a": a, "b": b}) == {"equal": equal}


@pytest.mark.parametrize("error", [MemoryError, RecursionError, ZeroDivisionError])
def test_a_failure_of_the_algebra_is_a_note(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: str) -> bool:
        raise error

    monkeypatch.setattr(worker, "equal", fail)
    reply = worker.answer({"op": "equal", "a": "1", "b": "2"})
    assert set(reply) == {"note"}
    assert error.__name__ in reply["note"]
