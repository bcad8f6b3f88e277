import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aimo2.parse import (
    BoxSeen,
    CodeBlock,
    Event,
    FenceParser,
    InventedOutput,
    LoopDetector,
    cut_middle,
    indent_lines,
    open_fence,
)


def parse(*chunks: str) -> list[Event]:
    parser = FenceParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.finish()


def only_block(text: str) -> CodeBlock:
    (block,) = [event for event in parse(text) if isinstance(event, CodeBlock)]
    return block


@pytest.mark.parametrize(
    ("text", "code", "indent"),
    [
        ("```python\nprint(1)\n```\n", "print(1)", ""),
        ("~~~py\nprint(1)\n~~~\n", "print(1)", ""),
        ("````python\nx = '```'\n````\n", "x = '```'", ""),
        ("   ```python\n   if x:\n       y\n   ```\n", "if x:\n    y", "   "),
        ("1. Run:\n\n   ```Python3\n   a = 1\n   ```\n", "a = 1", "   "),
        ("- ```python\n  a = 1\n  ```\n", "a = 1", "  "),
        ("> ```python\na = 1\n```\n", "a = 1", "  "),
        ("\t```python\n\ta = 1\n\t```\n", "a = 1", "\t"),
        ("Here is it: ```python\na = 1\n```\n", "a = 1", ""),
        ("``` python \na = 1\n```   \n", "a = 1", ""),
        ("```{python}\na = 1\n```\n", "a = 1", ""),
        ("```python title=x\na = 1\n```\n", "a = 1", ""),
        ("```python\n    a = 1\n    b = 2\n```\n", "a = 1\nb = 2", ""),
        ("<think>\nso\n```python\na = 1\n```\n", "a = 1", ""),
        ("```python\nprint(1)```\n", "print(1)", ""),
        ("1. ```python\n   a = 1\n   print(a)```  \n", "a = 1\nprint(a)", "   "),
        ("```python3.11\na = 1\n```\n", "a = 1", ""),
        ("```Python:\na = 1\n```\n", "a = 1", ""),
        ("```python print(1)\n```\n", "print(1)", ""),
        ("```python\tprint(1)\nprint(2)\n```\n", "print(1)\nprint(2)", ""),
        (
            "```python for i in range(3):\n    print(i)\n```\n",
            "for i in range(3):\n    print(i)",
            "",
        ),
        ("```python print(1)```\n", "print(1)", ""),
        ("```python for the first part\na = 1\n```\n", "a = 1", ""),
        ("```python\r\na = 1\r\n```\r\n", "a = 1\r", ""),
        ("So: ```python\r\na = 1\n```\n", "a = 1", ""),
    ],
)
def test_block_is_found_with_its_code_dedented(text: str, code: str, indent: str) -> None:
    block = only_block(text)
    assert (block.code, block.indent, block.closed) == (code, indent, True)
    assert block.runnable
    assert text[block.end :] == ""


def test_offsets_delimit_the_block_in_the_text() -> None:
    text = "Say\n```python\nprint(1)\n```\nand more"
    block = only_block(text)
    assert text[block.start : block.end] == "```python\nprint(1)\n```\n"


def test_a_fence_inside_a_triple_quoted_string_does_not_close() -> None:
    code = 's = """\n```\nnot the end\n```\n"""\nprint(s)'
    assert only_block(f"```python\n{code}\n```\n").code == code


def test_a_fence_at_the_end_of_a_line_inside_a_string_does_not_close() -> None:
    code = 's = """begins```\ngoes on```\nends"""\nprint(s)'
    assert only_block(f"```python\n{code}```\n").code == code


@pytest.mark.parametrize(
    "line", ["Use ```python print(1)``` here", "```x```", "```python is fine```"]
)
def test_code_within_a_sentence_is_no_block(line: str) -> None:
    assert parse(f"{line}\n") == []


@pytest.mark.parametrize("code", ['x = "a # b"', "# it's", "y = 'it\\'s'", 'z = \'"""\''])
def test_quotes_in_comments_and_plain_strings_open_nothing(code: str) -> None:
    assert only_block(f"```python\n{code}\n```\n").code == code


