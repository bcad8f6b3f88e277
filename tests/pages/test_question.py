import pytest

from aimo2.pages.question import Question, question_page, questions_page, sureness_class
from aimo2.types import Trace
from tests.pages.reading import read
from tests.saved import code_run, outcome, trace, turn

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"
    "javascript:alert(4) \u202egnp.exe \x1b[2J \x00 \\(\\href{javascript:alert(5)}{x}\\)"
    " $\\text{</math><script>x}$ </style></pre></details> <!-- ]]> &lt;script&gt;"
)


def question(*traces: Trace, **rest: object) -> Question:
    return Question("p", traces, **rest)  # type: ignore[arg-type]


def test_a_page_allows_its_own_style_and_nothing_else() -> None:
    page = question_page(question(trace()))
    read(page)
    assert """content="default-src 'none'; style-src 'sha256-""" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("text", [HOSTILE, HOSTILE * 40, "\u202e" * 500, "`" * 300, "é中🎉" * 90])
def test_nothing_that_a_model_wrote_becomes_markup(text: str) -> None:
    run = code_run(text, code=text, error="other")
    turns = (
        turn(f"{text}\n```python\n{text}\n```\n", run=run, injected=text, mean_logprob=-0.3),
        turn(text, token_spans=tuple((3, 20) for _ in range(len(text) // 3))),
    )
    stored = trace(0, *turns, opening=text, prefix=text, error=text, model=text, raw_answer=text)
    stored = stored.model_copy(update={"answer": text})
    given = Question(
        text, (stored,), outcome(id=text, answer=text, note=text, gold=text), text, text
    )
    for page in (question_page(given), questions_page([given, given], text)):
        reader = read(page)
        assert "script" not in reader.tags
        assert "\u202e" not in page
        assert "\x1b" not in page


def test_texts_code_and_output_are_all_there() -> None:
    turns = (
        turn("I compute \\(x^2\\).\n```python\nprint(6 * 7)\n```\n", run=code_run("forty-two")),
        turn("So \\boxed{42}."),
    )
    reader = read(question_page(question(trace(0, *turns), statement="What is $6 \\times 7$?")))
    for words in ("I compute ", "print", "forty-two", "output, 0.50 s", "boxed", "What is "):
        assert words in reader.text


def test_a_fork_shows_its_own_turns_and_leads_to_its_parent() -> None:
    first, second, third = (turn(f"the {name} turn") for name in ("first", "second", "third"))
    stored = [trace(0, first, second), trace(1, first, third, parent=0, num_shared_turns=1)]
    page = question_page(question(*stored))
    assert page.count("the first turn") == 1
    assert 'Forked from <a href="#q0b0">rollout 0</a> behind its turn 1' in page
    assert "↳ 1 plain" in page
    read(page)


def test_verdicts_come_from_outcome_and_gold() -> None:
    given = question(
        trace(0), trace(1, answer="7"), outcome=outcome(gold="42", correct=True), gold="42"
    )
    assert [given.verdict(answer) for answer in ("42", "7", None)] == [True, False, False]
    assert question(trace(0)).verdict("42") is None
    assert question(trace(0), gold="42.0").verdict("42") is True
    graded = question(trace(0, answer="x"), verdicts={"x": True}, gold="hard")
    assert graded.verdict("x") is True


def test_tokens_are_coloured_by_their_probability() -> None:
    spans = ((3, 0), (3, 100), (2, 1000))
    page = question_page(question(trace(0, turn("oneTWO!!tail", token_spans=spans))))
    assert 'one<i class="c3">TWO</i><i class="c5">!!</i>tail' in page
    assert 'id="view-tokens"' in page
    assert "as they arrived" in page


def test_without_single_tokens_the_turn_is_coloured_and_the_page_says_so() -> None:
    page = question_page(question(trace(0, turn("x", mean_logprob=-1.0))))
    assert '<div class="turn c3">' in page
    assert "Single tokens' probabilities are not in these traces" in page
    assert 'id="view-tokens"' not in page
    bare = question_page(question(trace(0)))
    assert "No probabilities were recorded" in bare


@pytest.mark.parametrize(
    ("probability", "name"), [(1.0, "c0"), (0.95, "c0"), (0.9, "c1"), (0.3, "c3"), (0.0, "c5")]
)
def test_colours_have_fixed_bounds(probability: float, name: str) -> None:
    assert sureness_class(probability) == name


def test_huge_texts_are_cut_and_the_page_says_so() -> None:
    page = question_page(question(trace(0, turn("word " * 1_000_000))))
    assert "characters left out of this page" in page
    assert len(page) < 1_000_000


def test_a_question_without_rollouts_or_votes_has_a_page() -> None:
    assert "No rollout answered." in read(question_page(question())).text
    odd = trace(0, answer=None, seconds=0.0)
    read(question_page(question(odd.model_copy(update={"turns": ()}))))


def test_a_long_chain_of_forks_has_a_page() -> None:
    chain = [trace(n, parent=n - 1 if n else None) for n in range(1500)]
    read(question_page(question(*chain)))


def test_several_questions_share_a_page_with_a_list() -> None:
    given = [Question(f"p{number}", (trace(0),)) for number in range(3)]
    page = questions_page(given, "all of them")
    assert [f'href="#q{number}"' in page for number in range(3)] == [True] * 3
    assert page.count('id="view-read"') == 0
    read(page)
