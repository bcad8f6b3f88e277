"""Show an evaluation on standard error, and its figures on standard output. Knows no models."""

import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from aimo2.cli.display import spoken
from aimo2.evals.local import Job
from aimo2.evals.runner import Score, Watcher
from aimo2.evals.samples import Sample
from aimo2.evals.store import RunStore
from aimo2.evals.tracking import Tracker
from aimo2.types import Outcome

if TYPE_CHECKING:  # They bring numpy: not for those who only solve.
    from aimo2.evals.estimators import Estimate
    from aimo2.evals.figures import Figures

LINE_SECONDS = 30.0
"""In a log: a line so often, and for each tenth of the run."""


class EvalProgress(Watcher, Protocol):
    """A watcher that is a context manager around the whole run."""

    def __enter__(self) -> "EvalProgress": ...

    def __exit__(self, *exc: object) -> None: ...

    def begin(self, job: Job, total: int, store: RunStore, tracker: Tracker | None) -> None:
        """The run starts, or goes on with what the store holds; `total`: samples in all."""
        ...


class _Counts:
    """What both displays keep."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self.score = Score()
        self.total = self.before = self.samples = self.problems = self.problems_total = 0
        self.tokens_before = self.solved_tokens = 0
        self.solving = False
        self.right = self.graded = 0
        self.tracker: Tracker | None = None

    def begin(self, job: Job, total: int, store: RunStore, tracker: Tracker | None) -> None:
        self.solving = job.run.mode == "solve"
        self.problems_total = len(job.dataset.items)
        self.total = self.problems_total if self.solving else total
        self.tracker = tracker
        for sample in store.samples.values():
            self._count(sample)
        for outcome in store.outcomes.values():
            self._end(outcome)
        self.before = self.done
        self.tokens_before = self.tokens
        self._began = self._clock()

    @property
    def done(self) -> int:
        return self.problems if self.solving else self.samples

    @property
    def tokens(self) -> int:
        """Sampled so far; a question's include its verifier's, so they count when it is done."""
        return self.solved_tokens if self.solving else self.score.tokens

    def _count(self, sample: Sample) -> None:
        self.samples += 1
        self.score.add(sample)

    def _end(self, outcome: Outcome) -> None:
        self.problems += 1
        self.solved_tokens += outcome.num_sampled_tokens
        if outcome.correct is not None:
            self.graded += 1
            self.right += outcome.correct

    def sample_done(self, sample: Sample) -> None:
        self._count(sample)
        if self.tracker is not None:
            self.tracker.progress(self.samples, self.score)

    def problem_done(self, outcome: Outcome) -> None:
        self._end(outcome)

    def line(self) -> str:
        """Accuracy, tokens, their rate and what is left."""
        seconds = self._clock() - self._began
        parts = []
        if (accuracy := self.score.accuracy()) is not None and not self.solving:
            parts.append(f"pass@1 {percent(*accuracy)}")
        if self.graded:
            parts.append(f"answers {self.right}/{self.graded} right")
        rate = (self.tokens - self.tokens_before) / seconds if seconds > 1 else 0.0
        parts.append(f"{self.tokens:,} tokens ({rate:,.0f}/s)")
        fresh = self.done - self.before
        if fresh and self.done < self.total:
            parts.append(f"about {spoken(seconds / fresh * (self.total - self.done))} left")
        return ", ".join(parts)


def percent(value: float, spread: float = math.nan) -> str:
    """`43.2 %`, or `43.2 ± 3.1 %`."""
    if math.isnan(spread):
        return f"{100 * value:.1f} %"
    return f"{100 * value:.1f} ± {100 * spread:.1f} %"


class PlainProgress(_Counts):
    """A line now and then."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console
        self._last = (clock(), 0)

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def notice(self, text: str) -> None:
        """Print the line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, job: Job, total: int, store: RunStore, tracker: Tracker | None) -> None:
        """Say what is there already."""
        super().begin(job, total, store, tracker)
        what = "problems" if self.solving else "samples"
        self.notice(f"{self.done} of {self.total} {what} are done")

    def sample_done(self, sample: Sample) -> None:
        """Count, and print a line where it is time."""
        super().sample_done(sample)
        if not self.solving:
            self._print_sometimes()

    def problem_done(self, outcome: Outcome) -> None:
        """Count, and print a line where it is time."""
        super().problem_done(outcome)
        if self.solving:
            self._print_sometimes()

    def _print_sometimes(self) -> None:
        now, tenth = self._clock(), 10 * self.done // max(1, self.total)
        if tenth > self._last[1] or now - self._last[0] > LINE_SECONDS:
            self._last = (now, tenth)
            self.notice(f"{self.done}/{self.total}: {self.line()}")


class RichProgress(_Counts):
    """A bar that is drawn a few times a second."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[line]}", markup=False),
            console=console,
            refresh_per_second=4,
            transient=True,
            get_time=time.monotonic,
        )

    def __enter__(self) -> "RichProgress":
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def notice(self, text: str) -> None:
        """Print the line above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def begin(self, job: Job, total: int, store: RunStore, tracker: Tracker | None) -> None:
        """Show the bar."""
        super().begin(job, total, store, tracker)
        name = job.dataset.name
        self._task = self._bar.add_task(name, total=self.total, line="")
        self._draw()

    def sample_done(self, sample: Sample) -> None:
        """Move the bar."""
        super().sample_done(sample)
        self._draw()

    def problem_done(self, outcome: Outcome) -> None:
        """Move the bar."""
        super().problem_done(outcome)
        self._draw()

    def _draw(self) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=self.done, line=self.line())


def print_figures(figures: "Figures") -> None:
    """A table on standard output, and the caveats below it."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table("", "value", "95 % interval", box=None, pad_edge=False)
    for name, estimate, style in _rows(figures):
        table.add_row(name, *cells(estimate, style))
    what = "samples" if figures.pass_k else "rollouts at most"
    console.print(
        f"{figures.dataset}: {figures.problems} problems, {figures.samples} {what} each",
        highlight=False,
    )
    console.print(table)
    for line in figures.caveats:
        console.print(f"- {line}", highlight=False, markup=False)


