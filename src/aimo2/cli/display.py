"""Show a solve on standard error: a live table on a terminal, plain lines elsewhere.

Knows no models; it is told what happens and never asks.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from aimo2.attempt import Attempt, Observer, TextKind
from aimo2.pages.text import one_line, visible
from aimo2.policy.vote import Tally
from aimo2.types import Outcome, Problem, Vote

_STYLES: dict[TextKind, str] = {"prefix": "dim", "sampled": "", "injected": "cyan"}


class Votes(Protocol):
    """A question's votes as they stand at any time; a solver has them."""

    @property
    def tally(self) -> Tally:
        """Summed by answer, a verifier's choices included."""
        ...

    @property
    def votes(self) -> Sequence[Vote]:
        """One by one."""
        ...


class Display(Observer, Protocol):
    """An observer that also hears of questions, and is a context manager around them all."""

    def __enter__(self) -> "Display": ...

    def __exit__(self, *exc: object) -> None: ...

    def notice(self, text: str) -> None:
        """A line that a person should see once."""
        ...

    def started(self, problem: Problem, number: int, votes: Votes) -> None:
        """Question `number` (from 1) begins."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """The question is over."""
        ...


class Pace:
    """How long the rest will take, from how long the finished questions took."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._began = clock()
        self._done = 0

    def one_done(self) -> None:
        """A question has ended."""
        self._done += 1

    def __str__(self) -> str:
        left = self._total - self._done
        if not left or not self._done:
            return f"{self._done}/{self._total}"
        seconds = (self._clock() - self._began) / self._done * left
        return f"{self._done}/{self._total}, about {spoken(seconds)} left"


def spoken(seconds: float) -> str:
    """A duration as a person says it: `42 s`, `7 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def describe(outcome: Outcome) -> str:
    """One line on how a question ended."""
    votes = ", ".join(f"{answer}: {weight:.3g}" for answer, weight in outcome.votes.items())
    verdict = {None: "", True: ", correct", False: f", wrong (gold {outcome.gold})"}
    return (
        f"{outcome.answer if outcome.answer is not None else 'no answer'}"
        f" ({outcome.stop_reason}; votes {votes or 'none'}; {outcome.num_rollouts} rollouts,"
        f" {outcome.num_sampled_tokens} tokens, {outcome.num_code_runs} code runs,"
        f" {outcome.seconds:.1f} s{verdict[outcome.correct]})"
        + (f" [{outcome.note}]" if outcome.note else "")
    )


class PlainDisplay:
    """A line for each rollout and each question that ends."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._pace = Pace(total)
        self._name = ""

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def _line(self, text: str) -> None:
        self._console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def notice(self, text: str) -> None:
        """Print the line."""
        self._line(text)

    def started(self, problem: Problem, number: int, votes: Votes) -> None:
        """Remember the question's name for the lines to come."""
        self._name = problem.id

    def ended(self, outcome: Outcome) -> None:
        """Print how it ended and how much is left."""
        self._pace.one_done()
        self._line(f"[{outcome.id}] {describe(outcome)}; {self._pace}")

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """Text is not shown here."""

    def progress(self, rollout: Attempt) -> None:
        """Print a line when a rollout has ended."""
        if rollout.state == "done" and rollout.stop_reason != "cancelled":
            self._line(f"[{self._name}] rollout {rollout.index}: {summary(rollout)}")


def summary(rollout: Attempt) -> str:
    """One line on a rollout that has ended."""
    answer = rollout.answer
    given = f"answered {answer.canonical.value}" if answer else str(rollout.stop_reason)
    why = f" ({rollout.error})" if rollout.error and not answer else ""
    return (
        f"{rollout.opening}, {given}{why}; {rollout.num_tokens} tokens,"
        f" {rollout.num_code_runs} code runs, {rollout.seconds:.1f} s"
    )


class ShowDisplay(PlainDisplay):
    """The text of rollout 0 as it comes; the rest as plain lines."""

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """Print the text of the first rollout; what we injected is set apart by colour."""
        if rollout == 0 and text:
            shown = Text(visible(text), style=_STYLES[kind])
            self._console.print(shown, end="", highlight=False, soft_wrap=True)

    def progress(self, rollout: Attempt) -> None:
        """Start the line on an ended rollout on a line of its own."""
        if rollout.index == 0 and rollout.state == "done":
            self._console.print()
        super().progress(rollout)


class LiveDisplay:
    """A table of the question's rollouts and its tally, drawn anew a few times a second."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._pace = Pace(total)
        self._rollouts: dict[int, Attempt] = {}
        self._title = ""
        self._votes: Votes | None = None
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=5, transient=True
        )

    def __enter__(self) -> "LiveDisplay":
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def notice(self, text: str) -> None:
        """Print the line above the table."""
        self._console.print(escape(visible(text)), highlight=False)

    def started(self, problem: Problem, number: int, votes: Votes) -> None:
        """Clear the table for the next question."""
        self._title = f"{problem.id}  {one_line(problem.statement, 71)}"
        self._rollouts.clear()
        self._votes = votes

    def ended(self, outcome: Outcome) -> None:
        """Leave one line above the table."""
        self._pace.one_done()
        self._console.print(
            f"[bold]{escape(visible(outcome.id))}[/]  {escape(visible(describe(outcome)))}"
        )
        self._votes = None

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """Text is not shown here."""

    def progress(self, rollout: Attempt) -> None:
        """Remember the rollout; the table is drawn by its own timer."""
        self._rollouts[rollout.index] = rollout

    def _draw(self) -> RenderableType:
        votes = self._votes  # The loop's thread may end the question meanwhile.
        if votes is None:
            return Text("")
        table = Table(expand=False)
        for heading in ("rollout", "opening", "state"):
            table.add_column(heading)
        for heading in ("tokens", "code runs", "answer"):
            table.add_column(heading, justify="right")
        for index in sorted(list(self._rollouts)):  # noqa: C414 - a copy: the loop's thread adds
            table.add_row(*self._row(self._rollouts[index]))
        return Group(Text(self._title, style="bold"), table, self._tally_line(votes.tally))

    @staticmethod
    def _row(rollout: Attempt) -> tuple[str, ...]:
        answer = rollout.answer.canonical.value if rollout.answer else None
        state = rollout.stop_reason or rollout.state
        return (
            str(rollout.index),
            rollout.opening,
            state.replace("_", " "),
            str(rollout.num_tokens),
            str(rollout.num_code_runs),
            escape(answer or ""),
        )

    def _tally_line(self, tally: Tally) -> Text:
        widest = max(tally.weights.values(), default=1.0)
        bars = [
            f"{answer} {'█' * math.ceil(8 * weight / widest)} {weight:g}"
            for answer, weight in list(tally.weights.items())[:5]
        ]
        return Text(f"votes  {'   '.join(bars) or 'none yet'}    [{self._pace}]")
