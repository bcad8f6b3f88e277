"""One self-contained page about an exam, from its journal. Knows no clock and no models.

Everything that a model or a file of problems wrote is escaped; see `pages`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aimo2.errors import DiskFullError, InputError
from aimo2.exam.config import ExamConfig
from aimo2.exam.records import Counted, ExamAnswer, History
from aimo2.exam.submission import is_correct
from aimo2.pages import frame, svg
from aimo2.pages.text import escaped, one_line, prose_html, shortened
from aimo2.policy.budget import Ledger, banked
from aimo2.types import Problem

_MARKS = {True: "good", False: "bad", None: "none"}
_WORDS = {True: "right", False: "wrong", None: ""}
_SHOWN_ANSWERS = svg.SERIES


def write_report(history: History, target: Path) -> None:
    """Write the page, replacing an older one whole. Raises `DiskFullError` or `InputError`."""
    draft = target.with_name(f".{target.name}.part")
    try:
        draft.write_text(report_page(history), encoding="utf-8")
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
            raise InputError(f"cannot write {target}: {error.strerror}") from error
        raise DiskFullError(f"no room left to write {target}; free some disk space") from error


def report_page(history: History) -> str:
    """The page as HTML. Raises `ValueError` for a history without a beginning."""
    if history.began is None:
        raise ValueError("an exam that never began has no report")
    config = history.began.config
    verdicts = _verdicts(history, config)
    answers = tuple(history.answers.values())
    body = "".join(
        [
            f"<h1>Exam: {escaped(one_line(config.competition, 60))}</h1>",
            _facts(history, config, answers, verdicts),
            _notes(history),
            "<h2>Time per problem</h2>",
            _problem_table(history, answers, verdicts),
            "<h2>Over the exam</h2>",
            '<div class="panels">',
            _panel("Bank", _bank_chart(config, answers), _BANK_NOTE),
            _panel("Score", _score_chart(config, answers, verdicts), ""),
            "</div>",
            "<h2>Votes over time</h2>",
            "".join(_votes(history, answer, verdicts[answer.id]) for answer in answers),
        ]
    )
    return frame.page(f"Exam {config.competition} · aimo2", body)


_BANK_NOTE = (
    "Seconds saved against the policy's base a question, or against an even share where it has"
    " none. An overdraft is forgiven."
)


def _panel(title: str, chart: str, note: str) -> str:
    words = f'<p class="note">{escaped(note)}</p>' if note else ""
    return f'<div class="panel"><h3>{escaped(title)}</h3>{chart}{words}</div>'


def _verdicts(history: History, config: ExamConfig) -> dict[str, bool | None]:
    """Problem -> whether its answer is right; `None` where there is no gold answer."""
    golds = {key: asked.problem.gold for key, asked in history.asked.items()}
    return {
        key: None if (gold := golds.get(key)) is None else is_correct(config, answer.answer, gold)
        for key, answer in history.answers.items()
    }


def _facts(
    history: History,
    config: ExamConfig,
    answers: Sequence[ExamAnswer],
    verdicts: Mapping[str, bool | None],
) -> str:
    graded = [verdict for verdict in verdicts.values() if verdict is not None]
    pairs = [
        ("score", f"{sum(graded)} of {len(graded)}" if graded else "no gold answers"),
        ("answered", f"{len(answers)} of {config.num_problems}"),
        ("guessed", str(sum(answer.guessed for answer in answers))),
        ("time used", f"{_minutes(history.last_elapsed)} of {_minutes(config.usable)}"),
        ("policy", escaped(config.budget.policy)),
    ]
    tokens = sum(a.outcome.num_sampled_tokens for a in answers if a.outcome is not None)
    seconds = sum(a.seconds for a in answers)
    if tokens:
        pairs.append(("sampled tokens", f"{tokens:,}"))
        pairs.append(("tokens a second", f"{tokens / seconds:.0f}" if seconds else "–"))
    if history.num_resumed:
        pairs.append(
            ("resumed", "once" if history.num_resumed == 1 else f"{history.num_resumed} times")
        )
    if not history.ended:
        pairs.append(("state", "not ended"))
    return frame.facts(pairs)


def _minutes(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _notes(history: History) -> str:
    if not history.notes:
        return ""
    items = "".join(f"<li>{escaped(one_line(note, 300))}</li>" for note in history.notes)
    return f'<div class="caveats"><ul>{items}</ul></div>'


def _problem_table(
    history: History, answers: Sequence[ExamAnswer], verdicts: Mapping[str, bool | None]
) -> str:
    if not answers:
        return "<p>No problem has its answer yet.</p>"
    longest = max(answer.seconds for answer in answers)
    granted = max(min(answer.granted, 2 * longest) for answer in answers)
    scale = svg.Scale(0.0, max(longest, granted, 1e-3))
    rows = "".join(_row(answer, verdicts[answer.id], scale) for answer in answers)
    return (
        '<p class="note">In the order in which they were asked. The bar is the time taken, the'
        " mark on it the most that the policy would have allowed when the question ended.</p>"
        '<div class="scroll"><table><thead><tr><th class="n">#</th><th>problem</th><th>answer</th>'
        '<th>time</th><th class="n">s</th><th class="n">votes</th><th>ended by</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(answer: ExamAnswer, verdict: bool | None, scale: svg.Scale) -> str:
    outcome = answer.outcome
    reason = outcome.stop_reason.replace("_", " ") if outcome else (answer.note or "not solved")
    said = " · ".join(
        part
        for part in (
            one_line(answer.answer, 40), "guessed" if answer.guessed else "", _WORDS[verdict],
        )
        if part
    )  # fmt: skip
    mark = scale.at(answer.granted)
    bar = (
        '<svg class="bar" height="16" aria-hidden="true"><rect class="track" x="0" y="2"'
        ' width="100%" height="12" rx="2"/><rect class="fill s0" x="0" y="2"'
        f' width="{scale.at(answer.seconds):.1f}%" height="12" rx="2"/>'
        f'<line class="whisker" x1="{mark:.1f}%" x2="{mark:.1f}%" y1="1" y2="15"/></svg>'
    )
    return (
        f'<tr><td class="n">{answer.number}</td>'
        f'<td class="id">{escaped(one_line(answer.id, 60))}</td>'
        f'<td class="id">{frame.chip(said, _MARKS[verdict])}</td>'
        f'<td class="wide">{bar}</td><td class="n">{answer.seconds:.0f}</td>'
        f'<td class="n">{answer.num_votes}</td><td>{escaped(one_line(reason, 80))}</td></tr>'
    )


def _bank_chart(config: ExamConfig, answers: Sequence[ExamAnswer]) -> str:
    points = [(0.0, 0.0)]
    spent: list[float] = []
    for answer in answers:
        spent.append(answer.seconds)
        ledger = Ledger(config.usable, 0.0, config.num_problems, tuple(spent))
        points.append((answer.started + answer.seconds, banked(config.budget, ledger)))
    return _steps(points, config.usable, "seconds in the bank", "bank over time")


def _score_chart(
    config: ExamConfig, answers: Sequence[ExamAnswer], verdicts: Mapping[str, bool | None]
) -> str:
    if all(verdict is None for verdict in verdicts.values()):
        return "<p>There are no gold answers.</p>"
    points = [(0.0, 0.0)]
    for answer in answers:
        right = points[-1][1] + bool(verdicts[answer.id])
        points.append((answer.started + answer.seconds, right))
    return _steps(points, config.usable, "right answers", "score over time")


def _steps(points: Sequence[tuple[float, float]], total: float, name: str, title: str) -> str:
    x = svg.scale_over([total / 60])
    y = svg.scale_over([value for _, value in points])
    line = svg.steps([(x.at(when / 60), y.at(value)) for when, value in points], "s0")
    return svg.chart(
        svg.Axis(x, "minutes of the exam"), svg.Axis(y, name), [line], title=title, height=190
    )


def _votes(history: History, answer: ExamAnswer, verdict: bool | None) -> str:
    """A question: its statement, and its answers' weight over its time."""
    asked = history.asked.get(answer.id)
    tallies = history.counted.get(answer.id, [])
    said = one_line(answer.answer, 40) + (f", {_WORDS[verdict]}" if _WORDS[verdict] else "")
    summary = f"{answer.number}. {one_line(answer.id, 60)}: {said}"
    chart = _votes_chart(answer, tallies) if tallies else "<p>Nobody voted.</p>"
    return (
        f'<details class="branch"><summary>{escaped(summary)}</summary>'
        f'<div class="panel">{_statement(asked.problem if asked else None)}{chart}</div></details>'
    )


