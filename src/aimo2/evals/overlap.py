"""Which problems of a set stand in a training file, by shared runs of words. Knows no files.

Texts are compared as words and numbers alone: small letters, no punctuation, no LaTeX signs. A run
of 13 words in common is the rule of GPT-3 (arXiv 2005.14165, appendix C); half of a problem's runs
of 8 words in one row finds reworded copies, too. A problem with other numbers is not found.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aimo2.evals.datasets import Item

LONG, SHORT = 13, 8
"""Words of the two kinds of runs."""
SHORT_SHARE = 0.5
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Overlap:
    """One problem that a row of the other file holds, in whole or in part.

    `row`: from 1, the row with the most in common. `share`: of the problem's runs of 8 words that
    stand in this row, 0 to 1. `long_runs`: runs of 13 words in common.
    """

    problem_id: str
    row: int
    share: float
    long_runs: int


def words(text: str) -> list[str]:
    """The words and numbers of a text, in one form."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def runs(text: Sequence[str], length: int) -> set[tuple[str, ...]]:
    """Every run of `length` words; the whole text where it is shorter."""
    if not text:
        return set()
    last = max(0, len(text) - length)
    return {tuple(text[at : at + length]) for at in range(last + 1)}


def overlaps(
    items: Sequence[Item], rows: Iterable[tuple[int, Mapping[str, object]]]
) -> list[Overlap]:
    """The problems that share a long run, or half of their short runs, with a row.

    Every text in a row counts, nested ones too. At most one overlap a problem, in their order.
    """
    texts = [words(item.problem.statement) for item in items]
    short, long = _index(texts, SHORT), _index(texts, LONG)
    totals = [len(runs(text, SHORT)) for text in texts]
    best: dict[int, Overlap] = {}
    for number, row in rows:
        # Joined: a problem and its answer may stand in two fields, a short one anywhere in a text.
        there = words(" ".join(_strings(row)))
        near = _hits(short, there, texts, SHORT)
        far = _hits(long, there, texts, LONG)
        for which in near.keys() | far.keys():
            share = near[which] / totals[which]
            found = Overlap(items[which].problem.id, number, share, far[which])
            if (far[which] or share >= SHORT_SHARE) and _more(found, best.get(which)):
                best[which] = found
    return [best[which] for which in sorted(best)]


def _more(found: Overlap, known: Overlap | None) -> bool:
    return known is None or (found.long_runs, found.share) > (known.long_runs, known.share)


def _index(texts: Sequence[Sequence[str]], length: int) -> dict[tuple[str, ...], list[int]]:
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for which, text in enumerate(texts):
        for run in runs(text, length):
            index[run].append(which)
    return index


def _hits(
    index: Mapping[tuple[str, ...], list[int]],
    there: Sequence[str],
    texts: Sequence[Sequence[str]],
    length: int,
) -> Counter[int]:
    """Problem -> its runs that stand in the row. Short problems are runs of their own length."""
    lengths = {length, *(len(text) for text in texts if len(text) < length)}
    found: Counter[int] = Counter()
    for each in lengths:
        for run in runs(there, each):
            found.update(index.get(run, ()))
    return found


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
