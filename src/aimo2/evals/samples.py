"""One graded sample, and what a problem's samples come to. Knows no files and no models."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from aimo2.answers import Judge, group
from aimo2.config import SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.evals.datasets import Item
from aimo2.policy.repair import RepairFigures, repair_figures, total
from aimo2.policy.vote import tally
from aimo2.types import (
    AnswerSource,
    ErrorKind,
    Opening,
    Outcome,
    Problem,
    RolloutStop,
    Trace,
    Value,
    Vote,
)

if TYPE_CHECKING:
    import polars

Key = tuple[str, int]
"""A sample's problem and rollout."""

CUT_SHORT: frozenset[RolloutStop] = frozenset(
    {"cancelled", "forked", "unsure", "too_long", "pruned"}
)
"""How a rollout ends when the solver ends it for the others' sake. A deadline is not among them:
what has no answer by then has failed, as at any limit.
"""

CodeUsed = Literal[
    "none",  # no cell ran
    "good",  # none of its cells failed
    "repaired",  # some failed, and the next cell of one of them succeeded
    "failed",  # some failed, and none of these was repaired
]
"""What the code on a sample's whole path did, the part before a fork included."""


class Grade(Value):
    """Whether a sample's answer equals the gold; made once, kept beside the traces."""

    problem_id: str
    rollout: int
    correct: bool | None
    """`None` where the problem has no gold."""
    note: str | None = None
    """Why it counts as wrong, where that could not be decided."""


class Classes(Value):
    """Which of a problem's answers are equal: rollout -> the first rollout with an equal answer.

    Rollouts without an answer are not in it.
    """

    problem_id: str
    classes: dict[int, int]


class Sample(Value):
    """What the figures need of one rollout."""

    problem_id: str
    rollout: int
    answer: str | None
    correct: bool | None
    note: str | None
    num_tokens: int
    """Sampled by this rollout itself, as its text."""
    num_side_tokens: int = 0
    """Sampled for it besides: probes of its answer."""
    seconds: float
    num_code_runs: int
    """Cells that this rollout ran itself; those before its fork are its parent's."""
    num_code_errors: int
    """Of these, those that failed."""
    num_repaired: int
    """Failed cells whose next cell in the same rollout succeeded."""
    repairs: dict[ErrorKind, RepairFigures] = Field(default={}, exclude=True)
    """The same by what made cells fail."""
    code_used: CodeUsed
    stop_reason: RolloutStop
    answer_source: AnswerSource | None
    opening: Opening
    mean_logprob: float | None
    confidence: float | None
    parent: int | None
    weight: float | None
    error: str | None

    @property
    def num_sampled_tokens(self) -> int:
        """All that it cost."""
        return self.num_tokens + self.num_side_tokens

    @property
    def cut_short(self) -> bool:
        """Whether the solver ended it without an answer: nobody knows what it would have said."""
        return self.answer is None and self.stop_reason in CUT_SHORT

    @property
    def ran_code(self) -> bool:
        """Whether its path has run code."""
        return self.code_used != "none"


def sample_of(trace: Trace, grade: Grade) -> Sample:
    """The sample of a trace."""
    repairs = repair_figures([trace])
    failed = total(repairs)
    return Sample(
        problem_id=trace.problem_id,
        rollout=trace.rollout,
        answer=trace.answer,
        correct=grade.correct,
        note=grade.note,
        num_tokens=trace.num_own_tokens,
        num_side_tokens=trace.num_side_tokens,
        seconds=trace.seconds,
        num_code_runs=trace.num_own_code_runs,
        num_code_errors=failed.num_failed,
        num_repaired=failed.num_repaired,
        repairs=repairs,
        code_used=_code_used(trace),
        stop_reason=trace.stop_reason,
        answer_source=trace.answer_source,
        opening=trace.opening,
        mean_logprob=trace.stats.mean_logprob if trace.stats else None,
        confidence=trace.stats.confidence if trace.stats else None,
        parent=trace.parent,
        weight=trace.weight,
        error=trace.error,
    )


