"""Read recorded samples: this project's traces, and simple rows of other people's runs.

A simple row is a JSON object with `problem_id`, `answer` (or null), `correct`, and what else is
known: `n_tokens`, `n_tokens_est` or `n_chars`, `num_code_runs`, `num_code_errors`, `mean_logprob`,
`min_window64_logprob`, `tail_logprob`, `ppl` (perplexities of pieces), `rm_score`, `text`, and what
tells runs apart (`dataset`, `model`, `config`, `run`, `run_id`, `mode`, `temperature`). Files may
be gzipped. Knows no models and no clock.
"""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aimo2.answers import canonical, same
from aimo2.archive import traces_file
from aimo2.errors import InputError
from aimo2.policy.signals import Signals, last_line, signals_of
from aimo2.types import (
    TRACE_VERSION,
    CodeRun,
    Outcome,
    RolloutStop,
    TokenStats,
    Trace,
    Turn,
)

CHARS_PER_TOKEN = 2.8
"""Where a row has characters only; solutions of small models measured 2.7 to 3.0."""
_CUT_SHORT: frozenset[RolloutStop] = frozenset({"cancelled", "deadline"})
"""How a rollout ends when its question does."""
_RUN_FIELDS = ("dataset", "model", "config", "run", "run_id", "mode", "temperature")
_OUTPUT = re.compile(r"(?:^|\n)```output\n(.*?)\n?```[^\n]*(?:\n|$)", re.DOTALL)
_RAISED = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b|timed? ?out", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded rollout, and whether it was right.

    `signals.answer` is the name of its class of equal answers within the question.
    """

    signals: Signals
    correct: bool
    """Whether its answer is right; `False` without one."""
    num_own_tokens: int
    """Sampled tokens that it cost: without a prefix that its parent sampled."""
    code_seconds: float = 0.0
    """Time in code runs, during which it sampled nothing; 0 where it was not recorded."""


@dataclass(frozen=True, slots=True)
class ReplayedProblem:
    """The recorded samples of one problem in one run.

    `right`: the class of right answers; `None` where no sample is right.
    """

    problem_id: str
    run: str
    """File and what the rows say of the run: equal for samples that belong to one question."""
    samples: tuple[Sample, ...]
    right: str | None

    @property
    def pass_rate(self) -> float:
        """Part of the samples that are right."""
        return sum(sample.correct for sample in self.samples) / len(self.samples)


@dataclass(slots=True)
class Recorded:
    """What files came to. `notes`: one line for each thing that had to be filled in or left out."""

    problems: list[ReplayedProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_samples(self) -> int:
        """Samples in all."""
        return sum(len(problem.samples) for problem in self.problems)


@dataclass(slots=True)
class _Row:
    """A sample whose answer is not put into a class yet."""

    problem_id: str
    signals: Signals
    correct: bool | None
    own_tokens: int | None
    code_seconds: float = 0.0
    cut_short: bool = False
    """Whether the question ended before it: nobody knows what it would have come to."""


Golds = Mapping[str, str]
"""Problem id to gold answer."""


def read_samples(sources: Sequence[Path], golds: Golds | None = None) -> Recorded:
    """The samples of `.jsonl` or `.jsonl.gz` files, or of run folders (`traces.jsonl` in them).

    Left out, with a note: what nobody graded; a torn last line; and rollouts without an answer that
    ended because their question did, since nobody knows what they would have come to.

    `golds`: for traces, which do not hold them; a run folder's `outcomes.jsonl` has them, too, and
    its `grades.jsonl`, where there is one, says which traces are right.

    Raises `InputError` that names the file, the line and the mend.
    """
    recorded = Recorded()
    for source in sources:
        known, grades = dict(golds or {}), {}
        if source.is_dir():
            known |= _outcome_golds(source / "outcomes.jsonl", recorded.notes)
            grades = _grades(source / "grades.jsonl", recorded.notes)
        name = source.resolve().name  # of a run, its folder's: the files in it are all called alike
        _read_file(traces_file(source), name, known, grades, recorded)
    if not recorded.problems:
        why = recorded.notes or [", ".join(map(str, sources))]
        raise InputError(f"no samples: {'; '.join(why)}; give graded samples, or golds for traces")
    return recorded


def _json_lines(path: Path, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and object of each line that is not blank. Raises `InputError`."""
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            for number, line in enumerate(gzip.GzipFile(fileobj=raw) if packed else raw, 1):
                place = f"{path} line {number}"
                if not line.endswith(b"\n") and not _is_json(line):
                    notes.append(
                        f"{place} is torn (the writer was stopped, or writes now); left out"
                    )
                elif line.strip():
                    yield number, _object(line, place)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON ({error}); one object a line is needed") from error
    if not isinstance(value, dict):
        raise InputError(f"{place}: not a JSON object; one object a line is needed")
    return value


