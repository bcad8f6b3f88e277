import gzip
import json
from pathlib import Path
from typing import Any

import polars
import pytest

from aimo2.errors import ConfigError, DownloadError, InputError
from aimo2.evals import datasets
from aimo2.evals.catalogue import KNOWN_SETS, find_set
from aimo2.evals.datasets import load, local_copy, parse_columns

ROWS: list[dict[str, Any]] = [
    {"id": "a", "problem": "What is 1 plus 1?", "answer": "2", "level": 1, "subject": "Sums"},
    {"id": "b", "problem": "What is half of 1?", "answer": "\\frac{1}{2}", "solution": "s" * 50},
]


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_metadata_are_kept_and_solutions_are_not(tmp_path: Path) -> None:
    loaded = load(str(jsonl(tmp_path / "set.jsonl", *ROWS)))
    assert [dict(item.meta) for item in loaded.items] == [{"level": 1, "subject": "Sums"}, {}]
    assert [item.problem.gold for item in loaded.items] == ["2", "\\frac{1}{2}"]
    assert (loaded.name, loaded.answer_type, loaded.num_graded) == ("set", "expr", 2)


def test_a_set_of_integers_says_so(tmp_path: Path) -> None:
    assert load(str(jsonl(tmp_path / "s.jsonl", ROWS[0]))).answer_type == "int"


def test_the_hash_is_of_the_content_and_not_of_the_format(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("id", "problem", "answer")} for row in ROWS]
    as_lines = jsonl(tmp_path / "a.jsonl", *rows)
    zipped = tmp_path / "b.jsonl.gz"
    zipped.write_bytes(gzip.compress(as_lines.read_bytes()))
    table, parquet = tmp_path / "c.csv", tmp_path / "d.parquet"
    polars.DataFrame(rows).write_csv(table)
    polars.DataFrame(rows).write_parquet(parquet)
    hashes = {load(str(path)).sha256 for path in (as_lines, zipped, table, parquet)}
    assert len(hashes) == 1
    changed = [rows[0], {**rows[1], "answer": "1"}]
    assert load(str(jsonl(tmp_path / "e.jsonl", *changed))).sha256 not in hashes


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "s.jsonl", {"q": "x?", "final": 3, "uid": "u", "topic": "t"})
    columns = parse_columns(["problem=q,answer=final", "id=uid"])
    (item,) = load(str(path), columns=columns).items
    assert (item.problem.id, item.problem.statement, item.problem.gold) == ("u", "x?", "3")
    assert dict(item.meta) == {"topic": "t"}


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "s.jsonl", {"q": "x?"})
    with pytest.raises(InputError, match=r"row 1: no column final for answer; it has q"):
        load(str(path), columns={"answer": "final"})
    with pytest.raises(ConfigError, match="write field=column"):
        parse_columns(["problem"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl.gz", b"no gzip", "not a whole gzip file"),
        ("x.parquet", b"PAR1 no", "not a readable parquet file"),
        ("x.jsonl", b"\xff\xfe", "not UTF-8"),
        ("x.jsonl", b"{}\n", "no text under 'problem'"),
        ("x.jsonl", b"", "has no problems"),
        ("x.toml", b"", "unknown format"),
    ],
)
def test_bad_files_are_named_with_the_mend(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as raised:
        load(str(tmp_path / name))
    assert name in str(raised.value)


def test_a_subset_is_the_first_problems_or_a_draw_that_repeats(tmp_path: Path) -> None:
    rows = [{"id": str(n), "problem": f"p{n}", "answer": n} for n in range(20)]
    whole = load(str(jsonl(tmp_path / "s.jsonl", *rows)))
    assert [item.problem.id for item in whole.subset(3).items] == ["0", "1", "2"]
    drawn = [item.problem.id for item in whole.subset(5, seed=1).items]
    assert drawn == [item.problem.id for item in whole.subset(5, seed=1).items]
    assert drawn == sorted(drawn, key=int)
    assert drawn != [item.problem.id for item in whole.subset(5, seed=2).items]
    assert whole.subset(50) is whole
    with pytest.raises(ConfigError, match="--limit 0"):
        whole.subset(0)


def test_gsm8k_answers_stand_behind_the_marks(tmp_path: Path) -> None:
    folder = tmp_path / "problems"
    folder.mkdir()
    jsonl(folder / "gsm8k_test.jsonl", {"question": "Q", "answer": "so it is\n#### 1,234"})
    (item,) = load("gsm8k", data_dir=tmp_path).items
    assert (item.problem.statement, item.problem.gold) == ("Q", "1234")


def test_lists_of_answers_are_joined_and_rows_with_a_tolerance_left_out(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "question": "Q", "final_answer": ["$2$", "$3$"], "error": None},
        {"id": 2, "question": "R", "final_answer": ["$2$"], "error": "0.1"},
    ]
    polars.DataFrame(rows).write_parquet(tmp_path / "olympiadbench.parquet")
    (item,) = load("olympiadbench", data_dir=tmp_path).items
    assert (item.problem.id, item.problem.gold) == ("1", "2, 3")


def test_the_environment_names_the_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(tmp_path / "amc23.jsonl", ROWS[0])
    monkeypatch.setenv("AIMO2_DATA", str(tmp_path))
    assert load("amc23").source == str(tmp_path / "amc23.jsonl")
    monkeypatch.setenv("AIMO2_DATA", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="AIMO2_DATA"):
        local_copy(find_set("amc23"))


def test_what_is_not_local_is_fetched_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pull(repository: str, file: str, revision: str) -> Path:
        asked.append((repository, file, revision))
        return jsonl(tmp_path / "test.jsonl", {"unique_id": "t/1", "problem": "p", "answer": "1"})

    monkeypatch.setattr(datasets, "pull_dataset_file", pull)
    loaded = load("math500", data_dir=tmp_path)
    known = find_set("math500")
    assert asked == [(known.repository, known.file, known.revision)]
    assert loaded.items[0].problem.id == "t/1"
    assert loaded.source.endswith(f"@{known.revision}")


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("aimo2.serving.hub.try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(DownloadError, match="give a copy in --data-dir"):
        load("aime25")


def test_names_and_pins_are_well_formed() -> None:
    assert len({known.name for known in KNOWN_SETS}) == len(KNOWN_SETS)
    assert all(known.pinned or known.revision == "main" for known in KNOWN_SETS)
    with pytest.raises(InputError, match=r"math500.*hmmt"):
        load("nosuch")
