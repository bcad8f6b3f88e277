"""What a benchmark run came to: stored as JSON, shown as a table, drawn as a plot, compared.

Knows no servers and no clock.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.table import Table

from aimo2.benchmark.figures import Figures, Spread
from aimo2.config import Routing
from aimo2.errors import InputError


class Setup(BaseModel):
    """On what and how it was measured; what must be equal for a fair comparison is here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    engine: str
    """`vllm`, `llama.cpp`, or `server` for one that somebody else runs."""
    replicas: int = 1
    tensor_parallel: int = 1
    presets: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    cpu: str = ""
    cores: int = 0
    seed: int = 0
    temperature: float = 0.7
    top_p: float = 1.0
    logprobs: bool = False
    oversubscribed: bool = False
    """Whether other rollouts streamed while some ran code; see `runner.Load`."""
    routing: Routing = "prefix"
    prompts: str = "drawn"
    aimo2: str = ""


class Report(BaseModel):
    """One run of the benchmark. `begun`: seconds since the epoch. `complete`: whether everything
    that was asked for is in it, without failed requests.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    begun: float
    setup: Setup
    results: tuple[Figures, ...]
    complete: bool = True


def load_report(path: Path) -> Report:
    """A stored report. Raises `InputError` for anything else."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        what = error.errors()[0]
        place = ".".join(map(str, what["loc"])) or "the file"
        raise InputError(
            f"{path} is no report of `aimo2 benchmark --json` ({place}: {what['msg'].lower()})"
        ) from error


def table(results: Sequence[Figures]) -> Table:
    """One line a measurement."""
    shown = Table(box=None, pad_edge=False)
    for title in ("workload", "streams"):
        shown.add_column(title)
    for title in (
        *("tokens/s", "useful", "a stream", "first token ms", "between ms"),
        *("prefix hits", "GPU GiB", "client CPU", "calls", "failed"),
    ):
        shown.add_column(title, justify="right")
    shown.add_column("limited by")
    for figures in results:
        shown.add_row(*_cells(figures))
    return shown


def _cells(figures: Figures) -> Sequence[str]:
    machine = figures.machine
    memory = machine.gpu_memory_mib
    return (
        figures.workload,
        str(figures.concurrent),
        f"{figures.tokens_per_second:,.0f} ± {_rounded(figures.standard_error)}",
        "–" if figures.useful_share >= 1 else f"{figures.useful_share:.1%}",
        "–" if figures.per_stream is None else f"{figures.per_stream:,.1f}",
        _milliseconds(figures.first_token),
        _milliseconds(figures.between_tokens),
        _percent(machine.prefix_hits),
        "–" if memory is None else f"{memory / 1024:.1f}",
        _percent(machine.client_cpu),
        str(figures.num_calls),
        str(figures.num_failed),
        f"{figures.limit}: {figures.why}" if figures.why else figures.limit,
    )


