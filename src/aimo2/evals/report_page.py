"""A report as one self-contained HTML page. Knows no files: links are given to it."""

import math
from collections.abc import Mapping, Sequence

from aimo2.evals.breakdown import Group, Reliability, RepairGroup
from aimo2.evals.compare import Comparison
from aimo2.evals.estimators import Estimate
from aimo2.evals.figures import ProblemResult
from aimo2.evals.report import (
    Report,
    RunReport,
    by_answers,
    comparison_rows,
    cut_short_note,
    group_heading,
    length_verdict,
    of_group,
    percent,
    points,
    pooled_note,
    spoken_p,
    summary_rows,
)
from aimo2.evals.within import WithinTest
from aimo2.pages import frame, svg
from aimo2.pages.text import answer_html, breakable, escaped, one_line
from aimo2.runrecord import flat_settings

Links = Mapping[tuple[int, str], str]
"""(number of the run, problem) -> address of its page."""

_UNIT = svg.Scale(0.0, 1.0)
_QUANTILES = 60
_KINDS: dict[bool | None, tuple[str, str]] = {
    True: ("good", "right"),
    False: ("bad", "wrong"),
    None: ("", "ungraded"),
}
"""Of an answer: the chip's class, the row's class."""


def report_page(report: Report, links: Links, title: str) -> str:
    """The whole page. `title` is text."""
    parts = [
        f"<h1>{escaped(title)}</h1>",
        _lead(report),
        _caveats(report),
        "<h2>Figures</h2>",
        _summary(report),
        _comparisons(report),
        _curves(report),
        _groups(report),
        _lengths(report),
        _confidence(report),
        _code(report),
        _costs(report),
        _problems(report, links),
        _made(report),
    ]
    return frame.page(title, "\n".join(parts))


def _lead(report: Report) -> str:
    chips = []
    for number_, run in enumerate(report.runs):
        figures = run.figures
        model = run.run.record.config.model
        words = run.name if figures is None else f"{run.name}: {percent(figures.answered)}"
        dot = (
            f'<svg width="12" height="12"><circle class="dot {svg.series(number_)}" cx="6"'
            ' cy="6" r="5"/></svg> '
        )
        served = f" · {escaped(one_line(model, 60))}" if model else ""
        chips.append(f'<p class="lead">{dot}<b>{escaped(words)}</b>{served}</p>')
    note = '<p class="note">Intervals are at 95 %, by bootstrap over problems.</p>'
    return "".join(chips) + note


def _caveats(report: Report) -> str:
    lines: dict[str, list[str]] = {}
    for run in report.runs:
        for line in run.figures.caveats if run.figures else ("no graded problem is done yet",):
            lines.setdefault(line, []).append(run.name)
        if run.run.ungraded:
            left_out = f"{len(run.run.ungraded)} samples are not graded yet and are left out"
            lines.setdefault(left_out, []).append(run.name)
    for note in report.notes:
        lines.setdefault(f"not compared: {note}", [])
    several = len(report.runs) > 1
    items = []
    for line, names in lines.items():
        which = f" ({', '.join(names)})" if several and 0 < len(names) < len(report.runs) else ""
        items.append(f"<li>{escaped(line + which)}</li>")
    return f'<div class="caveats"><ul>{"".join(items)}</ul></div>'