def _rows(figures: "Figures") -> "list[tuple[str, Estimate, str]]":
    rows: list[tuple[str, Estimate, str]] = []
    if figures.mode == "solve":
        rows.append(("answers that are right", figures.answered, "percent"))
    if figures.pass_k:
        rows.append(("pass@1 (mean over samples)", figures.pass_1, "percent"))
        ks = [k for k in figures.maj_k if k & (k - 1) == 0 or k == figures.samples]
        how = "exact" if figures.exact else "resampled"
        rows += [(f"pass@{k}", figures.pass_k[k], "percent") for k in ks if k > 1]
        rows += [(f"maj@{k} ({how})", figures.maj_k[k], "percent") for k in ks if k > 1]
    unit = "sample" if figures.mode == "samples" else "problem"
    rows += [
        (f"tokens a {unit}", figures.tokens, "count"),
        (f"seconds a {unit}", figures.seconds, "decimal"),
        ("samples without an answer", figures.blank, "percent"),
        ("samples that ran code", figures.code_use, "percent"),
        ("cells a sample", figures.code_runs, "decimal"),
    ]
    if figures.failed is not None:
        rows.append(("cells that failed", figures.failed, "percent"))
    if figures.repaired is not None:
        rows.append(("failed cells repaired by the next", figures.repaired, "percent"))
    return rows


def cells(estimate: "Estimate", style: str) -> tuple[str, str]:
    """Value and interval as text; `style`: one of those below."""
    styles: dict[str, Callable[[float], str]] = {
        "percent": lambda value: f"{100 * value:.1f} %",
        "count": lambda value: f"{value:,.0f}",
        "decimal": lambda value: f"{value:.2f}",
        "points": lambda value: f"{100 * value:+.1f}",
        "signed": lambda value: f"{value:+,.0f}",
        "signed decimal": lambda value: f"{value:+,.2f}",
    }
    shown = styles[style]
    if math.isnan(estimate.low):
        return shown(estimate.value), ""
    return shown(estimate.value), f"{shown(estimate.low)} to {shown(estimate.high)}"