def _rounded(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _milliseconds(spread: Spread | None) -> str:
    """Median / 99th percentile."""
    if spread is None:
        return "–"
    return f"{spread.median * 1000:,.1f} / {spread.p99 * 1000:,.1f}"


def plain_lines(results: Sequence[Figures]) -> list[str]:
    """The table without a terminal: tab-separated, one line a measurement, titles first."""
    titles = (
        *("workload", "streams", "tokens/s", "useful", "a stream", "first token ms"),
        *("between ms", "prefix hits", "GPU GiB", "client CPU", "calls", "failed", "limited by"),
    )
    return ["\t".join(titles), *("\t".join(_cells(figures)) for figures in results)]


def plot(report: Report, path: Path) -> None:
    """Tokens a second against streams, and time between tokens, as PNG, SVG or PDF.

    Raises `InputError` where the file cannot be written or has another suffix.
    """
    import matplotlib  # half a second, and few runs want a plot

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (rate, wait) = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for workload in dict.fromkeys(figures.workload for figures in report.results):
        chosen = sorted(
            (each for each in report.results if each.workload == workload),
            key=lambda each: each.concurrent,
        )
        streams = [each.concurrent for each in chosen]
        errors = [0 if math.isnan(e.standard_error) else 1.96 * e.standard_error for e in chosen]
        rate.errorbar(
            streams,
            [each.useful_per_second for each in chosen],
            yerr=errors,
            marker="o",
            capsize=3,
            label=workload,
        )
        between = [(e.concurrent, e.between_tokens) for e in chosen if e.between_tokens]
        points = [(number, spread.median * 1000) for number, spread in between]
        wait.plot(*zip(*points, strict=True), marker="o", label=workload) if points else None
    rate.set(xlabel="streams", ylabel="useful tokens a second", title=report.setup.model)
    wait.set(xlabel="streams", ylabel="median ms between tokens", title=report.setup.engine)
    for axes in (rate, wait):
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    rate.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--plot {path}: {error}; give a .png, .svg or .pdf file") from error
    finally:
        pyplot.close(figure)


def compare(before: Report, after: Report) -> list[str]:
    """One line for each measurement that both have: useful tokens a second, and their ratio.

    The interval of 95 % comes from the slices of both windows (the delta method on the ratio): it
    covers the noise within the two runs, not what differs from one start of a server to the next.
    """
    lines = [f"{name}: {a} against {b}" for name, a, b in differences(before.setup, after.setup)]
    for name, report in (("first", before), ("second", after)):
        if not report.complete:
            lines.append(f"the {name} was broken off: measurements are missing")
    pairs = {(e.workload, e.concurrent, e.max_tokens): e for e in before.results}
    for each in after.results:
        old = pairs.pop((each.workload, each.concurrent, each.max_tokens), None)
        if old is None:
            lines.append(f"{each.workload} x{each.concurrent}: only in the second")
            continue
        lines.append(_comparison(old, each))
    lines += [f"{old.workload} x{old.concurrent}: only in the first" for old in pairs.values()]
    return lines


def efficiencies(report: Report, baseline: Report | None = None) -> list[str]:
    """Engine efficiency: useful tokens a second of each workload over raw `decode`.

    Both at the same number of streams, with the interval of `compare`; nothing where `decode` was
    not measured. `baseline`: whose `decode` is taken, such as one without log-probabilities; the
    report's own is then one more workload.
    """
    reference = report if baseline is None else baseline
    raw = {each.concurrent: each for each in reference.results if each.workload == "decode"}
    lines = []
    if baseline is not None:
        unlike = differences(baseline.setup, report.setup)
        lines = [f"baseline with {name} {a} against {b}" for name, a, b in unlike]
    for each in report.results:
        if each.workload == "decode" and baseline is None:
            continue
        if each.concurrent in raw:
            lines.append(f"efficiency of {_comparison(raw[each.concurrent], each)}")
        elif baseline is not None:
            lines.append(f"the baseline has no decode x{each.concurrent} for {each.workload}")
    return lines


def differences(before: Setup, after: Setup) -> list[tuple[str, object, object]]:
    """(field, its value before, its value after) of what is not the same."""
    one, two = before.model_dump(), after.model_dump()
    return [(name, one[name], two[name]) for name in one if one[name] != two[name]]


def _comparison(old: Figures, new: Figures) -> str:
    line = (
        f"{new.workload} x{new.concurrent}: {old.useful_per_second:,.0f} -> "
        f"{new.useful_per_second:,.0f} tokens/s"
    )
    if not old.useful_per_second or not new.useful_per_second:
        return line
    ratio = new.useful_per_second / old.useful_per_second
    relative = math.hypot(
        old.standard_error / old.tokens_per_second, new.standard_error / new.tokens_per_second
    )
    if math.isnan(relative):
        return f"{line}, ratio {ratio:.3f}"
    low, high = ratio * math.exp(-1.96 * relative), ratio * math.exp(1.96 * relative)
    verdict = "no difference seen" if low <= 1 <= high else "faster" if ratio > 1 else "slower"
    return f"{line}, ratio {ratio:.3f} (95 %: {low:.3f} to {high:.3f}): {verdict}"
