"""Read problems from JSON lines, CSV or plain text. Knows no models and no golds' meaning."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from aimo2.errors import InputError
from aimo2.types import Problem

_STATEMENT_KEYS = ("problem", "question")


def read_problems(source: str) -> list[Problem]:
    """Problems of a `.jsonl` or `.csv` file, or of standard input where `source` is `-`.

    JSON lines need `problem` (or `question`), and may have `id` and `answer`; CSV needs a header
    with the same names. Standard input may also be one plain statement.

    Raises `InputError` that names the file, the line and the mend. The whole input is checked
    before anything is returned, so that a bad last line does not cost a night's run.
    """
    text = _read(source)
    name = "standard input" if source == "-" else source
    if not text.strip():
        raise InputError(f"{name} is empty: give at least one problem")
    kind = _kind(source, text)
    if kind == "text":
        return [Problem(id="1", statement=text.strip())]
    rows = json_rows(text, name) if kind == "jsonl" else csv_rows(text, name)
    return _checked(rows, name)


def _read(source: str) -> str:
    if source != "-" and Path(source).is_dir():
        raise InputError(f"{source} is a folder: give a .jsonl or .csv file")
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{source} line {line}: not UTF-8 text; save the file as UTF-8") from error


def _kind(source: str, text: str) -> str:
    suffix = Path(source).suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    if suffix == ".csv":
        return "csv"
    if source != "-":
        raise InputError(f"{source}: unknown format; give a .jsonl or .csv file, or - for stdin")
    if text.lstrip().startswith("{"):
        return "jsonl"
    header = {field.strip().strip('"') for field in text.split("\n", 1)[0].split(",")}
    return "csv" if "id" in header and header & set(_STATEMENT_KEYS) else "text"


def json_rows(text: str, name: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Line number and object of each line that is not blank. Raises `InputError`."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            detail = getattr(error, "msg", "too deeply nested")
            raise InputError(
                f"{name} line {number}: not valid JSON ({detail}); mend or delete the line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{name} line {number}: expected an object {{...}}, one a line")
        yield number, row


def csv_rows(text: str, name: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Line number and fields of each row that is not empty. Raises `InputError`."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise InputError(
                    f"{name} line {reader.line_num}: more fields than the header has;"
                    " put a text that holds commas in double quotes"
                )
            if any(value is not None for value in row.values()):
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(
            f"{name} near line {reader.line_num}: {error}; mend the CSV quoting"
        ) from error


def _checked(rows: Iterable[tuple[int, Mapping[str, object]]], name: str) -> list[Problem]:
    problems = [problem_of(row, number, name) for number, row in rows]
    check(problems, name)
    return problems


def check(problems: Sequence[Problem], name: str) -> None:
    """See that there are problems, and no id twice. Raises `InputError`."""
    if not problems:
        raise InputError(f"{name} has no problems: give at least one")
    twice = [key for key, count in Counter(p.id for p in problems).items() if count > 1]
    if twice:
        raise InputError(f"{name}: the id {twice[0]!r} stands more than once; make ids unique")


def problem_of(row: Mapping[str, object], number: int, name: str) -> Problem:
    """The problem in a row. Raises `InputError` where it has no statement."""
    statement = next((row[key] for key in _STATEMENT_KEYS if row.get(key)), None)
    if not isinstance(statement, str) or not statement.strip():
        raise InputError(
            f"{name} line {number}: no text under 'problem' (or 'question'); add it"
            f" (the line has: {', '.join(map(str, row)) or 'nothing'})"
        )
    identity, gold = row.get("id"), row.get("answer")
    return Problem(
        id=str(number if identity in (None, "") else identity),
        statement=statement,
        gold=None if gold is None or gold == "" else str(gold),
    )
