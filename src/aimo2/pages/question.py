"""A question's page: its tree, every text and code run, and the votes over time.

Knows no files. Everything that a model wrote goes through `text`, which escapes it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aimo2.answers import same
from aimo2.pages import frame, svg
from aimo2.pages.text import (
    Splitter,
    answer_html,
    code_html,
    escaped,
    one_line,
    prose_html,
    shortened,
)
from aimo2.pages.tree import Branch, Cast, Node, branch_of, casts, final_votes, forest
from aimo2.types import CodeRun, Outcome, Trace, Turn

SURENESS_STEPS = (0.95, 0.8, 0.5, 0.25, 0.1)
"""Probabilities between the colours of tokens: from none (at least 0.95) to the strongest."""
_SHOWN_ANSWERS = svg.SERIES
_DEEPEST_LIST = 6
"""Forks below it are drawn at it, so that a phone has room for their texts."""
_MARKS = {True: "good", False: "bad", None: "none"}


@dataclass(frozen=True, slots=True)
class Question:
    """What is known of one question. `verdicts`: answer -> right or wrong, where it was graded."""

    id: str
    traces: tuple[Trace, ...]
    outcome: Outcome | None = None
    statement: str | None = None
    gold: str | None = None
    verdicts: Mapping[str, bool] = field(default_factory=dict)

    @property
    def answer(self) -> str | None:
        """The outcome's, or, where there is none, what the stored votes add up to."""
        if self.outcome is not None:
            return self.outcome.answer
        return next(iter(final_votes(casts(self.traces))), None)

    def verdict(self, answer: str | None) -> bool | None:
        """Whether an answer is right; `None` where nothing here can tell."""
        if answer is None:
            return None if self.gold is None else False
        if answer in self.verdicts:
            return self.verdicts[answer]
        outcome = self.outcome
        if outcome is not None and outcome.correct is not None and outcome.answer == answer:
            return outcome.correct
        return None if self.gold is None else same(answer, self.gold)


def sureness_class(probability: float) -> str:
    """The colour class of a probability."""
    return f"c{sum(probability < step for step in SURENESS_STEPS)}"


def question_page(question: Question, back: tuple[str, str] | None = None) -> str:
    """The page of one question; `back`: address and words of a link above it."""
    link = f'<p><a href="{escaped(back[0])}">{escaped(back[1])}</a></p>' if back else ""
    body = link + _section(question, 0, _views([question]))
    return frame.page(f"{question.id} · aimo2", body)


def questions_page(questions: Sequence[Question], title: str) -> str:
    """One page of several questions, with a list of them first."""
    if len(questions) == 1:
        return question_page(questions[0])
    rows = "".join(
        f'<tr><td class="id"><a href="#q{number}">{escaped(one_line(question.id, 80))}</a></td>'
        f"<td>{_answer(question)}</td>"
        f'<td class="n">{len(question.traces)}</td><td class="n">{_tokens(question)}</td></tr>'
        for number, question in enumerate(questions)
    )
    table = (
        '<div class="scroll"><table><thead><tr><th>problem</th><th>answer</th>'
        f'<th class="n">rollouts</th><th class="n">tokens</th></tr></thead>{rows}</table></div>'
    )
    sections = "".join(_section(question, number) for number, question in enumerate(questions))
    body = f"<h1>{escaped(title)}</h1>{table}{_views(questions)}{sections}"
    return frame.page(title, body)


def _tokens(question: Question) -> int:
    return sum(trace.num_own_tokens for trace in question.traces)


def _answer(question: Question) -> str:
    answer = question.answer
    if answer is None:
        return frame.chip("no answer", "warn")
    verdict = question.verdict(answer)
    words = {True: " · right", False: " · wrong", None: ""}[verdict]
    return frame.answer_chip(answer, _MARKS[verdict], words)


def _views(questions: Sequence[Question]) -> str:
    """The choice between reading and tokens, where tokens are stored; and what colours mean."""
    turns = [turn for question in questions for trace in question.traces for turn in trace.turns]
    if not any(turn.mean_logprob is not None or turn.token_spans for turn in turns):
        return (
            '<p class="note">No probabilities were recorded, so nothing is coloured by'
            " confidence (record them with <code>--logprobs</code>).</p>"
        )
    names = ("0.95 or more", "0.8 or more", "0.5 or more", "0.25 or more", "0.1 or more", "less")
    key = "".join(f'<i class="c{number}">{name}</i>' for number, name in enumerate(names))
    if any(turn.token_spans for turn in turns):
        choice = (
            '<fieldset class="views"><legend>Show the texts</legend>'
            '<label><input type="radio" name="view" id="view-read" checked> to read</label>'
            '<label><input type="radio" name="view" id="view-tokens"> token by token</label>'
            "</fieldset>"
        )
        words = (
            "Tokens are coloured by the probability that the model gave them, as they arrived"
            " from the server; the bar on the left of a turn shows their geometric mean."
        )
    else:
        choice = ""
        words = (
            "Single tokens' probabilities are not in these traces: only the bar on the left of"
            " each turn is coloured, by the geometric mean of its tokens' probabilities."
        )
    return f'{choice}<p class="note">{words}</p><div class="key">probability: {key}</div>'


