"""`aimo2 eval`: a data set in, graded samples and figures out. Flags, one call, the exit code."""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from aimo2.cli import choice, errors, flags, options
from aimo2.cli.data import ColumnsOption, DataDirOption, DatasetArgument
from aimo2.cli.grouped import grouped
from aimo2.cli.models import with_model
from aimo2.cli.progress import EvalProgress, PlainProgress, RichProgress, print_figures
from aimo2.cli.running import on_signals, run_async
from aimo2.config import ServerConfig
from aimo2.errors import ConfigError, InputError
from aimo2.evals.datasets import Dataset, load, parse_columns
from aimo2.evals.local import Job, engine_record, run_locally
from aimo2.evals.store import RunConfig, RunStore, check_folder
from aimo2.evals.tracking import Tracker, open_tracker, require

if TYPE_CHECKING:
    from aimo2.evals.figures import Figures

SERVED_CONCURRENCY = 64
"""Rollouts at once at somebody's server, where nothing else is said."""


class ModeName(StrEnum):
    """What one problem is given."""

    SAMPLES = "samples"
    SOLVE = "solve"


class TrackName(StrEnum):
    """Where the figures may be tracked."""

    WANDB = "wandb"
    MLFLOW = "mlflow"
    TRACKIO = "trackio"


@grouped
def evaluate(
    dataset: DatasetArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run's folder; the same one goes on with a run."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", "-k", help="Attempts a problem; with solve, at most."),
    ] = None,
    mode: Annotated[
        ModeName, typer.Option(help="Independent samples, or the whole solver a problem.")
    ] = ModeName.SAMPLES,
    limit: Annotated[int | None, typer.Option(help="Problems, at most.")] = None,
    draw: Annotated[
        bool, typer.Option("--draw", help="Draw the --limit problems by the seed.")
    ] = False,
    data_dir: DataDirOption = None,
    columns: ColumnsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    track: Annotated[
        TrackName | None, typer.Option(help="Also log the run there, where it is installed.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Spread the problems over a Ray cluster: an address, or auto."),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(help="With --ray: workers; otherwise one a node.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Attempts at once, over all problems.")
    ] = None,
    answer_type: flags.AnswerType = None,
    timeout: flags.Timeout = None,
    *,
    engine_flags: options.EngineFlags,
    second_flags: options.SecondFlags,
    solve_flags: flags.SolveFlags,
) -> None:
    """Evaluate a model on a data set: samples, grades, figures with 95 % intervals.

    Figures go to standard output. Repeating a command with the same --out goes on where it
    stopped. Exit code: 0 done, 2 bad input or set-up, 130 interrupted.
    """
    if samples is not None and samples < 1:
        raise ConfigError(f"--samples {samples}: must be 1 or more")
    if concurrency is not None and concurrency < 1:
        raise ConfigError(f"--concurrency {concurrency}: must be 1 or more")
    if draw and limit is None:
        raise ConfigError("--draw needs --limit: how many problems to draw")
    loaded = _graded(
        load(dataset, data_dir=data_dir, columns=parse_columns(columns or ())), dataset
    )
    engine_config = engine_flags.config(seconds=second_flags, concurrency=concurrency)
    # The data set knows its answers better than a preset does.
    more = {
        "answer_type": answer_type or loaded.answer_type,
        "rollouts": samples,
        "timeout": timeout,
    }
    config = choice.chosen(engine_config, solve_flags, more)
    usual = SERVED_CONCURRENCY if engine_config.server is not None else config.concurrency
    together = concurrency or usual
    config = config.model_copy(update={"concurrency": min(config.concurrency, together)})
    run = RunConfig(
        dataset=loaded.name,
        dataset_sha256=loaded.sha256,
        limit=limit,
        draw=draw,
        mode=mode.value,
        samples=config.num_rollouts,
        model=None,
        others=(_name(engine_config.reasoner), _name(engine_config.verifier)),
        engine=engine_record(engine_config),
        solve=config,
    )
    folder = out or _folder(run)
    check_folder(folder, run)
    console = errors.stderr_console()
    if track is not None:
        require(track.value)
    if mode is ModeName.SAMPLES and (idle := choice.solving_flags(solve_flags)):
        _say_idle(console, idle)
    engine_config = with_model(engine_config, engine_flags.model, console)
    job = Job(
        loaded.subset(limit, config.seed if draw else None),
        run,
        engine_config,
        together,
        solve_flags.preset,
    )
    if engine_config.model_path is not None:
        check_folder(folder, run.model_copy(update={"model": engine_config.model_path.name}))
    session = _Session(job, folder, _progress(console), track)
    exit_code = run_async(lambda: session.run(ray, ray_workers))
    if session.figures is not None:
        if as_json:
            print(json.dumps(session.figures.as_json()))
        else:
            print_figures(session.figures)
    console.print(f"traces and grades are in {folder}", highlight=False, soft_wrap=True)
    raise typer.Exit(exit_code)