def _table(headings: Sequence[str], rows: Sequence[str], *, numeric: int = 1) -> str:
    """`headings`: text, those from `numeric` on over numbers; `rows`: whole `<tr>` elements.

    A star behind a heading leaves the column out on a phone, as the cells of the rows must.
    """
    heads = "".join(
        f'<th class="{"n " * (at >= numeric)}{"hide-small" * name.endswith("*")}">'
        f"{escaped(one_line(name.removesuffix('*'), 40))}</th>"
        for at, name in enumerate(headings)
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _summary(report: Report) -> str:
    rows = [
        f'<tr><td class="what">{escaped(name)}</td>'
        + "".join(f'<td class="n wrap">{_unbroken(value)}</td>' for value in values)
        + "</tr>"
        for name, values in summary_rows(report)
    ]
    return f'<div class="panel">{_table(["", *(run.name for run in report.runs)], rows)}</div>'


def _unbroken(value: str) -> str:
    """A figure as HTML whose interval stays on one line."""
    shown, bracket, interval = value.partition(" [")
    interval, end, rest = interval.partition("]")
    tail = f' <span class="nb">[{escaped(interval)}]</span>' if bracket and end else ""
    return escaped(shown) + tail + escaped(rest)


def _comparisons(report: Report) -> str:
    if not report.comparisons:
        return ""
    panels = "".join(_comparison(one) for one in report.comparisons)
    return (
        "<h2>Compared</h2><p>Over the problems that both runs have done; the second run minus the"
        f' first, paired by problem.</p><div class="panels">{panels}</div>'
    )


def _comparison(one: Comparison) -> str:
    rows = [
        f'<tr><td>{escaped(name)}</td><td class="n">{escaped(value)}</td></tr>'
        for name, value in comparison_rows(one)
    ]
    changed = "".join(
        f'<tr><td class="id">{escaped(one_line(each.problem_id, 60))}</td>'
        f"<td>{escaped(one_line(one.first if each.first_right else one.second, 40))}</td>"
        f'<td class="n">{_share(each.first_share)}</td>'
        f'<td class="n">{_share(each.second_share)}</td></tr>'
        for each in one.changed
    )
    heads = ["problem", "right only in", one.first, one.second]
    details = (
        f"<details><summary>{len(one.changed)} problems changed</summary>"
        f"{_table(heads, [changed], numeric=2)}</details>"
        if one.changed
        else ""
    )
    name = escaped(f"{one.second} against {one.first}, {one.problems} problems")
    notes = "".join(f'<p class="note">{escaped(note)}</p>' for note in one.notes())
    table = _table(["", "difference"], rows)
    return f'<div class="panel"><h3>{name}</h3>{table}{notes}{details}</div>'


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _curves(report: Report) -> str:
    figures = [one.figures for one in report.runs]
    drawn = (
        ("vote of k samples (maj@k)", [one.maj_k if one else {} for one in figures]),
        ("any of k samples (pass@k)", [one.pass_k if one else {} for one in figures]),
    )
    panels = "".join(
        f'<div class="panel"><h3>{escaped(name)}</h3>{_curve(name, curves)}</div>'
        for name, curves in drawn
        if max(map(len, curves), default=0) > 1
    )
    if not panels:
        return ""
    exact = all(one.figures.exact for one in report.runs if one.figures)
    how = "every subset of k samples is counted" if exact else "over random subsets of k samples"
    names = svg.legend([one.name for one in report.runs]) if len(report.runs) > 1 else ""
    return (
        f'<h2>Accuracy by number of samples</h2><p class="note">Expected for k samples: {how}.'
        f' Bands are 95 % intervals.</p>{names}<div class="panels">{panels}</div>'
    )


def _curve(name: str, curves: Sequence[Mapping[int, Estimate]]) -> str:
    most = max(k for curve in curves for k in curve)
    x = svg.Scale(1.0, float(max(2, most)))
    whole = sorted({round(tick) for tick in x.ticks(7)} | {1})
    marks = []
    for at, curve in enumerate(curves):
        kind = svg.series(at)
        points = [(x.at(k), curve[k]) for k in sorted(curve)]
        if any(not math.isnan(each.low) for _, each in points):
            above = [(place, _UNIT.at(each.high)) for place, each in points]
            below = [(place, _UNIT.at(each.low)) for place, each in reversed(points)]
            marks.append(svg.path(above + below, f"band {kind}", closed=True))
        marks.append(svg.path([(place, _UNIT.at(each.value)) for place, each in points], kind))
        marks += [
            svg.dot(x.at(k), _UNIT.at(each.value), f"dot {kind}", f"k = {k}: {percent(each)}", 3)
            for k, each in sorted(curve.items())
        ]
    ticks = tuple(float(tick) for tick in whole)
    return svg.chart(
        svg.Axis(x, "samples k", ticks=ticks),
        svg.Axis(_UNIT, "accuracy, %", svg.percent),
        marks,
        title=f"{name}, {'; '.join(_ends(curve) for curve in curves)}",
    )


def _ends(curve: Mapping[int, Estimate]) -> str:
    if not curve:
        return "not drawn"
    first, last = min(curve), max(curve)
    return f"{percent(curve[first])} at k = {first} to {percent(curve[last])} at k = {last}"


def _groups(report: Report) -> str:
    fields = list(dict.fromkeys(field for run in report.runs for field in run.groups))
    panels = "".join(
        f'<div class="panel"><h3>By {escaped(one_line(field, 40))}</h3>{_field(report, field)}'
        "</div>"
        for field in fields
    )
    if not panels:
        return ""
    return (
        "<h2>Accuracy by kind of problem</h2>"
        f'<p class="note">{_group_note(report)}</p>'
        f'{_names(report)}<div class="panels">{panels}</div>'
    )


def _group_note(report: Report) -> str:
    if by_answers(report):
        return "Share of problems whose answer is right, with intervals."
    return "Mean share of right samples (pass@1), with intervals."


def _names(report: Report) -> str:
    return svg.legend([one.name for one in report.runs]) if len(report.runs) > 1 else ""


def _field(report: Report, field: str) -> str:
    known: dict[str, list[tuple[int, Group]]] = {}
    for at, run in enumerate(report.runs):
        for group in run.groups.get(field, ()):
            known.setdefault(group.name, []).append((at, group))
    rows = []
    for name, groups in known.items():
        for row, (at, group) in enumerate(groups):
            label = escaped(one_line(name, 40)) if row == 0 else ""
            right = of_group(group, report)
            rows.append(
                f'<tr><td>{label}</td><td class="wide">{_bar(right, at)}</td>'
                f'<td class="n">{100 * right.value:.0f} %</td>'
                f'<td class="n soft">{group.problems}</td></tr>'
            )
    return _table(["", group_heading(report), "", "problems"], rows, numeric=2)


def _bar(value: Estimate, run: int) -> str:
    low, high = value.low, value.high
    if math.isnan(low):
        low = high = value.value
    return svg.interval_bar(_UNIT, value.value, low, high, svg.series(run), percent(value))


def _lengths(report: Report) -> str:
    panels = "".join(_length_panel(run) for run in report.runs if run.results)
    if not panels:
        return ""
    return (
        "<h2>Length of right and wrong answers</h2><p>The claim: wrong answers have longer"
        " reasoning. Harder problems have both longer texts and more wrong answers, so the test"
        " compares samples of the same problem only; samples that gave no answer are left out.</p>"
        f'<div class="panels">{panels}</div>'
    )


def _length_panel(run: RunReport) -> str:
    test = run.length_test
    if test is None:
        words = "<p>No problem has both right and wrong answers: nothing can be tested.</p>"
    else:
        verdict = length_verdict(test)
        words = f"<p><strong>{escaped(verdict[0].upper() + verdict[1:])}.</strong></p>"
        words += f'<p class="note">{escaped(pooled_note(test))}</p>'
    if note := cut_short_note(run):
        words += f'<p class="note">{escaped(note)}</p>'
    drawn = _shares(run.right_lengths, run.wrong_lengths)
    return f'<div class="panel"><h3>{escaped(run.name)}</h3>{words}{drawn}</div>'


def _shares(right: Sequence[float], wrong: Sequence[float]) -> str:
    """Share of answers up to a length, of right and of wrong ones."""
    drawn = _up_to(
        "tokens, logarithmic",
        "share of answers up to this length, %",
        ((right, "line good"), (wrong, "line bad")),
    )
    if not drawn:
        return ""
    return (
        '<ul class="legend"><li><svg width="14" height="14"><circle class="dot good" cx="7" cy="7"'
        f' r="5"/></svg>right ({len(right)})</li><li><svg width="14" height="14"><circle'
        f' class="dot bad" cx="7" cy="7" r="5"/></svg>wrong ({len(wrong)})</li></ul>{drawn}'
    )


def _up_to(x_name: str, y_name: str, groups: Sequence[tuple[Sequence[float], str]]) -> str:
    """For each group of values, the share of them up to a value; empty where they do not differ."""
    values = [value for found, _ in groups for value in found if value > 0]
    if not values or min(values) >= max(values):
        return ""
    x = svg.Scale(min(values), max(values), log=True)
    marks = []
    for found, kind in groups:
        ordered = sorted(found)
        if not ordered:
            continue
        last = len(ordered) - 1
        places = sorted({round(part * last / _QUANTILES) for part in range(_QUANTILES + 1)})
        points = [(x.at(ordered[place]), 100 * (place + 1) / len(ordered)) for place in places]
        marks.append(svg.path([(points[0][0], 0.0), *points], kind))
    title = f"{y_name} by {x_name}"
    y = svg.Axis(_UNIT, y_name, svg.percent)
    return svg.chart(svg.Axis(x, x_name), y, marks, title=title, height=190)


def _costs(report: Report) -> str:
    """How tokens and seconds are spread over samples, or over problems where the solver ran."""
    panels = []
    for name in ("tokens", "seconds"):
        groups = [(_spread(run, name), svg.series(at)) for at, run in enumerate(report.runs)]
        drawn = _up_to(f"{name}, logarithmic", "share up to this, %", groups)
        if drawn:
            panels.append(f'<div class="panel"><h3>{name.capitalize()}</h3>{drawn}</div>')
    if not panels:
        return ""
    return (
        '<h2>Time and tokens</h2><p class="note">Of a sample, or of a problem where the whole'
        f' solver ran.</p>{_names(report)}<div class="panels">{"".join(panels)}</div>'
    )


def _spread(run: RunReport, name: str) -> list[float]:
    if run.run.record.config.mode == "solve":
        outcomes = run.run.outcomes.values()
        return [
            float(one.num_sampled_tokens if name == "tokens" else one.seconds) for one in outcomes
        ]
    samples = run.run.samples.values()
    return [float(one.num_sampled_tokens if name == "tokens" else one.seconds) for one in samples]


def _confidence(report: Report) -> str:
    votes = [(at, run.votes) for at, run in enumerate(report.runs) if run.votes]
    tokens = [(at, run.tokens) for at, run in enumerate(report.runs) if run.tokens]
    panels = []
    if votes:
        notes = [f"{report.runs[at].name}: {_believed(one)}" for at, one in votes]
        panels.append(
            _reliability_panel(
                "Share of the vote", "leader's share of the votes", votes, notes, diagonal=True
            )
        )
    if tokens:
        notes = [
            f"{run.name}: {_ordered(run.confidence_test)}"
            for run in report.runs
            if run.confidence_test is not None
        ]
        panels.append(
            _reliability_panel(
                "Probability of the tokens", "geometric mean of a sample's token probabilities",
                tokens, notes, diagonal=False,
            )
        )  # fmt: skip
    else:
        panels.append(
            '<div class="panel"><h3>Probability of the tokens</h3><p>No log-probabilities were'
            " recorded (<code>--logprobs</code>).</p></div>"
        )
    return (
        "<h2>Confidence and truth</h2><p>Of cases with about this confidence, how many are right?"
        " On the dashed line a confidence can be taken at its word.</p>"
        f'{_names(report)}<div class="panels">{"".join(panels)}</div>'
    )


def _believed(one: Reliability) -> str:
    return f"Brier score {one.brier:.3f}, mean gap {100 * one.gap:.1f} points"


def _ordered(test: WithinTest) -> str:
    return (
        f"inside a problem a right answer is the surer one with a chance of"
        f" {50 * (1 - test.delta.value):.0f} % (p {spoken_p(test.p)}, {test.problems} problems)"
    )


def _reliability_panel(
    name: str,
    x_name: str,
    runs: Sequence[tuple[int, Reliability]],
    notes: Sequence[str],
    *,
    diagonal: bool,
) -> str:
    every = [one.confidence for _, run in runs for one in run.bins]
    low = 0.0 if diagonal else math.floor(10 * min(every)) / 10
    x = _UNIT if diagonal or low >= 1.0 else svg.Scale(low, 1.0)
    marks = [svg.line(0, 100 * x.low, 100, 100, "rule")]
    for at, run in runs:
        kind = svg.series(at)
        points = []
        for one in run.bins:
            place, right = x.at(one.confidence), one.right
            points.append((place, _UNIT.at(right.value)))
            if not math.isnan(right.low):
                marks.append(
                    svg.line(place, _UNIT.at(right.low), place, _UNIT.at(right.high), f"{kind} err")
                )
            hint = f"{100 * one.confidence:.0f} %: {percent(right)} of {one.cases}"
            marks.append(svg.dot(*points[-1], f"dot {kind}", hint))
        marks.append(svg.path(points, kind))
    drawn = svg.chart(
        svg.Axis(x, f"{x_name}, %", svg.percent),
        svg.Axis(_UNIT, "right, %", svg.percent),
        marks,
        title=f"{name} against share of right answers",
    )
    words = "".join(f'<p class="note">{escaped(note)}</p>' for note in notes)
    return f'<div class="panel"><h3>{escaped(name)}</h3>{drawn}{words}</div>'


def _code(report: Report) -> str:
    panels = []
    for at, run in enumerate(report.runs):
        use = run.code
        if not any(group.name != "no code" for group in use.groups):
            continue
        rows = [
            f'<tr><td>{escaped(group.name)}</td><td class="wide">{_bar(group.right, at)}</td>'
            f'<td class="n">{100 * group.right.value:.0f} %</td>'
            f'<td class="n soft">{group.samples}</td></tr>'
            for group in use.groups
        ]
        within = (
            "No problem has samples of either kind to compare inside it."
            if use.within is None
            else f"With code minus without, inside the {use.both} problems that have both:"
            f" {points(use.within)}."
        )
        table = _table(["", "right", "", "samples"], rows, numeric=2)
        panels.append(
            f'<div class="panel"><h3>{escaped(run.name)}</h3>{table}'
            f'<p class="note">{escaped(within)}</p>{_repairs(use.repairs, at)}</div>'
        )
    if not panels:
        return ""
    return (
        '<h2>Code and accuracy</h2><p class="note">Samples by what their code did. This is no'
        " effect of code: which problems call for it, and when a model reaches for it, are mixed"
        f' in.</p><div class="panels">{"".join(panels)}</div>'
    )


def _repairs(repairs: Sequence[RepairGroup], run: int) -> str:
    if not repairs:
        return ""
    rows = [
        f'<tr><td>{escaped(each.cause)}</td><td class="wide">{_bar(each.repaired, run)}</td>'
        f'<td class="n">{100 * each.repaired.value:.0f} %</td>'
        f'<td class="n soft hide-small">{each.figures.num_followed}</td>'
        f'<td class="n soft">{each.figures.num_failed}</td></tr>'
        for each in repairs
    ]
    heads = ["cause", "repaired by the next cell", "", "tried again*", "failed"]
    return f"<h3>Failed cells by cause</h3>{_table(heads, rows, numeric=2)}"


def _problems(report: Report, links: Links) -> str:
    """All problems; two or more runs stand beside each other."""
    results = [{one.problem_id: one for one in run.results} for run in report.runs]
    order = list(dict.fromkeys(item.problem.id for run in report.runs for item in run.run.items))
    golds = {item.problem.id: item.problem.gold for run in report.runs for item in run.run.items}
    rows = [
        row
        for problem_id in order
        if (row := _problem(report, problem_id, golds[problem_id], results, links)) is not None
    ]
    choice = (
        '<fieldset class="views"><legend>Show</legend>'
        + "".join(
            f'<label><input type="radio" name="show" id="show-{name}"{checked}> {words}</label>'
            for name, words, checked in (
                ("all", "all", " checked"),
                ("wrong", "wrong answers", ""),
                ("right", "right answers", ""),
                ("split", "samples not of one mind", ""),
            )
        )
        + "</fieldset>"
    )
    heads = ["problem", "gold*"]
    if len(report.runs) == 1:
        heads += ["answer", "right", "tokens*"]
    else:
        heads += [run.name for run in report.runs]
    hint = (
        ""
        if links
        else '<p class="note">Pages of the problems were not written; <code>aimo2 trace show'
        " FOLDER ID --html PAGE</code> makes one.</p>"
    )
    table = _table(heads, rows, numeric=99)
    several = (
        '<p class="note">Under each answer: right samples of all of them.</p>'
        if len(report.runs) > 1
        else ""
    )
    return f"<h2>Problems</h2>{hint}{several}{choice}{table}"


def _problem(
    report: Report,
    problem_id: str,
    gold: str | None,
    results: Sequence[Mapping[str, ProblemResult]],
    links: Links,
) -> str | None:
    cells: list[str] = []
    kinds: set[str] = set()
    alone = len(report.runs) == 1
    for at, run in enumerate(report.runs):
        outcome = run.run.outcomes.get(problem_id)
        result = results[at].get(problem_id)
        if outcome is None:
            cells.append('<td class="soft">–</td>' + "<td></td>" * 2 * alone)
            continue
        chip_kind, kind = _KINDS[outcome.correct]
        if outcome.answer is None:
            shown = frame.chip("no answer", "warn")
        else:
            shown = frame.answer_chip(outcome.answer, chip_kind)
        if (link := links.get((at, problem_id))) is not None:
            shown = f'<a href="{escaped(link)}">{shown}</a>'
        kinds.add(kind)
        share = "" if result is None else f"{result.right}/{len(result.samples)}"
        if result is not None and 0 < result.right < len(result.samples):
            kinds.add("split")
        tokens = f"{outcome.num_sampled_tokens:,}"
        if alone:
            cells.append(
                f'<td>{shown}</td><td class="soft">{share}</td>'
                f'<td class="soft hide-small">{tokens}</td>'
            )
        else:  # Three columns a run would be wider than any screen.
            under = f'{share} <span class="hide-small">· {tokens} tokens</span>'
            cells.append(f'<td>{shown}<div class="note">{under}</div></td>')
    if not kinds:
        return None
    # A row stays in view where any run fits the choice.
    classes = [name for name in ("right", "wrong", "ungraded") if {name} == kinds - {"split"}]
    classes += [] if "split" in kinds else ["united"]
    return (
        f'<tr class="{" ".join(classes)}"><td class="id">{breakable(problem_id)}</td>'
        f'<td class="hide-small">{answer_html(gold) if gold is not None else "–"}</td>'
        f"{''.join(cells)}</tr>"
    )


def _made(report: Report) -> str:
    """How the runs were made: every setting, and where two runs differ."""
    settings = [flat_settings(run.run.record.model_dump(mode="json")) for run in report.runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    rows = []
    for name in names:
        values = [str(one.get(name, "–")) for one in settings]
        differs = len(set(values)) > 1
        cells = "".join(f'<td class="id">{escaped(one_line(value, 120))}</td>' for value in values)
        label = escaped(one_line(name, 80))
        rows.append(f"<tr><td>{f'<strong>{label}</strong>' if differs else label}</td>{cells}</tr>")
    bold = " Settings in bold differ." if len(report.runs) > 1 else ""
    heads = ["setting", *(run.name for run in report.runs)]
    return (
        f"<h2>How it was made</h2><details><summary>{len(names)} settings and versions</summary>"
        f'<p class="note">From each run\'s run.json.{bold}</p>{_table(heads, rows, numeric=99)}'
        "</details>"
    )