def _outcome_golds(path: Path, notes: list[str]) -> dict[str, str]:
    if not path.is_file():
        return {}
    golds = {}
    for number, value in _json_lines(path, notes):
        try:
            outcome = Outcome.model_validate(value)
        except ValidationError as error:
            raise InputError(f"{path} line {number}: no outcome ({_first(error)})") from error
        if outcome.gold is not None:
            golds[outcome.id] = outcome.gold
    return golds


def _grades(path: Path, notes: list[str]) -> dict[tuple[str, int], bool]:
    """Problem id and rollout to whether the trace is right, as a run's grader decided."""
    if not path.is_file():
        return {}
    grades = {}
    for number, value in _json_lines(path, notes):
        problem_id, rollout = value.get("problem_id"), value.get("rollout")
        if not isinstance(problem_id, str) or not isinstance(rollout, int):
            raise InputError(f"{path} line {number}: no grade; it needs problem_id and rollout")
        if isinstance(correct := value.get("correct"), bool):
            grades[problem_id, rollout] = correct
    return grades


def _read_file(
    path: Path,
    name: str,
    golds: Golds,
    grades: Mapping[tuple[str, int], bool],
    recorded: Recorded,
) -> None:
    questions: dict[tuple[str, str], list[_Row]] = {}
    left_out = 0
    estimated: set[str] = set()
    for number, value in _json_lines(path, recorded.notes):
        place = f"{path} line {number}"
        if "turns" in value:
            row, run = _trace_row(value, golds, grades, place), ""
        else:
            row, run = _simple_row(value, place, estimated), _run_name(value)
        if row.correct is None:
            left_out += 1
            continue
        questions.setdefault((row.problem_id, run), []).append(row)
    finished = {key: rows for key, every in questions.items() if (rows := _finished(every))}
    recorded.notes += _cut_short_notes(name, questions, finished)
    recorded.notes += _notes(name, finished, left_out, estimated)
    _fill_tokens(finished)
    for (problem_id, run), rows in finished.items():
        recorded.problems.append(_problem(problem_id, f"{name} {run}".strip(), rows))


def _finished(rows: Sequence[_Row]) -> list[_Row]:
    """Without what was cut short; but what others were forked from stays, for the tokens that they
    share.
    """
    parents = {row.signals.rollout: row.signals.parent for row in rows}
    needed: set[int] = set()
    for row in rows:
        above = None if row.cut_short else row.signals.parent
        while above is not None and above not in needed:
            needed.add(above)
            above = parents.get(above)
    return [row for row in rows if not row.cut_short or row.signals.rollout in needed]


def _cut_short_notes(
    name: str,
    questions: Mapping[tuple[str, str], Sequence[_Row]],
    finished: Mapping[tuple[str, str], Sequence[_Row]],
) -> Iterator[str]:
    missing = sum(map(len, questions.values())) - sum(map(len, finished.values()))
    if missing:
        yield (
            f"{name}: {missing} rollouts left out: their question ended before they had"
            " answered, and what they would have come to is not known; the others are the quick"
            " ones. To judge rules that go on longer, record with --stop never"
        )
    if gone := len(questions) - len(finished):
        yield f"{name}: {gone} questions left out: none of their rollouts had ended"