def _section(question: Question, number: int, views: str = "") -> str:
    nodes = [node for root in forest(map(branch_of, question.traces)) for node in root.walk()]
    prefix = f"q{number}"
    parts = [
        f'<section id="{prefix}"><h1>{escaped(one_line(question.id, 120))}</h1>',
        _statement(question),
        _facts(question),
        _votes(question),
        _lanes(question, nodes, prefix),
        f"<h2>Texts</h2>{views}{_tree(question, prefix)}",
        "</section>",
    ]
    return "".join(parts)


def _statement(question: Question) -> str:
    if not question.statement:
        return ""
    words = prose_html(shortened(question.statement, 20_000))
    return f'<div class="statement words" dir="auto">{words}</div>'


def _facts(question: Question) -> str:
    outcome, traces = question.outcome, question.traces
    pairs = [("answer", _answer(question))]
    if question.gold is not None:
        pairs.append(("gold answer", answer_html(question.gold, 80)))
    if outcome is not None:
        pairs.append(("ended by", escaped(outcome.stop_reason.replace("_", " "))))
    runs = [turn.run for trace in traces for turn in trace.turns[trace.num_shared_turns :]]
    ran = [run for run in runs if run is not None]
    failed = sum(run.error is not None for run in ran)
    seconds = outcome.seconds if outcome else max(map(_ended, traces), default=0.0)
    pairs += [
        ("rollouts", str(len(traces))),
        ("sampled tokens", f"{_tokens(question):,}"),
        ("code runs", f"{len(ran)}" + (f" ({failed} failed)" if failed else "")),
        ("seconds", f"{seconds:.1f}"),
    ]
    models = sorted({trace.model for trace in traces if trace.model})
    if models:
        pairs.append(("model", escaped(", ".join(one_line(name, 60) for name in models))))
    note = outcome.note if outcome else None
    words = f'<p class="note">{escaped(one_line(note, 300))}</p>' if note else ""
    return frame.facts(pairs) + words


def _ended(trace: Trace) -> float:
    return trace.started + trace.seconds


def _votes(question: Question) -> str:
    """The votes over time, and what they came to."""
    found = casts(question.traces)
    if not found:
        return "<h2>Votes</h2><p>No rollout answered.</p>"
    totals = question.outcome.votes if question.outcome else final_votes(found)
    names = list(totals or final_votes(found))[:_SHOWN_ANSWERS]
    rows = "".join(_vote_row(question, name, totals.get(name, 0.0), totals) for name in names)
    more = len(totals) - len(names)
    note = f'<p class="note">and {more} more answers</p>' if more > 0 else ""
    table = f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>{note}'
    return (
        '<h2>Votes</h2><div class="panels">'
        f'<div class="panel"><h3>In the end</h3>{table}</div>'
        f'<div class="panel"><h3>Over time</h3>{_votes_over_time(found, names)}</div></div>'
    )


def _vote_row(question: Question, name: str, weight: float, totals: Mapping[str, float]) -> str:
    top = max([*totals.values(), 1e-9])
    verdict = question.verdict(name)
    scale = svg.Scale(0.0, top)
    width = scale.at(weight)
    bar = (
        '<svg class="bar" height="16" aria-hidden="true"><rect class="track" x="0" y="2"'
        f' width="100%" height="12" rx="2"/><rect class="fill {_MARKS[verdict]} s0" x="0" y="2"'
        f' width="{width:.1f}%" height="12" rx="2"/></svg>'
    )
    words = {True: "right", False: "wrong", None: ""}[verdict]
    return (
        f'<tr><td class="id">{answer_html(name, 60)}</td><td class="wide">{bar}</td>'
        f'<td class="n">{weight:.3g}</td><td class="{_MARKS[verdict]}">{words}</td></tr>'
    )


