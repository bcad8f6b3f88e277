"""Read a data set: by name from the hub or from a local copy, or any file. Knows no models.

Problems keep what else their row says (subject, level, source); solutions and long texts are left
behind. The content's SHA-256 is over ids, statements and golds, so that two copies of the same
problems in different formats have the same one.
"""

import gzip
import hashlib
import json
import os
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from aimo2.answers import canonical
from aimo2.config import AnswerType
from aimo2.errors import ConfigError, InputError
from aimo2.evals.catalogue import KNOWN_SETS, GoldRule, KnownSet, find_set
from aimo2.problems import check, csv_rows, json_rows, problem_of
from aimo2.serving.hub import pull_dataset_file
from aimo2.types import Problem

Scalar = str | int | float | bool
Row = Mapping[str, object]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".csv", ".parquet")
_FIELDS = ("problem", "question", "answer", "id")
_DROPPED = ("solution", "rationale", "url", "images", "context")
_LONGEST_META = 200
"""Characters of a text that is still metadata."""


@dataclass(frozen=True, slots=True)
class Item:
    """A problem and what else the set says about it."""

    problem: Problem
    meta: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Problems in a fixed order.

    `source`: the file, or the repository, file and revision. `sha256`: of the content of the whole
    set, before a subset was taken. `published`: month in which the problems became public.
    """

    name: str
    source: str
    sha256: str
    answer_type: AnswerType
    items: Sequence[Item]
    published: str | None = None

    @property
    def num_graded(self) -> int:
        """Problems with a gold answer."""
        return sum(item.problem.gold is not None for item in self.items)

    def subset(self, limit: int | None, seed: int | None = None) -> "Dataset":
        """The first `limit` problems, or with a seed as many drawn without replacement, in order.

        Raises `ConfigError` for a limit below 1.
        """
        if limit is None or limit >= len(self.items):
            return self
        if limit < 1:
            raise ConfigError(f"--limit {limit}: must be 1 or more")
        chosen: Iterable[int] = range(limit)
        if seed is not None:
            chosen = sorted(random.Random(seed).sample(range(len(self.items)), limit))
        return replace(self, items=tuple(self.items[index] for index in chosen))


def load(
    wanted: str, *, data_dir: Path | None = None, columns: Mapping[str, str] | None = None
) -> Dataset:
    """The data set of a name, or of a `.jsonl[.gz]`, `.csv` or `.parquet` file.

    `data_dir`: local copies, as `problems/NAME.jsonl[.gz]` or directly in it; the environment's
    `AIMO2_DATA` where it is `None`. `columns`: field -> column of the file, for the fields
    `problem`, `answer` and `id`, or to name metadata.

    Raises `InputError`, or `DownloadError` where a name is neither local nor to be had.
    """
    if wanted.endswith(_SUFFIXES) or Path(wanted).is_file():
        path = Path(wanted)
        return _dataset(path.name.partition(".")[0], str(path), rows_of(path), columns or {}, None)
    known = find_set(wanted)
    path, source = _locate(known, data_dir)
    return _dataset(known.name, source, rows_of(path), columns or {}, known)


def parse_columns(texts: Sequence[str]) -> dict[str, str]:
    """`problem=question,answer=final` to a mapping. Raises `ConfigError`."""
    parts = [part for text in texts for part in text.split(",") if part.strip()]
    found: dict[str, str] = {}
    for part in parts:
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not (name and equals and column):
            raise ConfigError(f"--columns {part}: write field=column, such as problem=question")
        found[name] = column
    return found


def local_copy(known: KnownSet, data_dir: Path | None = None) -> Path | None:
    """The file of a set under the data folder; `None` without one.

    Raises `ConfigError` where the folder that was named does not exist.
    """
    named = data_dir or (Path(text) if (text := os.environ.get("AIMO2_DATA")) else None)
    if named is None:
        return None
    if not named.is_dir():
        origin = "--data-dir" if data_dir else "AIMO2_DATA"
        raise ConfigError(f"{origin} {named}: there is no such folder")
    for folder in (named / "problems", named):
        for stem in known.local:
            for suffix in _SUFFIXES:
                if (path := folder / (stem + suffix)).is_file():
                    return path
    return None


def _locate(known: KnownSet, data_dir: Path | None) -> tuple[Path, str]:
    path = local_copy(known, data_dir)
    if path is not None:
        return path, str(path)
    path = pull_dataset_file(known.repository, known.file, known.revision)
    return path, f"{known.repository}/{known.file}@{known.revision}"


def rows_of(path: Path) -> Iterator[tuple[int, Row]]:
    """Number (from 1) and fields of each row of a file. Raises `InputError`."""
    name = str(path)
    if path.is_dir():
        raise InputError(f"{name} is a folder: give a .jsonl, .csv or .parquet file")
    if not name.endswith(_SUFFIXES):
        raise InputError(f"{name}: unknown format; give a .jsonl, .jsonl.gz, .csv or .parquet file")
    if name.endswith(".parquet"):
        yield from _parquet_rows(path)
        return
    text = _text(path)
    yield from csv_rows(text, name) if name.endswith(".csv") else json_rows(text, name)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    import polars  # Half a second: not for those who only solve.

    try:
        frame = polars.read_parquet(path)
    except (OSError, polars.exceptions.PolarsError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a readable parquet file ({line})") from error
    yield from enumerate(frame.iter_rows(named=True), 1)


def _dataset(
    name: str,
    source: str,
    rows: Iterable[tuple[int, Row]],
    columns: Mapping[str, str],
    known: KnownSet | None,
) -> Dataset:
    rule: GoldRule = known.gold if known else "as it is"
    usual = known.columns if known else {}
    items = [
        _item(
            _renamed(row, {**_present(usual, row), **columns}, number, source), number, source, rule
        )
        for number, row in rows
        if known is None or not any(row.get(column) for column in known.skip)
    ]
    problems = [item.problem for item in items]
    check(problems, source)
    return Dataset(
        name,
        source,
        _digest(problems),
        known.answer_type if known else _answer_type(problems),
        tuple(items),
        known.published if known else None,
    )


def _present(usual: Mapping[str, str], row: Row) -> Mapping[str, str]:
    """Of the hub's columns those that the row has: a local copy may have been renamed already."""
    return {field: column for field, column in usual.items() if column in row}


