"""The data sets that are known by name: where each lies, pinned, and how its rows are read.

Knows no network and no files' content. Nothing of the sets themselves is kept here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from aimo2.config import AnswerType
from aimo2.errors import InputError

GoldRule = Literal["as it is", "after ####", "joined list"]
"""What of the gold's column is the answer: all of it; what stands behind `####`, without the
thousands' commas (GSM8K); the members of a list (OlympiadBench)."""


@dataclass(frozen=True, slots=True)
class KnownSet:
    """One data set of the hub.

    `revision`: a commit, or `main` where no commit is known for certain; a run records the SHA-256
    of what it read in either case. `local`: names of a copy under `--data-dir`, without suffix.
    `skip`: a row is left out where one of these columns is not empty. `published`: month in which
    the problems became public; a model trained later may have seen them.
    """

    name: str
    title: str
    repository: str
    file: str
    revision: str
    num_problems: int
    answer_type: AnswerType
    published: str
    local: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    gold: GoldRule = "as it is"
    skip: tuple[str, ...] = ()

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit."""
        return len(self.revision) == 40


KNOWN_SETS = (
    KnownSet(
        "math500",
        "MATH-500: 500 problems of the MATH test split, with subject and level",
        "HuggingFaceH4/MATH-500",
        "test.jsonl",
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        500,
        "expr",
        "2021-03",
        ("math500",),
        {"id": "unique_id"},
    ),
    KnownSet(
        "aime24",
        "AIME 2024, I and II",
        "HuggingFaceH4/aime_2024",
        "data/train-00000-of-00001.parquet",
        "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        30,
        "int",
        "2024-02",
        ("aime24", "aime2024"),
    ),
    KnownSet(
        "aime25",
        "AIME 2025, I and II",
        "math-ai/aime25",
        "test.jsonl",
        "563bb8404243c5f09de6ec262f2db674fe5bce9b",
        30,
        "int",
        "2025-02",
        ("aime25", "aime2025"),
    ),
    KnownSet(
        "amc23",
        "AMC 2023, answers as numbers",
        "math-ai/amc23",
        "test-00000-of-00001.parquet",
        "main",
        40,
        "int",
        "2023-11",
        ("amc23",),
        {"problem": "question"},
    ),
    KnownSet(
        "gsm8k",
        "GSM8K, test split",
        "openai/gsm8k",
        "main/test-00000-of-00001.parquet",
        "740312add88f781978c0658806c59bc2815b9866",
        1319,
        "int",
        "2021-10",
        ("gsm8k", "gsm8k_test"),
        {"problem": "question"},
        "after ####",
    ),
    KnownSet(
        "olympiadbench",
        "OlympiadBench: open-ended, text only, English mathematics; no tolerances",
        "Hothan/OlympiadBench",
        "OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",
        "91184b52131e7fc9455fef848035173aea8cc01a",
        674,
        "expr",
        "2024-02",
        ("olympiadbench", "olympiadbench_en_numeric"),
        {"problem": "question", "answer": "final_answer"},
        "joined list",
        ("error",),
    ),
    KnownSet(
        "aimo2-reference",
        "The ten reference problems of AIMO Progress Prize 2",
        "PraMamba/AIMO-2_Reference",
        "reference.csv",
        "main",
        10,
        "int",
        "2024-10",
        ("aimo2_reference", "aimo2-reference"),
    ),
    KnownSet(
        "hmmt-feb-2025",
        "HMMT February 2025, final answers",
        "MathArena/hmmt_feb_2025",
        "data/train-00000-of-00001.parquet",
        "main",
        30,
        "expr",
        "2025-02",
        ("hmmt_feb_2025", "hmmt-feb-2025"),
        {"id": "problem_idx"},
    ),
)


def find_set(name: str) -> KnownSet:
    """The set of that name. Raises `InputError` that lists the names."""
    for known in KNOWN_SETS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in KNOWN_SETS)
    raise InputError(
        f"{name} is no data set and no file: give a .jsonl, .csv or .parquet file,"
        f" or one of {names}"
    )