def _say_idle(console: Console, flags: Sequence[str]) -> None:
    console.print(
        f"independent samples are neither cut, forked nor voted on: {', '.join(flags)}"
        f" {'has' if len(flags) == 1 else 'have'} no effect on them; add --mode solve",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _name(server: ServerConfig | None) -> str | None:
    """What tells a second model from another; its address may change."""
    return (server.model or server.base_url) if server is not None else None


def _graded(loaded: Dataset, asked: str) -> Dataset:
    if not loaded.num_graded:
        raise InputError(
            f"{asked}: no problem has a gold answer, so that nothing could be graded; name its"
            " column with --columns answer=..., or use `aimo2 solve --file`"
        )
    return loaded


def _folder(run: RunConfig) -> Path:
    """`runs/DATASET-SAMPLES-SEED`: a default that the same command finds again."""
    parts = [run.dataset, f"k{run.samples}", f"seed{run.solve.seed}"]
    if run.limit is not None:
        parts.insert(1, f"n{run.limit}")
    if run.mode == "solve":
        parts.append("solve")
    if not run.solve.rollout.max_code_runs:
        parts.append("no-code")
    return Path("runs") / "-".join(parts)


def _progress(console: Console) -> EvalProgress:
    return RichProgress(console) if console.is_terminal else PlainProgress(console)


@dataclass(slots=True)
class _Session:
    """One run of the command."""

    job: Job
    folder: Path
    progress: EvalProgress
    track: TrackName | None
    store: RunStore | None = None
    tracker: Tracker | None = None
    figures: "Figures | None" = None
    interrupted: bool = False
    stop: Callable[[], None] | None = None
    main: "asyncio.Task[Any] | None" = None

    async def run(self, ray: str | None, ray_workers: int | None) -> int:
        """Run the rest of the evaluation; returns the exit code."""
        self.main = asyncio.current_task()
        on_signals(self.interrupt)
        with self.progress:
            try:
                if ray is None:
                    await run_locally(self.job, self.folder, self.progress, self.started)
                else:
                    from aimo2.evals.cluster import run_on_ray

                    await run_on_ray(
                        self.job, self.folder, self.progress, self.started, ray, ray_workers
                    )
            except asyncio.CancelledError:
                if not self.interrupted:
                    raise
            finally:
                self._finish()
        return errors.EXIT_INTERRUPTED if self.interrupted else errors.EXIT_OK

    def started(self, store: RunStore, stop: Callable[[], None]) -> None:
        """The store is open and rollouts are about to start."""
        self.store, self.stop = store, stop
        for note in store.notes:
            self.progress.notice(note)
        if self.track is not None:
            # Not before: some keep files in the run's folder, which must be the run's own by then.
            self.tracker = open_tracker(self.track.value, store.record.config, store.folder)
        total = len(self.job.dataset.items) * self.job.run.samples
        self.progress.begin(self.job, total, store, self.tracker)

    def _finish(self) -> None:
        if self.store is None:
            return
        from aimo2.evals.figures import figures_of  # It brings numpy: not for those who solve.

        self.store.write_samples()
        self.figures = figures_of(self.store)
        if self.tracker is not None:
            self.tracker.finish(self.figures)
        if self.interrupted:
            done = len(self.store.outcomes)
            self.progress.notice(
                f"interrupted; {len(self.store.samples)} samples are kept, {done} of"
                f" {len(self.store.items)} problems done; repeat the command to go on"
            )

    def interrupt(self) -> None:
        """Ctrl-C: the first keeps what has ended, the second ends everything."""
        if self.interrupted:
            os._exit(errors.EXIT_INTERRUPTED)
        self.interrupted = True
        if self.stop is not None:
            self.stop()
        elif self.main is not None:
            self.main.cancel()
