"""A report as Markdown: the tables and verdicts of the page, without its charts. Knows no files."""

from collections.abc import Iterable, Sequence

from aimo2.evals.report import (
    Report,
    RunReport,
    comparison_rows,
    cut_short_note,
    group_heading,
    length_verdict,
    of_group,
    percent,
    points,
    pooled_note,
    summary_rows,
)
from aimo2.pages.text import one_line


def report_markdown(report: Report, title: str) -> str:
    """The whole text."""
    parts = [f"# {_text(title)}", _caveats(report), _summary(report), _comparisons(report)]
    for run in report.runs:
        parts.append(_run(run, report))
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(words: str, length: int = 200) -> str:
    """Text that Markdown takes for text."""
    line = one_line(words, length)
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#$~&" else char for char in line)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        "| " + " | ".join(headings) + " |",
        "|---" + "|---:" * (len(headings) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def _caveats(report: Report) -> str:
    lines = [
        f"- {_text(run.name)}: {_text(line)}"
        for run in report.runs
        for line in (run.figures.caveats if run.figures else ("no graded problem is done yet",))
    ]
    lines += [f"- not compared: {_text(note)}" for note in report.notes]
    return "Intervals are at 95 %, by bootstrap over problems.\n\n" + "\n".join(lines)


def _summary(report: Report) -> str:
    heads = ["", *(_text(run.name) for run in report.runs)]
    rows = ([_text(name), *map(_text, values)] for name, values in summary_rows(report))
    return _table(heads, rows)


def _comparisons(report: Report) -> str:
    parts = []
    for one in report.comparisons:
        name = f"## {_text(one.second)} against {_text(one.first)}, {one.problems} problems"
        rows = ([_text(what), _text(value)] for what, value in comparison_rows(one))
        parts.append(f"{name}\n\n{_table(['', 'difference'], rows)}")
        parts += filter(None, ["\n".join(f"- {_text(note)}" for note in one.notes())])
    return "\n\n".join(parts)


def _run(run: RunReport, report: Report) -> str:
    parts = [f"## {_text(run.name)}"]
    if run.figures is not None and len(run.figures.maj_k) > 1:
        pairs = zip(run.figures.maj_k.items(), run.figures.pass_k.values(), strict=True)
        rows = ([str(k), percent(vote), percent(any_right)] for (k, vote), any_right in pairs)
        parts.append(_table(["samples k", "maj@k", "pass@k"], rows))
    for field, groups in run.groups.items():
        rows = (
            [_text(group.name), percent(of_group(group, report)), str(group.problems)]
            for group in groups
        )
        parts.append(_table([_text(field), group_heading(report), "problems"], rows))
    if run.length_test is not None:
        verdict = _text(length_verdict(run.length_test), 1000)
        note = _text(f"{pooled_note(run.length_test)} {cut_short_note(run)}", 1000)
        parts.append(f"Wrong answers have longer reasoning: {verdict}. {note}")
    if run.votes is not None:
        parts.append(
            f"Share of the vote as confidence: Brier score {run.votes.brier:.3f}, mean gap"
            f" {100 * run.votes.gap:.1f} points."
        )
    if any(group.name != "no code" for group in run.code.groups):
        rows = ([group.name, percent(group.right), str(group.samples)] for group in run.code.groups)
        parts.append(_table(["code", "right", "samples"], rows))
        if run.code.within is not None:
            parts.append(
                f"With code minus without, inside the {run.code.both} problems that have both:"
                f" {points(run.code.within)}."
            )
    if run.code.repairs:
        rows = (
            [
                each.cause,
                percent(each.repaired),
                str(each.figures.num_followed),
                str(each.figures.num_failed),
            ]
            for each in run.code.repairs
        )
        heads = ["failed cells by cause", "repaired by the next cell", "tried again", "failed"]
        parts.append(_table(heads, rows))
    return "\n\n".join(parts)