def _votes_over_time(found: Sequence[Cast], names: Sequence[str]) -> str:
    end = max(cast.seconds for cast in found)
    x = svg.scale_over([end])
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for cast in found:
        if cast.answer in lines:
            line = lines[cast.answer]
            line.append((cast.seconds, cast.weight + (line[-1][1] if line else 0.0)))
    top = max((line[-1][1] for line in lines.values() if line), default=1.0)
    y = svg.scale_over([top])
    marks = []
    for number, name in enumerate(names):
        if not lines[name]:
            continue
        points = [(x.at(lines[name][0][0]), 0.0)]
        points += [(x.at(when), y.at(weight)) for when, weight in lines[name]]
        points.append((x.at(end), points[-1][1]))
        marks.append(svg.steps(points, svg.series(number)))
    drawn = svg.chart(
        svg.Axis(x, "seconds"), svg.Axis(y, "weight"), marks, title="votes over time", height=170
    )
    return drawn + svg.legend([one_line(name, 40) for name in names])


def _lanes(question: Question, nodes: Sequence[Node], prefix: str) -> str:
    """Every rollout as a bar over the question's time, forks under what they came from."""
    end = max([node.branch.started + node.branch.seconds for node in nodes] + [1e-3])
    scale = svg.Scale(0.0, end)
    rows = [_lane(question, node, scale, prefix) for node in nodes]
    ticks = "".join(
        f'<text class="tick" x="{scale.at(tick):.2f}%" y="12" text-anchor="middle">{tick:g}</text>'
        for tick in scale.ticks(5)
    )
    axis = f'<div></div><div class="axisrow"><svg aria-hidden="true">{ticks}</svg></div><div></div>'
    return (
        '<h2>Tree over time</h2><p class="note">A bar is a rollout, from its first request to its'
        " end, in seconds of the question; ↳ marks a fork. Dots are code runs: green worked, red"
        " failed. On the right stands its answer, or why it has none.</p>"
        f'<div class="panel"><div class="lanes">{"".join(rows)}{axis}</div></div>'
    )


def _lane(question: Question, node: Node, scale: svg.Scale, prefix: str) -> str:
    branch = node.branch
    start, end = branch.started, branch.started + branch.seconds
    verdict = question.verdict(branch.answer) if branch.answer is not None else None
    dots = "".join(
        svg.dot(
            scale.at(when),
            50,
            f"dot {'good' if run.error is None else 'bad'}",
            one_line(run.error or run.output, 80),
        )
        for when, run in _run_times(branch)
    )
    words = branch.answer if branch.answer is not None else branch.state.replace("_", " ")
    left = scale.at(start)
    mark = _MARKS[verdict]
    bar = svg.line(left, 50, max(scale.at(end), left + 0.3), 50, f"lane {mark}")
    fork = "&nbsp;" * (2 * (min(node.depth, _DEEPEST_LIST) - 1)) + "↳ " if node.depth else ""
    name = f"{fork}{branch.index} {escaped(one_line(branch.opening, 14))}"
    link = f'<a href="#{prefix}b{branch.index}">{name}</a>'
    return (
        f'<div class="name">{link}</div>'
        f'<div><svg role="img" aria-label="rollout {branch.index}: {escaped(one_line(words, 40))}">'
        f"{bar}{dots}</svg></div>"
        f'<div class="end {mark}">{escaped(one_line(words, 16))}</div>'
    )


def _run_times(branch: Branch) -> list[tuple[float, CodeRun]]:
    """When each code run ended. Turns of version 1 have no times: spread by their tokens."""
    timed = any(turn.seconds for turn in branch.turns)
    found, tokens = [], 0
    for turn in branch.turns:
        tokens += turn.num_tokens
        if turn.run is None:
            continue
        if timed:
            when = turn.started + turn.seconds
        else:
            when = branch.started + branch.seconds * tokens / max(1, branch.num_tokens)
        found.append((when, turn.run))
    return found


def _tree(question: Question, prefix: str) -> str:
    """Nested lists, without recursion and not too deep: a stored chain of forks may be long."""
    parts: list[str] = []
    depth = -1
    for root in forest(map(branch_of, question.traces)):
        for node in root.walk():
            deeper = min(node.depth, _DEEPEST_LIST)
            if deeper > depth:
                parts.append("<ul>")
            else:
                parts.append("</li>" + "</ul></li>" * (depth - deeper))
            depth = deeper
            is_first = len(parts) == 1
            parts.append(f"<li>{_branch(question, node.branch, prefix, is_open=is_first)}")
    parts.append("</li></ul>" * (depth + 1))
    return f'<div class="tree">{"".join(parts)}</div>'