def _renamed(row: Row, columns: Mapping[str, str], number: int, name: str) -> Row:
    for field, column in columns.items():
        if column not in row:
            raise InputError(
                f"{name} row {number}: no column {column} for {field};"
                f" it has {', '.join(map(str, row))}; see --columns"
            )
    taken = set(columns.values())
    kept = {key: value for key, value in row.items() if key not in taken and key not in columns}
    return kept | {field: row[column] for field, column in columns.items()}


def _item(row: Row, number: int, name: str, rule: GoldRule) -> Item:
    gold = row.get("answer")
    problem = problem_of({**row, "answer": _gold(gold, rule)}, number, name)
    meta = {
        key: value
        for key, value in row.items()
        if key not in _FIELDS and key not in _DROPPED and _is_meta(value)
    }
    return Item(problem, meta)  # type: ignore[arg-type]  # _is_meta leaves scalars only


def _is_meta(value: object) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= _LONGEST_META
    return isinstance(value, bool | int | float)


def _gold(gold: object, rule: GoldRule) -> str | None:
    if isinstance(gold, list | tuple):
        gold = ", ".join(str(part).strip().strip("$").strip() for part in gold)
    if gold is None or gold == "":
        return None
    text = str(gold).strip()
    if isinstance(gold, float) and gold.is_integer():
        text = str(int(gold))
    if rule == "after ####":
        text = text.rpartition("####")[2].strip().replace(",", "")
    return text.strip().strip("$").strip() or None


def _answer_type(problems: Sequence[Problem]) -> AnswerType:
    """`int` where every gold is an integer."""
    golds = [problem.gold for problem in problems if problem.gold is not None]
    return "int" if golds and all(map(_is_integer, golds)) else "expr"


def _is_integer(text: str) -> bool:
    value = canonical(text, "int").value
    try:
        return value is not None and Fraction(value).denominator == 1
    except ValueError:
        return False


def _digest(problems: Sequence[Problem]) -> str:
    rows = ([problem.id, problem.statement, problem.gold] for problem in problems)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def known_names() -> tuple[str, ...]:
    """Names that `load` takes."""
    return tuple(known.name for known in KNOWN_SETS)
