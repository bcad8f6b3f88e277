import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.errors import InputError
from aimo2.problems import read_problems


def write(tmp_path: Path, name: str, text: str | bytes) -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_json_lines_with_and_without_gold_and_with_further_keys(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        "p.jsonl",
        '{"id": "a", "problem": "One?", "answer": 1, "level": "easy"}\n\n'
        '{"id": 7, "question": "Two?"}\n{"problem": "Three?", "answer": "0"}\n',
    )
    problems = read_problems(source)
    assert [(p.id, p.statement, p.gold) for p in problems] == [
        ("a", "One?", "1"), ("7", "Two?", None), ("4", "Three?", "0"),
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["problem", "question"])
def test_csv_with_commas_quotes_and_line_breaks(tmp_path: Path, column: str) -> None:
    source = write(tmp_path, "p.csv", f'\ufeffid,{column}\nx,"Say ""hi"", then\n2+2?"\n')
    assert [(p.id, p.statement) for p in read_problems(source)] == [("x", 'Say "hi", then\n2+2?')]


@pytest.mark.parametrize(
    ("text", "ids", "first"),
    [
        ("How many?\nReally?\n", ["1"], "How many?\nReally?"),
        ('{"id": "a", "problem": "x"}\n', ["a"], "x"),
        ("id,problem\nq,x\n", ["q"], "x"),
    ],
)
def test_standard_input_is_recognised(
    monkeypatch: pytest.MonkeyPatch, text: str, ids: list[str], first: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    problems = read_problems("-")
    assert [problem.id for problem in problems] == ids
    assert problems[0].statement == first


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.jsonl", '{"problem": "x"}\n{"problem": \n', "p.jsonl line 2: not valid JSON"),
        ("p.jsonl", "[1, 2]\n", "line 1: expected an object"),
        ("p.jsonl", "[" * 100_000, "line 1: not valid JSON"),
        ("p.jsonl", '{"id": "a", "text": "x"}\n', "line 1: no text under 'problem'"),
        ("p.jsonl", '{"problem": "  "}\n', "line 1: no text"),
        ("p.jsonl", '{"problem": 5}\n', "line 1: no text"),
        ("p.jsonl", '{"id": 1, "problem": "x"}\n{"id": "1", "problem": "y"}\n', "'1' stands more"),
        ("p.jsonl", "\n\n", "is empty"),
        ("p.jsonl", b'{"problem": "x"}\n{"problem": "\xff"}\n', "line 2: not UTF-8"),
        ("p.csv", "id,problem\n1,x,y\n", "line 2: more fields"),
        ("p.csv", "id,problem\n", "has no problems"),
        ("p.csv", "id,text\n1,x\n", "line 2: no text under"),
        ("p.csv", 'id,problem\n1,"x', "near line"),
        ("p.txt", "hello", "unknown format"),
    ],
)
def test_bad_input_names_the_file_the_line_and_the_mend(
    tmp_path: Path, name: str, text: str | bytes, said: str
) -> None:
    with pytest.raises(InputError) as error:
        read_problems(write(tmp_path, name, text))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_problems(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="is a folder"):
        read_problems(str(tmp_path))


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_any_statement_survives_json_lines(
    tmp_path_factory: pytest.TempPathFactory, statements: list[str]
) -> None:
    statements = [s.encode("utf-8", "replace").decode() for s in statements]
    text = "".join(json.dumps({"problem": s}) + "\n" for s in statements)
    source = write(tmp_path_factory.mktemp("p"), "p.jsonl", text)
    assert [problem.statement for problem in read_problems(source)] == statements