def test_a_string_that_never_ends_gives_the_fence_its_meaning_back() -> None:
    text = '```python\ns = """oops\n```\n' + "some talk\n" * 40
    block = only_block(text)
    assert block.code == 's = """oops'
    assert text[: block.end].endswith("```\n")
    short = only_block('```python\ns = """oops\n```\nbye')
    assert (short.code, short.closed) == ('s = """oops', True)


def test_a_block_cut_by_the_end_of_the_stream_is_not_closed() -> None:
    block = only_block("```python\nprint(1)\nprint(2")
    assert (block.code, block.closed) == ("print(1)\nprint(2", False)


def test_a_closing_fence_without_a_line_break_counts_at_the_end() -> None:
    assert only_block("```python\nprint(1)\n```").closed


def test_an_inner_shorter_or_other_fence_does_not_close() -> None:
    assert only_block("~~~python\n```\nx\n~~~\n").code == "```\nx"


def test_output_begun_by_the_model_ends_the_block_before_it() -> None:
    text = "```python\nprint(1)\n```output\n7\n```\n"
    block = parse(text)[0]
    assert isinstance(block, CodeBlock)
    assert (block.code, block.closed) == ("print(1)", False)
    assert text[: block.end] == "```python\nprint(1)\n"


def test_output_without_code_is_reported_where_it_begins() -> None:
    text = "So:\n```output\n5\n```\n"
    assert parse(text)[0] == InventedOutput(start=4, indent="")


def test_an_unlabelled_block_before_an_output_block_was_code() -> None:
    blocks = [e for e in parse("```\n1+1\n```\n\n```output\n") if isinstance(e, CodeBlock)]
    assert [block.language for block in blocks] == ["", "python"]
    assert not blocks[0].runnable
    assert blocks[1].runnable


@pytest.mark.parametrize(
    ("text", "runnable"),
    [
        ("```\nx = 5\nprint(x)\n```\n", True),
        ("```\nThe answer is 5.\n```\n", False),
        ("```\n41040\n```\n", False),
        ("```latex\nx = 5\n```\n", False),
        ("```bash\nls\n```\n", False),
        ("```\n\n```\n", False),
    ],
)
def test_only_python_is_runnable(text: str, runnable: bool) -> None:
    assert only_block(text).runnable is runnable


def test_a_box_is_seen_at_the_end_of_its_line_outside_code_and_thinking() -> None:
    assert parse("so \\boxed{3}") == [BoxSeen(end=12)]
    assert parse("so \\boxed{3}.\nmore") == [BoxSeen(end=14)]
    assert not [e for e in parse("```python\nprint('\\boxed{3}')\n```\n") if type(e) is BoxSeen]
    assert parse("<think>\n\\boxed{3}\n</think>\nx\n") == []
    assert parse("<think>\n\\boxed{3}\n</think>\n\\boxed{4}\n") == [BoxSeen(end=37)]
    assert BoxSeen(end=14) in parse("```\n\\boxed{3}\n```\n")
    assert BoxSeen(end=22) in parse("```latex\n\\boxed{3}```\n")


PIECES = st.sampled_from(
    ["```", "python", "output", "\n", "~~~", "  ", "x = 1", '"""', "'", "\\boxed{4}", "- ", "# ",
     "<think>", "</think>", "`", "````", "py", "> ", "\\", "print(x)\n", "\n```\n", "```python\n",
     "<tool_call>", "</tool_call>", "print(x)", "{", "\r\n", " "]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40).map("".join), st.data())
@example("```python\nx\n```\n```output\n", None)
def test_any_split_of_the_stream_gives_the_same_events(
    text: str, data: st.DataObject | None
) -> None:
    cuts: list[int] = []
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    chunks = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert parse(*chunks) == parse(text) == parse(*text)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_blocks_stand_in_order_inside_the_text(text: str) -> None:
    blocks = [event for event in parse(text) if isinstance(event, CodeBlock)]
    for block in blocks:
        assert 0 <= block.start <= block.end <= len(text)


class CountingString(str):
    """Counts how many characters the parser looks for line breaks in."""

    looked = 0

    def find(self, *args: object) -> int:
        CountingString.looked += len(self)
        return super().find(*args)  # type: ignore[arg-type]


def test_a_token_costs_work_in_proportion_to_itself() -> None:
    parser = FenceParser()
    parser.feed("```python\n")
    CountingString.looked = 0
    for _ in range(10_000):
        parser.feed(CountingString("tok "))
    assert CountingString.looked <= 2 * 40_000


