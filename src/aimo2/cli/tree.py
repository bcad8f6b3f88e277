"""Draw a question's tree on a terminal: openings, forks, code runs, answers, weights.

Knows no solver; it is told what happens, or reads what is stored. Nothing that a model wrote
reaches the terminal as a command to it.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from aimo2.attempt import Attempt, TextKind
from aimo2.cli.display import Pace, PlainDisplay, Votes, describe
from aimo2.pages.text import one_line, visible
from aimo2.pages.tree import Branch, Node, forest
from aimo2.types import CodeRun, Outcome, Problem

_ANSWER_STYLES = {True: "bold green", False: "bold red", None: "bold"}
_SHOWN_ANSWERS = 5
_SPARE_LINES = 4
"""Of the terminal, for the title, the votes and what is printed above."""


def live_branch(rollout: Attempt, seconds: float, weight: float | None = None) -> Branch:
    """A rollout as it stands now; `seconds`: since its start, for one that has not ended; `weight`:
    of its vote.

    Callable from any thread: a live display draws outside the event loop, whose clock it lacks.
    """
    own = tuple(rollout.turns[rollout.num_shared_turns :])
    return Branch(
        index=rollout.index,
        opening=rollout.opening,
        state=rollout.stop_reason or rollout.state,
        turns=own,
        num_tokens=rollout.num_own_tokens,
        num_code_runs=sum(turn.run is not None for turn in own),
        answer=rollout.answer.canonical.value if rollout.answer else None,
        weight=weight,
        parent=rollout.parent,
        num_shared_turns=rollout.num_shared_turns,
        seconds=seconds if rollout.stop_reason is None else rollout.seconds,
        error=rollout.error,
        live=rollout.stop_reason is None,
    )


def draw(
    title: str,
    branches: Sequence[Branch],
    *,
    verdict: Callable[[str], bool | None] = lambda answer: None,
    lines: int | None = None,
) -> Tree:
    """The tree of the branches.

    `lines`: as many as there is room for; first the code runs are left out, then the oldest
    branches that have ended, and the last line says how many.
    """
    roots = forest(branches)
    needed = len(branches) + sum(branch.num_code_runs for branch in branches)
    with_runs = lines is None or needed <= lines
    too_many = lines is not None and len(branches) > lines
    hidden = _hidden(branches, len(branches) - max(1, (lines or 0) - 1) if too_many else 0)
    tree = Tree(Text(one_line(title, 90), style="bold"), guide_style="dim")
    places: dict[int, Tree] = {}
    for node in itertools.chain.from_iterable(root.walk() for root in roots):
        place = places.get(_parent(node, places), tree)
        if node.branch.index in hidden:
            places[node.branch.index] = place
            continue
        places[node.branch.index] = _add(place, node.branch, verdict, with_runs=with_runs)
    if hidden:
        tree.add(Text(f"and {len(hidden)} more that have ended", style="dim"))
    return tree


def _hidden(branches: Sequence[Branch], count: int) -> frozenset[int]:
    ended = [branch.index for branch in branches if not branch.live]
    return frozenset(ended[:count])


def _parent(node: Node, places: Mapping[int, Tree]) -> int:
    parent = node.branch.parent
    return -1 if parent is None or parent >= node.branch.index else parent


def _add(
    place: Tree, branch: Branch, verdict: Callable[[str], bool | None], *, with_runs: bool
) -> Tree:
    added = place.add(_line(branch, verdict, with_marks=not with_runs))
    if with_runs:
        for turn in branch.turns:
            if turn.run is not None:
                added.add(_run_line(turn.run))
        if branch.error and branch.answer is None:
            added.add(Text(one_line(branch.error, 90), style="red"))
    return added


def _line(branch: Branch, verdict: Callable[[str], bool | None], *, with_marks: bool) -> Text:
    """`3 code · forked from 1 after turn 2 · ✓✗ · 412 tokens · p 0.86 · 12.3 s · 42 (weight 1)`."""
    name = f"{branch.index} {one_line(branch.opening, 20)}"
    line = Text(name, "cyan" if branch.live else "", no_wrap=True, overflow="ellipsis")
    if branch.parent is not None:
        line.append(f" ⑂ {branch.parent} after turn {branch.num_shared_turns}", style="magenta")
    if with_marks:
        runs = [turn.run for turn in branch.turns if turn.run is not None]
        line.append(" ")
        for run in runs:
            line.append(*(("✓", "green") if run.error is None else ("✗", "red")))
    facts = [f"{branch.num_tokens} tokens"]
    if branch.sureness is not None:
        facts.append(f"p {branch.sureness:.2f}")
    if branch.confidence is not None:
        facts.append(f"confidence {branch.confidence:.2f}")
    facts.append(f"{branch.seconds:.1f} s")
    line.append(" · " + " · ".join(facts), style="dim")
    if branch.answer is not None:
        line.append(" · ")
        style = _ANSWER_STYLES[verdict(branch.answer)]
        line.append(one_line(branch.answer, 40), style=style)
    if branch.weight is not None:
        line.append(f" (weight {branch.weight:.3g})", style="dim")
    if branch.answer is None or branch.state != "answered":
        style = "yellow" if branch.live else "dim"
        line.append(f" · {branch.state.replace('_', ' ')}", style=style)
    return line


def _run_line(run: CodeRun) -> Text:
    """`✓ 0.12 s  42`, or `✗ name 0.01 s  NameError: ...`: the last line that it printed."""
    last = next((row for row in reversed(run.output.splitlines()) if row.strip()), "")
    if run.error is None:
        mark, style = f"✓ {run.seconds:.2f} s  ", "green"
    else:
        mark, style = f"✗ {run.error} {run.seconds:.2f} s  ", "red"
    line = Text(mark, style, no_wrap=True, overflow="ellipsis")
    line.append(one_line(last, 60), style="default")
    return line


def votes_line(weights: Mapping[str, float]) -> Text:
    """The largest weights, in order."""
    if not weights:
        return Text("votes  none yet", style="dim")
    line = Text("votes  ")
    for number, (answer, weight) in enumerate(list(weights.items())[:_SHOWN_ANSWERS]):
        line.append("   " if number else "")
        line.append(one_line(answer, 30), style="bold")
        line.append(f": {weight:.3g}")
    more = len(weights) - _SHOWN_ANSWERS
    if more > 0:
        line.append(f"   and {more} more", style="dim")
    return line


class _Watched:
    """The question's rollouts, when each was first heard of, and its votes."""

    def __init__(self, problem: Problem, votes: Votes) -> None:
        self.title = f"{problem.id}  {problem.statement}"
        self.votes = votes
        self._known: dict[int, tuple[Attempt, float]] = {}

    def see(self, rollout: Attempt) -> None:
        self._known.setdefault(rollout.index, (rollout, time.monotonic()))

    def branches(self) -> list[Branch]:
        """As they stand now; may be called from another thread than `see`."""
        now = time.monotonic()
        known = list(self._known.values())
        weights = {vote.rollout: vote.weight for vote in self.votes.votes}
        ordered = sorted(known, key=lambda pair: pair[0].index)
        return [
            live_branch(rollout, now - began, weights.get(rollout.index))
            for rollout, began in ordered
        ]


