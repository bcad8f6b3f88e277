import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.answers import Extracted, extract, extract_boxed, extract_stated

FENCES = (
    "```python\n{}\n```",
    "~~~sympy\n{}\n~~~",
    "  ```output\n  {}\n  ```",
    "- ```py\n  {}\n  ```",
    "```python3.11\r\n{}\r\n```\r",
    "```python\n{}```",
    "<tool_call>\n{}\n</tool_call>",
    "<tool_call>\n{}</tool_call>",
)
PROSE = st.text(st.characters(exclude_characters="\\`~{}"), max_size=60)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{73}", "73"),
        (r"\boxed {73}", "73"),
        ("\\boxed\n{73}", "73"),
        (r"\boxed 73.", "73"),
        (r"$\boxed73$", "73"),
        (r"\fbox{73}", "73"),
        (r"\boxed{ 73 }", "73"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x : x > 1\right\}}", r"\left\{x : x > 1\right\}"),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{1} and \boxed{\frac{1}{2}", "1"),
        (r"\boxed{ \boxed{73} }", r"\boxed{73}"),
        (r"\boxed{ \boxed{73}", "73"),
        (r"} } \boxed{73} { {", "73"),
        ("\\boxed{7\n\n} \\boxed{73}", "73"),
        (r"\boxed{0}", "0"),
        (r"\boxed{\text{even}}", r"\text{even}"),
    ],
)
def test_the_last_complete_box_is_taken(text: str, content: str) -> None:
    assert extract_boxed(text) == content


@pytest.mark.parametrize(
    "box",
    [
        r"\boxed{}",
        r"\boxed{ }",
        r"\boxed{...}",
        r"\boxed{\ldots}",
        r"\boxed{…}",
        r"\boxed{?}",
        r"\boxed{answer}",
        r"\boxed{\text{final answer}}",
        r"\boxed{\text{Your answer here}}",
        r"\boxed{\_\_}",
        r"\boxed{\square}",
        r"\boxed{\boxed{}}",
        r"\boxed{73",
        "\\boxed{7\n\n3}",
        r"\boxedsomething{73}",
        r"\boxed",
        "no box at all",
        "",
    ],
)
def test_a_placeholder_or_a_broken_box_is_no_answer(box: str) -> None:
    assert extract_boxed(box) is None
    assert extract_boxed(rf"\boxed{{5}} then {box}") == "5"


@pytest.mark.parametrize(
    "fence", [*FENCES, "```\n{}\n```", '<tool_call>{{"arguments": "{}"}}</tool_call>']
)
def test_code_and_output_blocks_hide_their_boxes(fence: str) -> None:
    block = fence.format(r"print('\boxed{1}')")
    assert extract(block) is None
    assert extract_boxed(f"\\boxed{{5}}\n{block}\nmore") == "5"
    assert extract_boxed(f"{block}\n\\boxed{{6}}") == "6"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"The solutions are $\boxed{3}$ and $\boxed{5}$.", "3, 5"),
        (r"$x=\boxed{3}$, $y_1 = \boxed{5}$", "3, 5"),
        (r"\boxed{1}, \boxed{2}, and \boxed{\frac{1}{3}}", r"1, 2, \frac{1}{3}"),
        (r"**\boxed{1}**\text{ or }\fbox{2}", "1, 2"),
        (r"\boxed{3} and \boxed{3}", "3"),
        (r"\boxed{7}. So $\boxed{3}$ or \boxed{5}", "3, 5"),
        (r"\boxed{?} and \boxed{5}", "5"),
        (r"\boxed{2/4} = \boxed{1/2}", "1/2"),
        (r"\boxed{3} and again \boxed{5}", "5"),
        ("\\boxed{3}\nand \\boxed{5}", "5"),
        (r"\boxed{ \boxed{73} }", r"\boxed{73}"),
    ],
)
def test_boxes_that_a_line_lists_are_one_answer_where_there_may_be_several(
    text: str, content: str
) -> None:
    assert extract(text, several=True) == Extracted(content, "boxed")
    last = extract_boxed(text)
    assert last is not None
    assert content.endswith(last)


def test_a_box_does_not_reach_over_a_code_block() -> None:
    assert extract_boxed("\\boxed{1\n```python\nx\n```\n}") is None


def test_a_labelled_fence_that_never_closes_hides_the_rest_and_a_bare_one_nothing() -> None:
    assert extract_boxed("```python\n\\boxed{1}") is None
    assert extract_boxed("text\n```\n\\boxed{1}") == "1"


@pytest.mark.parametrize("label", ["latex", "text", "markdown", "math", "", "LaTeX "])
@pytest.mark.parametrize("end", ["\n```", "\r\n```\r\nDone.", "```", ""])
def test_a_box_in_a_block_that_is_no_code_is_an_answer(label: str, end: str) -> None:
    text = f"\\boxed{{5}} no:\n```{label}\n\\boxed{{73}}{end}"
    assert extract(text) == Extracted("73", "boxed")