@given(
    st.text(alphabet="abc \n", min_size=1, max_size=80).filter(str.strip),
    st.integers(0, 300),
    st.integers(1, 97),
)
def test_repetition_is_noticed_whatever_the_chunks(unit: str, lead: int, size: int) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(lead)) + unit * (4000 // len(unit) + 1)
    detector = LoopDetector()
    for start in range(0, len(text), size):
        detector.feed(text[start : start + size])
    whole = LoopDetector()
    whole.feed(text)
    assert detector.looped
    assert whole.looped


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"Step {i}: add {i * i} to the sum and carry {i % 7}.\n" for i in range(200)),
        "    return x\n" * 5 + "done\n" * 3,
        " " * 5000,
        "".join(f"{i * 7919 % 1009}, " for i in range(1000)),
    ],
)
def test_text_that_goes_on_is_no_loop(text: str) -> None:
    assert not LoopDetector().feed(text)


def test_cutting_keeps_both_ends_and_says_how_much_is_missing() -> None:
    text = "a" * 500 + "b" * 500
    short, cut = cut_middle(text, 300)
    assert cut
    assert short == "a" * 200 + "\n[... 700 characters cut ...]\n" + "b" * 100
    assert cut_middle(text, 1000) == (text, False)


def test_indentation_is_put_before_each_line() -> None:
    assert indent_lines("a\n\nb", "  ") == "  a\n  \n  b"


@pytest.mark.parametrize(
    ("text", "fence"),
    [
        ("", None),
        ("x\n```python\nprint(1)", "```"),
        ("```python\nprint(1)\n```", None),
        ("```python\nprint(1)\n```\n```output\n1", "```"),
        ("```python\nprint(1)\n```\n```output\n1\n```\nSo", None),
        ("```python\nprint(1)\n```output\n1", "```"),
        ("````python\n```\n", "````"),
        ("1. ~~~py\n   x", "   ~~~"),
        ("So ```python\nx", "```"),
        ("a ```b``` c", None),
        ("```python\nprint(1)```", None),
        ("```python print(1)", "```"),
        ("```python print(1)```", None),
        ('```python\ns = """oops\n```\nSo', None),
        ("```python\r\nprint(1)\r\n```\r\nSo", None),
        ("<tool_call>print(1)", "</tool_call>"),
        ("<tool_call>print(1)</tool_call>", None),
    ],
)
def test_the_fence_that_closes_the_last_block_is_known(text: str, fence: str | None) -> None:
    assert open_fence(text) == fence


@pytest.mark.parametrize(
    ("inside", "code"),
    [
        ("x = 1\nprint(x)", "x = 1\nprint(x)"),
        ('{"name": "python", "arguments": {"code": "print(1)\\nprint(2)"}}', "print(1)\nprint(2)"),
        ('{"name": "python", "arguments": "print(1)"}', "print(1)"),
        ('{"a": 1}', '{"a": 1}'),
        ('[{"name": "python", "arguments": {"code": "print(1)"}}, {}]', "print(1)"),
        (r'{"name": "python", "arguments": "{\"code\": \"print(1)\"}"}', "print(1)"),
        ('{"name": "python", "arguments": "{1, 2}"}', "{1, 2}"),
        ("[1, 2]", "[1, 2]"),
        ("{1, 2}", "{1, 2}"),
        ("print('```')", "print('```')"),
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "Let me see.\n<tool_call>\n{inside}\n</tool_call>\nrest",
        "<tool_call>\n{inside}</tool_call>\nrest",
        "<tool_call> {inside}\n</tool_call>\nrest",
        "  <tool_call>{inside}</tool_call>  \r\nrest",
    ],
)
def test_a_tool_call_is_a_block_of_code(form: str, inside: str, code: str) -> None:
    parser = FenceParser()
    text = form.format(inside=inside)
    (block,) = [event for cut in text for event in parser.feed(cut)]
    assert isinstance(block, CodeBlock)
    assert (block.code, block.runnable, block.closed) == (code, True, True)
    assert text[: block.end].rstrip().endswith("</tool_call>")
    assert open_fence(text) is None
    assert open_fence(text.partition("</tool")[0]) == "</tool_call>"
