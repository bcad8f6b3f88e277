"""The `aimo2` command: flags to configuration to one call. The only place that prints or exits."""

import sys

import typer

import aimo2
from aimo2.cli import errors
from aimo2.cli.benchmark import app as benchmark_app
from aimo2.cli.calibrate import calibrate as calibrate_command
from aimo2.cli.compare import compare as compare_command
from aimo2.cli.compare import export as export_command
from aimo2.cli.data import app as data_app
from aimo2.cli.doctor import doctor as doctor_command
from aimo2.cli.evaluate import evaluate as eval_command
from aimo2.cli.exam import app as exam_app
from aimo2.cli.kaggle import app as kaggle_app
from aimo2.cli.models import app as models_app
from aimo2.cli.openings import openings as openings_command
from aimo2.cli.presets import presets as presets_command
from aimo2.cli.replay import replay as replay_command
from aimo2.cli.report import report as report_command
from aimo2.cli.sandbox import app as sandbox_app
from aimo2.cli.serve import serve as serve_command
from aimo2.cli.show import ShowCommand
from aimo2.cli.solve import solve as solve_command
from aimo2.cli.trace import app as trace_app
from aimo2.errors import Aimo2Error

app = typer.Typer(
    name="aimo2",
    help="Solve olympiad mathematics with open language models, under an exam clock.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("solve", cls=ShowCommand)(solve_command)
app.command("presets")(presets_command)
app.command("openings")(openings_command)
app.command("serve")(serve_command)
app.command("eval")(eval_command)
app.command("compare")(compare_command)
app.command("export")(export_command)
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(exam_app, name="exam")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")
app.add_typer(kaggle_app, name="kaggle")
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(trace_app, name="trace")
app.command("report")(report_command)
app.command("doctor")(doctor_command)
app.command("replay")(replay_command)
app.command("calibrate")(calibrate_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"aimo2 {aimo2.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Hold the options of `aimo2` itself."""


def main() -> None:
    """Run the command line; ends the process with the documented exit code."""
    try:
        app(prog_name="aimo2")
    except Aimo2Error as error:
        sys.exit(errors.fail(str(error)))
    except KeyboardInterrupt:
        print("aimo2: interrupted", file=sys.stderr)
        sys.exit(errors.EXIT_INTERRUPTED)
    except BrokenPipeError:
        errors.silence_stdout()
        sys.exit(errors.EXIT_OK)