def _statement(problem: Problem | None) -> str:
    if problem is None:
        return ""
    gold = f'<p class="note">gold answer {escaped(problem.gold)}</p>' if problem.gold else ""
    return (
        f'<div class="statement words" dir="auto">'
        f"{prose_html(shortened(problem.statement, 20_000))}</div>{gold}"
    )


def _votes_chart(answer: ExamAnswer, tallies: Sequence[Counted]) -> str:
    names = list(tallies[-1].weights)[:_SHOWN_ANSWERS]
    end = max(answer.seconds, 1e-3)
    x = svg.scale_over([end])
    y = svg.scale_over([max(tally.weights.values(), default=1.0) for tally in tallies])
    marks = []
    for number, name in enumerate(names):
        points = [(0.0, 0.0)]
        for tally in tallies:
            when = max(0.0, tally.elapsed - answer.started)
            points.append((x.at(when), y.at(tally.weights.get(name, 0.0))))
        points.append((x.at(end), points[-1][1]))
        marks.append(svg.steps(points, svg.series(number)))
    drawn = svg.chart(
        svg.Axis(x, "seconds of the question"),
        svg.Axis(y, "weight of the votes"),
        marks,
        title="votes over time",
        height=170,
    )
    return drawn + svg.legend([one_line(name, 40) for name in names])