def _code_used(trace: Trace) -> CodeUsed:
    cells = [turn.run.error is None for turn in trace.turns if turn.run is not None]
    if not cells:
        return "none"
    if all(cells):
        return "good"
    mended = any(good and not before for before, good in itertools.pairwise(cells))
    return "repaired" if mended else "failed"


async def grade(
    trace: Trace, problem: Problem, config: SolveConfig, judge: Judge, deadline: Deadline = NEVER
) -> Grade:
    """Compare a trace's answer with the gold; what cannot be decided in time is wrong, with a note.

    The gold goes the way of an answer: the same canonical form, the same modulus.
    """
    key = {"problem_id": problem.id, "rollout": trace.rollout}
    if problem.gold is None:
        return Grade(**key, correct=None)
    if trace.answer is None:
        return Grade(**key, correct=False)
    wanted = await judge.canonicalise(
        problem.gold, config.answer_type, config.modulus, deadline=deadline
    )
    verdict = await judge.verdict(wanted.value or problem.gold, trace.answer, deadline=deadline)
    return Grade(**key, correct=verdict.equal, note=verdict.note)


async def classify(
    problem_id: str, samples: Sequence[Sample], config: SolveConfig, judge: Judge
) -> Classes:
    """Put equal answers together: by their text for integers, by algebra for expressions."""
    given = sorted((s for s in samples if s.answer is not None), key=lambda s: s.rollout)
    answers = [sample.answer for sample in given if sample.answer is not None]
    if config.answer_type == "int":
        first_of = {answer: at for at, answer in reversed(list(enumerate(answers)))}
        firsts = [first_of[answer] for answer in answers]
    else:
        firsts = await group(answers, judge)
    return Classes(
        problem_id=problem_id,
        classes={
            sample.rollout: given[first].rollout
            for sample, first in zip(given, firsts, strict=True)
        },
    )


def outcome_of(problem: Problem, samples: Sequence[Sample], classes: Classes) -> Outcome:
    """The plain vote over independent samples, one each; ties go to the earliest rollout."""
    by_rollout = {sample.rollout: sample for sample in samples}
    votes = [
        Vote(rollout=rollout, answer=by_rollout[first].answer or "")
        for rollout, first in classes.classes.items()
    ]
    result = tally(votes)
    verdicts = [
        by_rollout[first].correct
        for first in classes.classes.values()
        if by_rollout[first].answer == result.leader
    ]
    correct = None if problem.gold is None else bool(verdicts and verdicts[0])
    return Outcome(
        id=problem.id,
        answer=result.leader,
        votes=result.weights,
        stop_reason="exhausted",
        num_rollouts=len(samples),
        num_sampled_tokens=sum(sample.num_sampled_tokens for sample in samples),
        num_code_runs=sum(sample.num_code_runs for sample in samples),
        seconds=max((sample.seconds for sample in samples), default=0.0),
        note="independent samples; seconds are the longest one's",
        gold=problem.gold,
        correct=correct,
    )


def table(
    items: Sequence[Item], samples: Mapping[Key, Sample], classes: Mapping[str, Classes]
) -> "polars.DataFrame":
    """A row a sample, in the order of the problems; `answer_class` as in `Classes`.

    The set's metadata stand in columns of their own names, behind the sample's.
    """
    import polars  # Half a second: not for those who only solve.

    order = {item.problem.id: at for at, item in enumerate(items)}
    meta = {item.problem.id: item.meta for item in items}
    golds = {item.problem.id: item.problem.gold for item in items}
    rows = []
    for key in sorted(samples, key=lambda key: (order[key[0]], key[1])):
        sample = samples[key]
        known = classes.get(key[0])
        rows.append(
            {
                **sample.model_dump(),
                "gold": golds[key[0]],
                "answer_class": known.classes.get(key[1]) if known else None,
                **{
                    name: value
                    for name, value in meta[key[0]].items()
                    if name not in Sample.model_fields
                },
            }
        )
    return polars.DataFrame(rows, infer_schema_length=None, strict=False)


def write_table(frame: "polars.DataFrame", path: Path) -> None:
    """Write as parquet, whole or not at all."""
    part = path.with_suffix(".part")
    frame.write_parquet(part)
    part.replace(path)