def _notes(
    name: str,
    questions: Mapping[tuple[str, str], Sequence[_Row]],
    left_out: int,
    estimated: set[str],
) -> list[str]:
    notes = [f"{name}: tokens are estimated from {how}" for how in sorted(estimated)]
    unknown = sum(row.own_tokens is None for rows in questions.values() for row in rows)
    if unknown:
        notes.append(f"{name}: {unknown} samples of unknown length count as the mean one")
    if left_out:
        notes.append(f"{name}: {left_out} samples left out: nothing says whether they are right")
    return notes


def _fill_tokens(questions: Mapping[tuple[str, str], Sequence[_Row]]) -> None:
    rows = [row for rows in questions.values() for row in rows]
    known = [row.own_tokens for row in rows if row.own_tokens is not None]
    mean = round(sum(known) / len(known)) if known else 1
    for row in rows:
        if row.own_tokens is None:
            row.own_tokens = mean
            row.signals = replace(row.signals, num_tokens=mean)


def _trace_row(
    value: Mapping[str, Any], golds: Golds, grades: Mapping[tuple[str, int], bool], place: str
) -> _Row:
    version = value.get("version", 1)
    if isinstance(version, int) and version > TRACE_VERSION:
        raise InputError(f"{place}: a trace of version {version}; update aimo2 to read it")
    try:
        trace = Trace.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{place}: no trace ({_first(error)})") from error
    gold = golds.get(trace.problem_id)
    correct = None if gold is None else trace.answer is not None and is_right(trace.answer, gold)
    own = trace.turns[trace.num_shared_turns :]
    return _Row(
        problem_id=trace.problem_id,
        signals=signals_of(trace),
        correct=grades.get((trace.problem_id, trace.rollout), correct),
        own_tokens=trace.num_own_tokens,
        code_seconds=sum(turn.run.seconds for turn in own if turn.run is not None),
        cut_short=trace.answer is None and trace.stop_reason in _CUT_SHORT,
    )


@lru_cache(maxsize=100_000)
def is_right(answer: str, gold: str) -> bool:
    """Whether two answers are equal by bounded arithmetic; what needs algebra counts as not."""
    return same(answer, gold) is True or class_name(answer) == class_name(gold)


@lru_cache(maxsize=100_000)
def class_name(answer: str) -> str:
    """The canonical form, or the text itself where it has none."""
    return canonical(answer, "expr").value or answer.strip()


def _run_name(value: Mapping[str, Any]) -> str:
    return " ".join(str(value[name]) for name in _RUN_FIELDS if value.get(name) is not None)


def _simple_row(value: Mapping[str, Any], place: str, estimated: set[str]) -> _Row:
    problem_id, correct = value.get("problem_id"), value.get("correct")
    answer = value.get("answer")
    if not isinstance(problem_id, str) or "correct" not in value:
        raise InputError(
            f"{place}: neither a trace nor a sample; a sample has problem_id, answer and correct"
        )
    if correct is not None and not isinstance(correct, bool):
        raise InputError(f"{place}: correct {correct!r} must be true, false or null")
    tokens = _tokens(value, estimated)
    signals = _signals_of_text(value, None if answer is None else str(answer))
    runs, errors = _number(value, "num_code_runs"), _number(value, "num_code_errors")
    signals = replace(
        signals,
        num_tokens=tokens or 0,
        num_code_runs=signals.num_code_runs if runs is None else int(runs),
        num_code_errors=signals.num_code_errors if errors is None else int(errors),
        stats=_stats(value, tokens or 0),
        score=_number(value, "rm_score"),
    )
    right = None if correct is None else correct and answer is not None
    return _Row(problem_id=problem_id, signals=signals, correct=right, own_tokens=tokens)


def _tokens(value: Mapping[str, Any], estimated: set[str]) -> int | None:
    if (number := _number(value, "n_tokens")) is not None:
        return max(1, int(number))
    if (number := _number(value, "n_tokens_est")) is not None:
        estimated.add("characters, by the file itself")
        return max(1, int(number))
    chars = _number(value, "n_chars")
    if chars is None and isinstance(text := value.get("text"), str):
        chars = len(text)
    if chars is None:
        return None
    estimated.add(f"characters, {CHARS_PER_TOKEN} a token")
    return max(1, round(chars / CHARS_PER_TOKEN))


