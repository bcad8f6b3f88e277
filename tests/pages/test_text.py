import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from aimo2.pages.text import (
    Segment,
    Splitter,
    code_html,
    escaped,
    one_line,
    prose_html,
    shortened,
    visible,
)

CODE = "a\n```python\nprint('x')\n```\nb\n"


def split(*parts: str) -> list[Segment]:
    splitter = Splitter()
    return [segment for part in parts for segment in splitter.feed(part)]


def test_nothing_acts_and_nothing_hides() -> None:
    shown = visible("a\x1b[31m\u202eevil\u2066\u200b\x00\ud800\r\nb\r")
    assert shown == "a␛[31m⟨U+202E⟩evil⟨U+2066⟩⟨U+200B⟩␀�\nb␍"
    assert visible("é 中 א \t\n∑") == "é 中 א \t\n∑"


@given(some.text())
def test_escaped_text_has_no_markup(text: str) -> None:
    shown = escaped(text)
    assert not set(shown) & set("<>\"'\x1b\u202e")
    shown.encode()


def test_one_line_is_cut_and_safe() -> None:
    assert one_line("a\n  b\tc", 10) == "a b c"
    assert one_line("x" * 50, 10) == "xxxxxxxxx…"
    assert "\x1b" not in one_line("\x1b]0;x\x07", 10)


def test_the_middle_of_a_long_text_is_left_out_and_said_so() -> None:
    short = shortened("a" * 50 + "b" * 1000 + "c" * 50, 100)
    assert short.startswith("a" * 50)
    assert short.endswith("c" * 50)
    assert "1000 characters left out" in short
    assert shortened("abc", 100) == "abc"


def test_prose_and_code_are_told_apart() -> None:
    assert split(CODE) == [
        Segment("prose", "a\n"),
        Segment("code", "print('x')\n", "python"),
        Segment("prose", "b\n"),
    ]


def test_a_fence_may_open_in_one_part_and_close_in_another() -> None:
    parts = split("```python\n", "print(1)\n```\nso\n", "```output\n1\n```\n")
    assert [(part.kind, part.language) for part in parts] == [
        ("code", "python"), ("prose", ""), ("code", "output"),
    ]  # fmt: skip


def test_a_shorter_fence_does_not_close_a_longer_one() -> None:
    (only,) = split("````\n```\ninside\n````\n")
    assert only.text == "```\ninside\n"


def test_formulas_become_mathml_and_odd_ones_stay_source() -> None:
    shown = prose_html(r"Let \(x^2\) and $$\frac12$$ but \(\odd{x}\) <b>")
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in shown
    assert '<math display="block">' in shown
    assert r'<code class="tex">\(\odd{x}\)</code>' in shown
    assert shown.endswith(" &lt;b&gt;")


@pytest.mark.parametrize("text", ["costs $5 and $6", "a $ b $ c", r"\(open", "$$", "$x\ny$"])
def test_prices_and_open_delimiters_are_no_formulas(text: str) -> None:
    assert "<math" not in prose_html(text)
    assert "tex" not in prose_html(text)


def test_code_is_highlighted_and_escaped() -> None:
    shown = code_html('def f():\n    return "<script>" # x')
    assert '<span class="k-k">def</span>' in shown
    assert "<script" not in shown
    assert "<span" not in code_html("x = 1\n" * 5000)


@pytest.mark.parametrize("piece", ["\\(", "$", "$$x", "**", "```", "`", "\\[x", "~~~\n", "$a"])
def test_hostile_repetition_takes_linear_time(piece: str) -> None:
    text = piece * (50_000 // len(piece))
    began = time.perf_counter()
    for segment in split(text):
        prose_html(segment.text)
    assert time.perf_counter() - began < 5
