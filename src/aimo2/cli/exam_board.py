"""Show an exam on standard error: a live board on a terminal, plain lines elsewhere.

Knows no models; it is told what happens, and asks the exam how it stands.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aimo2.attempt import Attempt, TextKind
from aimo2.cli.durations import clock_text
from aimo2.exam import ExamAnswer, ExamStatus, Watcher
from aimo2.types import Problem

_SILENT_SECONDS = 15.0
"""A server that gives no token for so long is shown as silent."""
_PACE_SECONDS = 20.0
"""Tokens a second are those of the last so many seconds."""
_ROWS = 8
"""Rollouts shown at the same time: the latest."""


class Board(Watcher, Protocol):
    """A watcher that is a context manager, and is told whom to ask."""

    def __enter__(self) -> "Board": ...

    def __exit__(self, *exc: object) -> None: ...

    def show(self, status: Callable[[], ExamStatus], health: Callable[[], str | None]) -> None:
        """Where to ask; `health` is what is wrong with the server, `None` while nothing is."""
        ...


def described(answer: ExamAnswer) -> str:
    """One line on how a question ended."""
    outcome = answer.outcome
    parts = [f"{answer.answer}{' (guessed)' if answer.guessed else ''} in {answer.seconds:.0f} s"]
    if outcome is not None:
        votes = ", ".join(f"{key}: {weight:g}" for key, weight in list(outcome.votes.items())[:5])
        parts.append(f"{outcome.stop_reason}, votes {votes or 'none'}")
        if outcome.correct is not None:
            parts.append("correct" if outcome.correct else f"wrong (gold {outcome.gold})")
    if answer.note:
        parts.append(answer.note)
    return "; ".join(parts)


class PlainBoard:
    """A line for each question that begins and ends, and what it leaves of the exam."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Callable[[], ExamStatus] | None = None

    def __enter__(self) -> "PlainBoard":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def show(self, status: Callable[[], ExamStatus], health: Callable[[], str | None]) -> None:
        """Ask this exam how it stands."""
        self._status = status

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def notice(self, text: str) -> None:
        """Print the line."""
        self._line(text)

    def asked(self, problem: Problem, number: int) -> None:
        """Print which problem begins, and how much time there is."""
        if self._status is not None:
            status = self._status()
            self._line(
                f"[{problem.id}] problem {number} of {status.num_problems};"
                f" {clock_text(status.left)} left of {clock_text(status.total)}"
            )

    def answered(self, answer: ExamAnswer, *, again: bool) -> None:
        """Print how it ended."""
        self._line(f"[{answer.id}] {'again: ' if again else ''}{described(answer)}")

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """Text is not shown."""

    def progress(self, rollout: Attempt) -> None:
        """Rollouts are not shown."""


class LiveBoard:
    """Time, problems, bank, tally, tokens a second and the server's health, drawn anew."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._status: Callable[[], ExamStatus] | None = None
        self._health: Callable[[], str | None] = lambda: None
        self._rollouts: dict[int, Attempt] = {}
        self._heard = clock()
        self._samples: deque[tuple[float, int]] = deque()
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> "LiveBoard":
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def show(self, status: Callable[[], ExamStatus], health: Callable[[], str | None]) -> None:
        """Ask this exam and this server."""
        self._status, self._health = status, health

    def notice(self, text: str) -> None:
        """Print the line above the board."""
        self._console.print(escape(text), highlight=False)

    def asked(self, problem: Problem, number: int) -> None:
        """Clear the rollouts for the next question."""
        self._rollouts.clear()
        self._samples.clear()
        self._heard = self._clock()

    def answered(self, answer: ExamAnswer, *, again: bool) -> None:
        """Leave one line above the board."""
        said = f"{'again: ' if again else ''}{described(answer)}"
        self._console.print(f"[bold]{escape(answer.id)}[/]  {escape(said)}", highlight=False)

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """The server is alive."""
        if kind == "sampled":
            self._heard = self._clock()

    def progress(self, rollout: Attempt) -> None:
        """Remember the rollout; the board is drawn by its own timer."""
        self._rollouts[rollout.index] = rollout

    def _draw(self) -> RenderableType:
        if self._status is None:
            return Text("")
        status = self._status()
        parts: list[RenderableType] = [self._clock_line(status), self._problem_line(status)]
        if status.current is not None:
            parts.append(self._question_line(status))
            if self._rollouts:
                parts.append(self._table())
        return Group(*parts)

    @staticmethod
    def _clock_line(status: ExamStatus) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            Text(f"{clock_text(status.elapsed)} used", style="bold"),
            ProgressBar(total=status.total, completed=status.elapsed, width=30),
            Text(f"{clock_text(status.left)} left"),
            Text(f"{clock_text(status.slept)} slept" if status.slept >= 1 else "", style="yellow"),
        )
        return grid

    def _problem_line(self, status: ExamStatus) -> Text:
        known = [a.outcome.correct for a in status.answers if a.outcome is not None]
        graded = [verdict for verdict in known if verdict is not None]
        right = f"   {sum(graded)} of {len(graded)} right" if graded else ""
        health = self._health()
        line = Text(
            f"{len(status.answers)} of {status.num_problems} answered{right}"
            f"   bank {clock_text(status.banked)}   {self._pace():.0f} tokens/s   server "
        )
        silent = self._clock() - self._heard
        if health is not None:
            line.append(health, style="red")
        elif status.current is not None and silent > _SILENT_SECONDS:
            line.append(f"silent for {silent:.0f} s", style="yellow")
        else:
            line.append("up", style="green")
        return line

    def _pace(self) -> float:
        now, tokens = self._clock(), sum(each.num_tokens for each in self._rollouts.values())
        self._samples.append((now, tokens))
        while len(self._samples) > 2 and now - self._samples[0][0] > _PACE_SECONDS:
            self._samples.popleft()
        then, before = self._samples[0]
        return max(0.0, tokens - before) / (now - then) if now - then > 0.5 else 0.0

    @staticmethod
    def _question_line(status: ExamStatus) -> Text:
        current = status.current
        assert current is not None
        words = " ".join(current.problem.statement.split())
        line = Text(f"{current.problem.id}  ", style="bold")
        line.append(words[:60] + ("…" if len(words) > 60 else ""), style="dim")
        line.append(f"\n{current.seconds:.0f} s of at most {current.granted:.0f}   votes ")
        widest = max(current.tally.weights.values(), default=1.0)
        bars = (
            f"{answer} {'█' * max(1, round(8 * weight / widest))} {weight:g}"
            for answer, weight in list(current.tally.weights.items())[:5]
        )
        line.append("   ".join(bars) or "none yet")
        return line

    def _table(self) -> RenderableType:
        table = Table(expand=False)
        for heading in ("rollout", "opening", "state"):
            table.add_column(heading)
        for heading in ("tokens", "code runs", "answer"):
            table.add_column(heading, justify="right")
        for index in sorted(self._rollouts)[-_ROWS:]:
            rollout = self._rollouts[index]
            answer = rollout.answer.canonical.value if rollout.answer else None
            state = rollout.stop_reason or rollout.state
            table.add_row(
                str(index),
                rollout.opening,
                state.replace("_", " "),
                str(rollout.num_tokens),
                str(rollout.num_code_runs),
                escape(answer or ""),
            )
        return table
