"""What a replay came to: a table, plain lines, JSON, a plot. Knows no clock."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from aimo2.errors import InputError
from aimo2.evals.estimators import Estimate
from aimo2.evals.replay_measure import Replayed, Summary, pareto

TITLES = ("policy", "accuracy", "gain", "tokens", "of baseline", "seconds", "votes", "rollouts")


def cells(summary: Summary) -> tuple[str, ...]:
    """One line of the table; accuracy and gain in per cent and points, with 95 % intervals."""
    return (
        summary.name,
        with_interval(summary.accuracy, 100, ".1f"),
        with_interval(summary.gain, 100, "+.1f"),
        f"{summary.tokens.value:,.0f}",
        with_interval(summary.token_ratio, 100, ".0f"),
        f"{summary.seconds.value:,.1f}",
        f"{summary.votes:.1f}",
        f"{summary.rollouts:.1f}",
    )


def with_interval(estimate: Estimate, scale: float, form: str) -> str:
    """Without an interval where none is known, which is so for one problem."""
    value, low, high = (scale * each for each in (estimate.value, estimate.low, estimate.high))
    if math.isnan(low):
        return "–" if math.isnan(value) else f"{value:{form}}"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def table(summaries: Sequence[Summary]) -> Table:
    """One line a policy."""
    shown = Table(box=None, pad_edge=False)
    for title in TITLES:
        shown.add_column(title, justify="left" if title == "policy" else "right", overflow="fold")
    for summary in summaries:
        shown.add_row(*cells(summary))
    return shown


def plain_lines(summaries: Sequence[Summary]) -> list[str]:
    """The table without a terminal: tab-separated, titles first."""
    return ["\t".join(TITLES), *("\t".join(cells(each)) for each in summaries)]


def as_json(summary: Summary, replayed: Replayed) -> dict[str, Any]:
    """Figures and the whole configuration of a policy."""
    policy = replayed.candidate.policies[0]
    return {
        **asdict(summary),
        "num_rollouts": policy.num_rollouts,
        "concurrency": policy.concurrency,
        "stop": policy.stop.model_dump(),
        "weigh": policy.weigh.model_dump(),
        "folds": len(replayed.candidate.policies),
    }


def plot(results: Sequence[Replayed], named: Sequence[Summary], path: Path) -> None:
    """Accuracy against tokens a question, as PNG, SVG or PDF: every policy, the front of those that
    no other beats, and `named` ones with their intervals.

    Raises `InputError` where the file cannot be written or has another suffix.
    """
    import matplotlib  # half a second, and few runs want a plot

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), constrained_layout=True)
    axes.scatter(
        [each.tokens for each in results],
        [100 * each.accuracy for each in results],
        s=12,
        color="grey",
        alpha=0.6,
    )
    front = pareto(results)
    axes.plot(
        [each.tokens for each in front],
        [100 * each.accuracy for each in front],
        marker="o",
        markersize=4,
        label="not beaten in both",
    )
    for point in front:
        place = (point.tokens, 100 * point.accuracy)
        axes.annotate(point.name, place, (4, -8), textcoords="offset points", fontsize=6)
    for each in named:
        value = each.accuracy
        axes.errorbar(
            each.tokens.value,
            100 * value.value,
            yerr=[[100 * (value.value - value.low)], [100 * (value.high - value.value)]],
            marker="s",
            capsize=3,
            label=each.name,
        )
    axes.set(
        xlabel="sampled tokens a question",
        ylabel="right, %",
        xlim=(0, 1.05 * max(each.tokens for each in results) + 1),
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--plot {path}: {error}; give a .png, .svg or .pdf file") from error
    finally:
        pyplot.close(figure)
