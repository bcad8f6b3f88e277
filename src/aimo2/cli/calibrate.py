"""`aimo2 calibrate`: fit the probability that a trace is right to one's own traces."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aimo2.cli import errors
from aimo2.cli.recordings import GoldOption, TracesArgument
from aimo2.cli.replay import check_writable, load_recorded
from aimo2.config import Calibration
from aimo2.errors import ConfigError
from aimo2.evals.calibration import (
    FOLDS,
    RIDGE,
    Reliability,
    as_config,
    cross_fit,
    fit,
    plot,
    reliability,
)
from aimo2.evals.figures import plain
from aimo2.evals.replay_report import with_interval
from aimo2.journal import RecordFile


def calibrate(
    traces: TracesArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the fitted model as TOML, for --config of other commands."
        ),
    ] = None,
    gold: GoldOption = None,
    folds: Annotated[
        int, typer.Option(help="Parts of the problems, each predicted from the others.")
    ] = FOLDS,
    ridge: Annotated[
        float, typer.Option(help="Penalty on the coefficients of standardised features.")
    ] = RIDGE,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Reliability diagram: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Fit how probable it is that a trace is right, and say how good that is on unseen problems."""
    if folds < 2:
        raise ConfigError(f"--folds {folds}: must be 2 or more")
    if not ridge > 0:
        raise ConfigError(f"--ridge {ridge}: must be above 0")
    check_writable("--plot", plot_file, (".png", ".svg", ".pdf"))
    check_writable("--output", output)
    recorded = load_recorded(traces, gold)
    console = errors.stderr_console()
    for line in recorded.notes:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    model = fit(recorded.problems, ridge)
    found = reliability(recorded.problems, cross_fit(recorded.problems, folds, ridge))
    if plot_file is not None:
        plot(found, plot_file)
    if output is not None:
        with RecordFile(output) as file:
            names = ", ".join(path.name for path in traces)
            file.append(as_config(model, f"{lines(model, found)[0][:-1]}: {names}"))
    if as_json:
        report = {"calibration": model.model_dump(), "held_out": asdict(found)}
        print(json.dumps(plain(report), indent=1))
        return
    for line in lines(model, found):
        print(line)


def lines(model: Calibration, found: Reliability) -> list[str]:
    """The report as plain lines."""
    listed = sorted(model.coefficients.items(), key=lambda item: -abs(item[1]))
    rows: list[Any] = [
        f"{found.num_traces} traces of {found.num_problems} problems; predicted for problems that"
        " the fit had not seen:",
        f"Brier score\t{found.brier:.4f}\t(always the mean: {found.brier_constant:.4f})",
        f"log loss\t{found.log_loss:.4f}",
        f"calibration error\t{found.error:.4f}",
        f"right above wrong\t{found.ranking:.3f}",
        "predicted\tmean\tright\ttraces",
        *(
            f"{b.low:.1f} to {b.high:.1f}\t{b.predicted:.3f}"
            f"\t{with_interval(b.right, 1, '.3f')}\t{b.num_traces}"
            for b in found.bins
        ),
        "coefficients, a standard deviation each:",
        *(f"{name}\t{value:+.2f}" for name, value in listed),
        f"shift\t{model.shift:+.2f}",
    ]
    return rows
