r"""Answers: found in a reply, brought to one form, compared. Knows no models and no votes.

`extract` finds what a reply answered; `canonical` brings it to one text for each value, in this
process and in bounded time; a `Judge` decides the rest with math-verify, in worker processes that
are ended at a time limit. What cannot be decided in time counts as not equal.
"""

from aimo2.answers.canonical import Canonical, canonical, same
from aimo2.answers.extract import Extracted, extract, extract_boxed, extract_stated
from aimo2.answers.judge import Judge, Verdict, group

__all__ = [
    "Canonical",
    "Extracted",
    "Judge",
    "Verdict",
    "canonical",
    "extract",
    "extract_boxed",
    "extract_stated",
    "group",
    "same",
]
