"""The warm-up problems are well formed, differ from each other and have the answers they state."""

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from tests.examples.brute_force import CHECKS, confirms

WARMUP = Path(__file__).parents[2] / "examples" / "warmup.jsonl"
ROWS: list[dict[str, str]] = [
    json.loads(line) for line in WARMUP.read_text(encoding="utf-8").splitlines()
]
IDS = [row["id"] for row in ROWS]
LEVELS = ["easy", "medium", "hard"]
SUBJECTS = {"number theory", "combinatorics", "algebra", "geometry", "probability"}

each_row = pytest.mark.parametrize("row", ROWS, ids=IDS)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    tokens = words(text)
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


@each_row
def test_row_has_every_field_and_known_labels(row: dict[str, str]) -> None:
    assert set(row) == {"id", "problem", "answer", "level", "subject", "style"}
    assert row["level"] in LEVELS
    assert row["subject"] in SUBJECTS
    assert row["style"] in {"computational", "insight"}


@each_row
def test_statement_is_clean_text_with_closed_formulas(row: dict[str, str]) -> None:
    text = row["problem"]
    assert text == " ".join(text.split())
    assert text.isascii()
    assert text.count("$") % 2 == 0
    assert text.count("{") == text.count("}")
    assert text[-1] in ".?"


@each_row
def test_statement_does_not_show_its_answer(row: dict[str, str]) -> None:
    shown = re.findall(r"\d+", row["problem"])
    assert row["answer"] == "0" or row["answer"] not in shown


@each_row
def test_answer_is_a_canonical_integer(row: dict[str, str]) -> None:
    assert str(int(row["answer"])) == row["answer"]
    assert 0 <= int(row["answer"]) <= 99_999


@each_row
def test_brute_force_finds_the_stated_answer(row: dict[str, str]) -> None:
    assert CHECKS[row["id"]]() == int(row["answer"])


def test_ids_count_up_and_each_has_its_own_check() -> None:
    assert [f"warmup-{n:02d}" for n in range(1, 31)] == IDS
    assert list(CHECKS) == IDS
    assert len(set(CHECKS.values())) == len(IDS)


def test_a_second_check_for_one_id_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup-01"):
        confirms(IDS[0])(CHECKS[IDS[0]])


def test_levels_climb_and_kinds_are_mixed() -> None:
    assert [row["level"] for row in ROWS] == ["easy"] * 10 + ["medium"] * 12 + ["hard"] * 8
    assert {row["subject"] for row in ROWS} == SUBJECTS
    assert Counter(row["style"] for row in ROWS)["computational"] == 20


def test_answers_cannot_be_guessed_from_one_another() -> None:
    answers = [int(row["answer"]) for row in ROWS]
    assert len(set(answers)) == len(answers)
    assert min(answers) == 0
    assert max(answers) > 10_000
    assert sum(answer <= 20 for answer in answers) == 1
    assert sum(answer < 1000 for answer in answers) > len(answers) / 2


def test_no_two_statements_share_a_run_of_eight_words() -> None:
    shared = {
        (a["id"], b["id"]): ngrams(a["problem"], 8) & ngrams(b["problem"], 8)
        for a, b in combinations(ROWS, 2)
    }
    assert {pair: runs for pair, runs in shared.items() if runs} == {}


def test_no_two_statements_have_mostly_the_same_words() -> None:
    for a, b in combinations(ROWS, 2):
        left, right = set(words(a["problem"])), set(words(b["problem"]))
        assert len(left & right) / len(left | right) < 0.5, (a["id"], b["id"])