class TreeDisplay(PlainDisplay):
    """Where there is no terminal: a line for what ends, and each question's tree behind it."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, total)
        self._watched: _Watched | None = None

    def started(self, problem: Problem, number: int, votes: Votes) -> None:
        """Begin a new tree."""
        super().started(problem, number, votes)
        self._watched = _Watched(problem, votes)

    def progress(self, rollout: Attempt) -> None:
        """Remember the rollout for the tree, too."""
        if self._watched is not None:
            self._watched.see(rollout)
        super().progress(rollout)

    def ended(self, outcome: Outcome) -> None:
        """Print the tree, and how the question ended."""
        if self._watched is not None:
            self._console.print(_final(self._watched, outcome), highlight=False)
        super().ended(outcome)


class LiveTreeDisplay:
    """The tree on a terminal, drawn anew a few times a second; it stays when a question ends."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._pace = Pace(total)
        self._watched: _Watched | None = None
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=5, transient=True
        )

    def __enter__(self) -> "LiveTreeDisplay":
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def notice(self, text: str) -> None:
        """Print the line above the tree."""
        self._console.print(Text(visible(text)), highlight=False)

    def started(self, problem: Problem, number: int, votes: Votes) -> None:
        """Begin a new tree."""
        self._watched = _Watched(problem, votes)

    def ended(self, outcome: Outcome) -> None:
        """Leave the whole tree and one line above what comes next."""
        self._pace.one_done()
        if self._watched is not None:
            self._console.print(_final(self._watched, outcome), highlight=False)
        line = Text(f"{one_line(outcome.id, 60)}  ", style="bold")
        line.append(visible(describe(outcome)), style="default")
        self._console.print(line, highlight=False)
        self._watched = None

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """Text is not shown here."""

    def progress(self, rollout: Attempt) -> None:
        """Remember the rollout; the tree is drawn by its own timer."""
        if self._watched is not None:
            self._watched.see(rollout)

    def _draw(self) -> RenderableType:
        watched = self._watched  # The loop's thread may end the question meanwhile.
        if watched is None:
            return Text("")
        room = max(3, self._console.height - _SPARE_LINES)
        votes = votes_line(watched.votes.tally.weights)
        votes.append(f"    [{self._pace}]", style="dim")
        return Group(draw(watched.title, watched.branches(), lines=room), votes)


def _final(watched: _Watched, outcome: Outcome) -> Tree:
    def verdict(answer: str) -> bool | None:
        return outcome.correct if answer == outcome.answer else None

    return draw(watched.title, watched.branches(), verdict=verdict)