def test_a_carriage_return_hides_nothing_behind_code() -> None:
    text = "Code:\r\n```python\r\nprint(1)\r\n```\r\nSo \\boxed{73}.\r\n"
    assert extract_boxed(text) == "73"
    assert extract_stated(text.replace("So \\boxed{73}", "The answer is 73")) == "73"


def test_a_shorter_or_other_fence_does_not_close_a_block() -> None:
    assert extract_boxed("````py\n```\n\\boxed{1}\n~~~\n````\n") is None


def test_a_block_may_begin_behind_text_on_its_line() -> None:
    assert extract_boxed("Here: ```python\n\\boxed{1}\n```\n\\boxed{2}") == "2"


@given(before=PROSE, after=PROSE, digits=st.integers())
def test_text_around_it_does_not_change_the_last_box(before: str, after: str, digits: int) -> None:
    assert extract_boxed(f"{before}\\boxed{{{digits}}}{after}") == str(digits)


@given(before=PROSE, code=PROSE, fence=st.sampled_from(FENCES))
def test_a_block_before_or_behind_changes_nothing(before: str, code: str, fence: str) -> None:
    block = fence.format(code.replace("\n", " ") + r"\boxed{1}")
    assert extract_boxed(f"{before}\n{block}\n\\boxed{{2}}\n{block}\n") == "2"


@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "\\{", "7", "\n\n", "```\n", "\\boxed "])))
def test_what_is_found_has_balanced_braces(pieces: list[str]) -> None:
    content = extract_boxed("".join(pieces))
    if content is not None:
        bare = content.replace("\\{", "").replace("\\}", "")
        assert bare.count("{") == bare.count("}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is **73**", "73"),
        ("So the answer is **73**.", "73"),
        ("Final answer: 73.", "73"),
        ("**Answer:** $73$", "73"),
        ("**Final Answer:** 1,234", "1,234"),
        ("The final answer is: $x = 73$.", "x = 73"),
        ("Therefore, the answer is $73$ cm.", "73"),
        (r"the answer is \(\frac{1}{2}\).", r"\frac{1}{2}"),
        (r"The correct answer is \[73\]", "73"),
        ("The answer to the problem is 73 apples.", "73 apples"),
        ("The answer is thus 73!", "73"),
        ("The answer is 73! Great", "73"),
        ("The answer is 10!.", "10!"),
        ("The answer is 10! + 5.", "10! + 5"),
        ("The answer is 10!!.", "10!!"),
        ("The answer is 10! ways.", "10! ways"),
        ("The answer is 7!/3!.", "7!/3!"),
        ("答案是 73", "73"),
        ("所以答案为：$73$。", "73"),
        ("最终答案: 73", "73"),
        ("The answer is (C).", "(C)"),
        ("answer = -7", "-7"),
        ("First I thought the answer is 5. But the answer is 73.", "73"),
    ],
)
def test_a_closing_sentence_states_an_answer(text: str, value: str) -> None:
    assert extract_stated(text) == value
    assert extract(text) == Extracted(value, "stated")


@pytest.mark.parametrize(
    "text",
    [
        "= 73",
        "x = 73",
        "We get 73.",
        "The answer is not 73",
        "Is the answer 73?",
        "The answer is 73?",
        "The answer is 73!?",
        "the answer is 73 or 74",
        "The answer is $73$ or $74$",
        "The answer is 73, but let me check",
        "if the answer is 73 then",
        "I guess the answer is 73",
        "the answer is that there are none",
        "The answer is 7 less than that",
        "The answer is " + "7" * 100,
        "```\nthe answer is 73\n```",
        "the answer is 73\n" + "and so on. " * 100,
        "The answer is even",
        "",
    ],
)
def test_hedges_questions_and_code_state_nothing(text: str) -> None:
    assert extract_stated(text) is None


def test_a_box_goes_before_a_sentence() -> None:
    assert extract(r"\boxed{5}. The answer is 73.") == Extracted("5", "boxed")


@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "\\boxed ",
        "{",
        "}",
        "`",
        "~",
        "- ",
        "> ",
        "1. ",
        "\n",
        " \n",
        "\\",
        "$",
        "```\n",
    ],
)
def test_a_megabyte_of_anything_is_read(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    for several in (False, True):
        found = extract(text + "\n\n\\boxed{73}", several=several)
        assert found in (Extracted("73", "boxed"), None)


def test_a_list_of_a_hundred_thousand_boxes_is_read() -> None:
    text = r"\boxed{1}, " * 100_000 + r"\boxed{2}"
    assert extract_boxed(text, several=True) == "1, 2"


def test_a_hundred_thousand_nested_boxes_are_read() -> None:
    depth = 100_000
    content = extract_boxed("\\boxed{" * depth + "73" + "}" * depth)
    assert content is not None
    assert content.count("\\boxed{") == depth - 1