def _branch(question: Question, branch: Branch, prefix: str, *, is_open: bool) -> str:
    shown = "".join(_turns(branch)) or '<p class="note">It ended before it had any text.</p>'
    fork = ""
    if branch.parent is not None:
        fork = (
            f'<p class="note">Forked from <a href="#{prefix}b{branch.parent}">rollout'
            f" {branch.parent}</a> behind its turn {branch.num_shared_turns}; what came before"
            " stands there.</p>"
        )
    error = f'<p class="bad">{escaped(one_line(branch.error, 400))}</p>' if branch.error else ""
    opened = " open" if is_open else ""
    return (
        f'<details class="branch" id="{prefix}b{branch.index}"{opened}>'
        f"<summary>{_summary(question, branch)}</summary>"
        f'<div class="inside">{fork}{shown}{error}</div></details>'
    )


def _summary(question: Question, branch: Branch) -> str:
    verdict = question.verdict(branch.answer) if branch.answer is not None else None
    chips = [
        f"<b>{branch.index}</b> {escaped(one_line(branch.opening, 40))} ",
        frame.chip("no answer", "warn")
        if branch.answer is None
        else frame.answer_chip(branch.answer, _MARKS[verdict]),
        frame.chip(branch.state.replace("_", " ")),
    ]
    runs = [turn.run for turn in branch.turns if turn.run is not None]
    if runs:
        marks = "".join("✓" if run.error is None else "✗" for run in runs[:20])
        chips.append(frame.chip(f"code {marks}"))
    chips.append(frame.chip(f"{branch.num_tokens:,} tokens"))
    if branch.sureness is not None:
        chips.append(frame.chip(f"mean p {branch.sureness:.2f}"))
    if branch.confidence is not None:
        chips.append(frame.chip(f"confidence {branch.confidence:.2f}"))
    if branch.weight is not None:
        chips.append(frame.chip(f"weight {branch.weight:.3g}"))
    chips.append(frame.chip(f"{branch.seconds:.1f} s"))
    return " ".join(chips)


def _turns(branch: Branch) -> list[str]:
    """The turns' texts; a fence may open in what we put before a turn and close inside it."""
    splitter = Splitter()
    shown = []
    if branch.prefix:
        words = _segments(splitter, branch.prefix, fed=True)
        shown.append(f'<div class="turn c0">{words}</div>' if words else "")
    if not branch.prefix and branch.parent is None and not branch.turns:
        return []
    for turn in branch.turns:
        shown.append(_turn(splitter, turn))
        for _ in splitter.feed(turn.injected):
            pass  # Shown as it stands by `_turn`; only a fence that it opens matters here.
    return shown


def _turn(splitter: Splitter, turn: Turn) -> str:
    tokens = _tokens_html(turn)
    kind = "" if turn.mean_logprob is None else sureness_class(math.exp(min(0, turn.mean_logprob)))
    marked = " marked" if tokens else ""
    words = _segments(splitter, turn.text)
    run = "" if turn.run is None else _cell(turn.run)
    injected = ""
    if turn.injected.strip():
        injected = (
            '<details class="injected"><summary>fed back to the model'
            f" ({len(turn.injected)} characters)</summary>"
            f"<pre>{escaped(shortened(turn.injected, 20_000))}</pre></details>"
        )
    return (
        f'<div class="turn {kind}{marked}"><div class="read">{words}</div>{tokens}{run}{injected}'
        "</div>"
    )


def _segments(splitter: Splitter, text: str, *, fed: bool = False) -> str:
    parts = []
    for segment in splitter.feed(shortened(text)):
        if segment.kind == "code":
            parts.append(f'<pre class="code">{code_html(segment.text)}</pre>')
        else:
            kind = "words fed" if fed else "words"
            words = prose_html(segment.text.strip("\n"))
            parts.append(f'<div class="{kind}" dir="auto">{words}</div>')
    return "".join(parts)


def _cell(run: CodeRun) -> str:
    ok = run.error is None
    state = "output" if ok else f"failed ({run.error})"
    cut = ", cut" if run.truncated else ""
    output = escaped(shortened(run.output)) or "(nothing)"
    return (
        f'<div class="cellhead">{state}, {run.seconds:.2f} s{cut}</div>'
        f'<pre class="output{"" if ok else " error"}">{output}</pre>'
    )


def _tokens_html(turn: Turn) -> str:
    """The text piece by piece as it arrived, each coloured; empty where nothing is stored."""
    if not turn.token_spans:
        return ""
    parts, at = [], 0
    for length, surprise in turn.token_spans:
        piece = turn.text[at : at + length]
        if not piece or at > 2 * len(turn.text):
            break
        at += length
        kind = sureness_class(math.exp(-surprise / 100))
        words = escaped(piece)
        parts.append(words if kind == "c0" else f'<i class="{kind}">{words}</i>')
    parts.append(escaped(turn.text[at:]))
    return f'<div class="tokens">{"".join(parts)}</div>'