def _number(value: Mapping[str, Any], name: str) -> float | None:
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if math.isfinite(found) else None


def _stats(value: Mapping[str, Any], num_tokens: int) -> TokenStats | None:
    mean = _number(value, "mean_logprob")
    if mean is not None:
        tail, lowest = _number(value, "tail_logprob"), _number(value, "min_window64_logprob")
        return TokenStats(
            num_tokens=num_tokens,
            mean_logprob=mean,
            tail_logprob=mean if tail is None else tail,
            min_window_logprob=mean if lowest is None else lowest,
        )
    pieces = [
        -math.log(piece)
        for piece in value.get("ppl") or ()
        if isinstance(piece, int | float) and piece > 0
    ]
    if not pieces:
        return None
    return TokenStats(
        num_tokens=num_tokens,
        mean_logprob=sum(pieces) / len(pieces),
        tail_logprob=pieces[-1],
        min_window_logprob=min(pieces),
    )


def _signals_of_text(value: Mapping[str, Any], answer: str | None) -> Signals:
    """As of a trace whose turns end with the outputs that the text holds."""
    text = value.get("text")
    return signals_of(
        Trace(
            problem_id="",
            rollout=0,
            opening=str(value.get("mode") or value.get("prompt") or "plain"),
            seed=0,
            prefix="",
            turns=tuple(_turns(text)) if isinstance(text, str) else (),
            answer=answer,
            raw_answer=answer,
            answer_source=None if answer is None else "boxed",
            stop_reason="no_answer" if answer is None else "answered",
            error=None,
            seconds=0.0,
        )
    )


def _turns(text: str) -> Iterator[Turn]:
    position = 0
    for found in _OUTPUT.finditer(text):
        output = found.group(1)
        raised = _RAISED.match(last_line(output)) is not None
        yield _turn(
            text[position : found.start()],
            CodeRun(
                code="",
                output=output,
                error="other" if raised else None,
                seconds=0.0,
                truncated=False,
            ),
        )
        position = found.end()
    yield _turn(text[position:], None)


def _turn(text: str, run: CodeRun | None) -> Turn:
    return Turn(text=text, num_tokens=0, finish_reason="stop", run=run, injected="")


def _problem(problem_id: str, run: str, rows: Sequence[_Row]) -> ReplayedProblem:
    """Equal answers under one name.

    Right answers are one class, because the recorded grader says so; wrong ones are put together
    by canonical form and bounded arithmetic. Traces keep their numbers, rows are numbered.
    """
    names = _names(rows)
    right = next((names[a] for row in rows if row.correct and (a := row.signals.answer)), None)
    given = {row.signals.rollout for row in rows}
    samples = []
    for number, row in enumerate(rows):
        answer = row.signals.answer
        name = None if answer is None else names[answer]
        rollout = row.signals.rollout if len(given) == len(rows) else number
        assert row.own_tokens is not None
        samples.append(
            Sample(
                signals=replace(row.signals, answer=name, rollout=rollout),
                correct=name is not None and name == right,
                num_own_tokens=row.own_tokens,
                code_seconds=row.code_seconds,
            )
        )
    return ReplayedProblem(problem_id, run, tuple(samples), right)


def _names(rows: Sequence[_Row]) -> dict[str, str]:
    """Answer as recorded -> name of its class."""
    right_name: str | None = None
    names: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: not row.correct):
        answer = row.signals.answer
        if answer is None or answer in names:
            continue
        if row.correct:
            right_name = names[answer] = right_name or class_name(answer)
        else:
            names[answer] = _class_of(answer, names.values())
    return names


def _class_of(answer: str, known: Iterable[str]) -> str:
    name = class_name(answer)
    seen = list(dict.fromkeys(known))
    if name in seen:
        return name
    return next((other for other in seen if _same(other, name)), name)


@lru_cache(maxsize=200_000)
def _same(a: str, b: str) -> bool:
    return same(a, b) is True


def _first(error: ValidationError) -> str:
    what = error.errors()[0]
    return f"{'.'.join(map(str, what['loc']))}: {what['msg'].lower()}"
