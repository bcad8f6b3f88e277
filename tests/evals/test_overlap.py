from collections.abc import Mapping, Sequence

from aimo2.evals.datasets import Item
from aimo2.evals.overlap import Overlap, overlaps, runs, words
from aimo2.types import Problem

LONG = "A train leaves the station at noon and meets another train after 3 hours and 20 minutes"


def items(*texts: str) -> list[Item]:
    return [Item(Problem(id=str(at), statement=text), {}) for at, text in enumerate(texts)]


def found(texts: Sequence[str], *rows: Mapping[str, object]) -> list[Overlap]:
    return overlaps(items(*texts), list(enumerate(rows, 1)))


def test_latex_case_and_punctuation_do_not_matter() -> None:
    assert words(r"Find $\frac{1}{x}$, NOW!") == words("find frac 1 x now")


def test_a_copy_in_a_nested_text_is_found() -> None:
    row = {"messages": [{"role": "user", "content": f"Solve: {LONG.upper()}. Think."}]}
    (one,) = found([LONG], {"text": "nothing"}, row)
    assert (one.problem_id, one.row, one.share) == ("0", 2, 1.0)
    assert one.long_runs == len(words(LONG)) - 12


def test_another_problem_in_like_words_is_not() -> None:
    other = "A train leaves the station at one and meets a lorry after 5 hours"
    assert found([LONG], {"problem": other}) == []


def test_a_reworded_copy_is_found_by_its_short_runs() -> None:
    half = " ".join(LONG.split()[:12]) + " some other end of it all that is not the same"
    (one,) = found([LONG], {"problem": half})
    assert one.long_runs == 0
    assert one.share >= 0.5


def test_a_short_problem_counts_only_as_a_whole() -> None:
    assert found(["What is 2 plus 2"], {"t": "Tell me: what is 2 plus 2, and why"})
    assert found(["What is 2 plus 2"], {"t": "What is 2 plus 3"}) == []


def test_the_row_with_the_most_in_common_is_named() -> None:
    rows = [{"t": " ".join(LONG.split()[:14])}, {"t": LONG}, {"t": " ".join(LONG.split()[:13])}]
    (one,) = found([LONG], *rows)
    assert one.row == 2


def test_an_empty_text_has_no_runs() -> None:
    assert runs([], 8) == set()
    assert found(["???"], {"t": "anything"}) == []
