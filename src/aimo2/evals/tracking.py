"""Log a run to an experiment tracker, where its package is installed. Off unless asked for.

Only figures and the configuration leave the process: no problem texts, no traces, no keys. Knows
no terminal. What a tracker throws once it has begun is reported once and never ends a run.
"""

import contextlib
import importlib
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from aimo2.errors import ConfigError, SetupError
from aimo2.evals.runner import Score
from aimo2.evals.store import RunConfig
from aimo2.runrecord import flat_settings

if TYPE_CHECKING:
    from aimo2.evals.estimators import Estimate
    from aimo2.evals.figures import Figures

TrackerName = Literal["wandb", "mlflow", "trackio"]
PROJECT = "aimo2"
_EVERY_SECONDS = 5.0
_MLFLOW_TAG = "aimo2_run"
_MLFLOW_PARAMS = 100
"""Settings that it takes at once."""
_MLFLOW_CHARS = 500
"""Of a setting, the fewest that any of its versions takes."""


class Backend(Protocol):
    """One tracker's run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Values at a step that never goes back."""
        ...

    def close(self, summary: Mapping[str, float]) -> None:
        """The final figures; the run is over."""
        ...


class Tracker:
    """Passes progress on a few times a minute, and the figures at the end."""

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend: Backend | None = backend
        self._clock = clock
        self._last = float("-inf")

    def progress(self, samples: int, score: Score) -> None:
        """Log running accuracy and tokens, where it is time."""
        now = self._clock()
        if self._backend is None or now - self._last < _EVERY_SECONDS:
            return
        self._last = now
        accuracy = score.accuracy()
        # Names that no figure has: a tracker shows the last value of each.
        values = {"samples_done": float(samples), "tokens_so_far": float(score.tokens)}
        if accuracy is not None:
            values["running_pass_1"] = accuracy[0]
        self._safely(lambda backend: backend.log(values, samples))

    def finish(self, figures: "Figures | None") -> None:
        """Log the figures, each with its interval, and end the tracker's run."""
        values = {} if figures is None else flat(figures)
        self._safely(lambda backend: backend.close(values))
        self._backend = None

    def _safely(self, call: Callable[[Backend], None]) -> None:
        """The boundary to foreign code: a tracker's failure must not cost a night's run."""
        if self._backend is None:
            return
        try:
            with _told_aside():
                call(self._backend)
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises
            self._backend = None
            warnings.warn(f"tracking has stopped: {error}", RuntimeWarning, stacklevel=2)


def flat(figures: "Figures") -> dict[str, float]:
    """Each figure under its name, its interval under `_low` and `_high`."""
    from aimo2.evals.estimators import Estimate  # It brings numpy: not for those who only solve.

    found: dict[str, float] = {}
    for name in (each.name for each in fields(figures)):
        value = getattr(figures, name)
        if isinstance(value, Estimate):
            found |= _ends(name, value)
        elif isinstance(value, Mapping):
            for k, estimate in value.items():
                found |= _ends(f"{name.removesuffix('_k')}_at_{k}", estimate)
        elif isinstance(value, int) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def _ends(name: str, estimate: "Estimate") -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def require(name: TrackerName) -> Any:
    """The tracker's package. Raises `ConfigError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        how = f"uv run --extra {name}" if name == "wandb" else f"pip install {name}"
        raise ConfigError(f"--track {name}: the package is not installed; try {how}") from error


def open_tracker(name: TrackerName, run: RunConfig, folder: Path) -> Tracker:
    """A tracker's run for the evaluation in `folder`, whose run.json is there already.

    Raises `ConfigError` where the package is not installed, `SetupError` where it gives no run.
    """
    package = require(name)
    title = re.sub(r"[^\w.-]", "-", folder.name)
    try:
        with _told_aside():
            backend = _BACKENDS[name](package, run.model_dump(mode="json"), title, folder)
    except Exception as error:  # The boundary to foreign code, as in `Tracker._safely`.
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"--track {name}: it gives no run ({line}); log in there, or go on without --track"
        ) from error
    return Tracker(backend)


def _told_aside() -> contextlib.redirect_stdout[TextIO]:
    """What a tracker prints, on standard error: standard output holds the run's figures."""
    return contextlib.redirect_stdout(sys.stderr)


def _run_id(folder: Path) -> str:
    """The same for every part of a run that goes on; run.json is written once."""
    return sha256((folder / "run.json").read_bytes()).hexdigest()[:16]


class _Wandb:
    """Weights & Biases. `WANDB_MODE=offline` keeps everything in the run's folder."""

    def __init__(self, package: Any, config: dict[str, Any], title: str, folder: Path) -> None:
        # Resuming under the same id keeps one curve for a run that was killed.
        self._run = package.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=_run_id(folder),
            resume="allow",
            name=title,
            config=config,
            dir=str(folder),
            settings=package.Settings(console="off", silent=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One step."""
        self._run.log(dict(values), step=step)

    def close(self, summary: Mapping[str, float]) -> None:
        """Summary and end."""
        self._run.summary.update(dict(summary))
        self._run.finish()


class _Mlflow:
    """MLflow, at `MLFLOW_TRACKING_URI` or in its own default place."""

    def __init__(self, package: Any, config: dict[str, Any], title: str, folder: Path) -> None:
        self._package = package
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = package.set_experiment(name).experiment_id
        # It chooses the ids of its runs itself, so a run that goes on is found by a tag.
        run_id = _run_id(folder)
        found = package.search_runs(
            [experiment], f"tags.{_MLFLOW_TAG} = '{run_id}'", max_results=1, output_format="list"
        )
        if found:
            package.start_run(run_id=found[0].info.run_id)
            return
        package.start_run(run_name=title, tags={_MLFLOW_TAG: run_id})
        values = [(key, str(value)[:_MLFLOW_CHARS]) for key, value in flat_settings(config).items()]
        for at in range(0, len(values), _MLFLOW_PARAMS):
            package.log_params(dict(values[at : at + _MLFLOW_PARAMS]))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One step."""
        self._package.log_metrics(dict(values), step=step)

    def close(self, summary: Mapping[str, float]) -> None:
        """Figures as metrics, and end."""
        if known := _known(summary):
            self._package.log_metrics(known)
        self._package.end_run()


class _Trackio:
    """Trackio: wandb's calls, kept locally."""

    def __init__(self, package: Any, config: dict[str, Any], title: str, folder: Path) -> None:
        self._package = package
        # A run that goes on is found by its name, so that must be its own.
        name = f"{title}-{_run_id(folder)[:8]}"
        package.init(project=PROJECT, name=name, config=flat_settings(config), resume="allow")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One step."""
        self._package.log(dict(values), step=step)

    def close(self, summary: Mapping[str, float]) -> None:
        """Figures as the last step, and end."""
        if known := _known(summary):
            self._package.log(known)
        self._package.finish()


def _known(values: Mapping[str, float]) -> dict[str, float]:
    """Without ends of intervals that are not known."""
    return {name: value for name, value in values.items() if not math.isnan(value)}


_BACKENDS: dict[str, Callable[[Any, dict[str, Any], str, Path], Backend]] = {
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}
