"""Choose what a verifier compares, read its choice, and weigh it. Pure; knows no model.

GenSelect (the NVIDIA AIMO-2 paper, arXiv 2504.16891, section 4): a model is shown several
candidate solutions and names the best; many such comparisons are a vote. Ours differ in two ways:
a comparison shows each answer once at most, and the ordinary votes keep counting beside it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from aimo2.types import Vote


@dataclass(frozen=True, slots=True)
class Candidate:
    """One rollout's solution. `answer`: canonical."""

    rollout: int
    answer: str
    summary: str


def comparisons(
    candidates: Sequence[Candidate], rounds: int, size: int, seed: int
) -> list[tuple[Candidate, ...]]:
    """What each of `rounds` comparisons shows, in random order: at most `size` candidates.

    Different answers each, and each answer as often as any other, give or take one. Empty where
    there is nothing to compare.
    """
    by_answer: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_answer.setdefault(candidate.answer, []).append(candidate)
    if len(by_answer) < 2:
        return []
    draw = random.Random(seed)
    width = min(size, len(by_answer))
    shown: list[tuple[Candidate, ...]] = []
    waiting: list[str] = []
    for _ in range(rounds):
        answers = waiting[:width]
        waiting = waiting[width:]
        if len(answers) < width:
            fresh = [answer for answer in by_answer if answer not in answers]
            draw.shuffle(fresh)
            late = list(answers)
            draw.shuffle(late)
            missing = width - len(answers)
            answers, waiting = answers + fresh[:missing], fresh[missing:] + late
        draw.shuffle(answers)
        shown.append(tuple(draw.choice(by_answer[answer]) for answer in answers))
    return shown


def chosen(written: str | None, shown: Sequence[Candidate]) -> Candidate | None:
    """The candidate with the number that the verifier wrote, from 1; `None` where there is none."""
    text = (written or "").strip().lstrip("#").strip()
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= len(shown):
        return None
    return shown[int(text) - 1]


def verdict_votes(
    picks: Sequence[Candidate], votes: Sequence[Vote], weight: float
) -> tuple[Vote, ...]:
    """One more vote for each pick; all together weigh `weight` times what the votes weigh."""
    if not picks:
        return ()
    total = sum(vote.weight for vote in votes)
    each = weight * total / len(picks)
    return tuple(Vote(rollout=pick.rollout, answer=pick.answer, weight=each) for pick in picks)
