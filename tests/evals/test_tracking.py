import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aimo2.errors import ConfigError
from aimo2.evals.figures import figures_of
from aimo2.evals.runner import Score
from aimo2.evals.store import RunStore
from aimo2.evals.tracking import Tracker, TrackerName, flat, open_tracker
from tests.evals.exam import run_config
from tests.evals.test_runner import Exam


class Kept:
    """A backend that keeps what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.summary: dict[str, float] | None = None
        self.error = error

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self.error is not None:
            raise self.error
        self.steps.append((step, dict(values)))

    def close(self, summary: Mapping[str, float]) -> None:
        self.summary = dict(summary)


def test_progress_is_logged_now_and_then_and_figures_at_the_end(tmp_path: Path) -> None:
    store = Exam(tmp_path).run()
    now = iter([0.0, 1.0, 2.0, 6.0])
    kept, score = Kept(), Score()
    tracker = Tracker(kept, lambda: next(now))
    for number, sample in enumerate(list(store.samples.values())[:4], 1):
        score.add(sample)
        tracker.progress(number, score)
    assert [step for step, _ in kept.steps] == [1, 4]
    figures = figures_of(store)
    assert figures is not None
    tracker.finish(figures)
    assert kept.summary is not None
    assert kept.summary["pass_1"] == figures.pass_1.value
    assert kept.summary["maj_at_3_low"] == figures.maj_k[3].low
    assert kept.summary == flat(figures)


def test_a_failing_tracker_is_reported_once_and_ends_nothing() -> None:
    tracker = Tracker(kept := Kept(RuntimeError("no network")))
    with pytest.warns(RuntimeWarning, match="tracking has stopped: no network"):
        tracker.progress(1, Score())
    tracker.progress(2, Score())
    tracker.finish(None)
    assert (kept.steps, kept.summary) == ([], None)


def test_a_missing_package_is_named_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ConfigError, match="--track wandb: the package is not installed"):
        open_tracker("wandb", run_config(Exam(tmp_path).data), tmp_path)


@pytest.mark.filterwarnings("default")
def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    exam = Exam(tmp_path)
    store = exam.run()
    tracker = open_tracker("wandb", store.record.config, exam.folder)
    score = Score()
    for sample in store.samples.values():
        score.add(sample)
    tracker.progress(len(store.samples), score)
    run = wandb.run
    assert run is not None
    assert run.config["dataset"] == "sums"
    figures = figures_of(store)
    assert figures is not None
    kept: dict[str, float] = {}
    finish = run.finish
    monkeypatch.setattr(run, "finish", lambda: (kept.update(dict(run.summary)), finish()))
    tracker.finish(figures)
    assert kept["pass_1"] == pytest.approx(figures.pass_1.value)
    assert kept["tokens"] == pytest.approx(figures.tokens.value)
    (folder,) = (exam.folder / "wandb").glob("offline-run-*")
    (stored,) = folder.glob("*.wandb")
    assert stored.stat().st_size > 0


class FakeMlflow:
    """Its calls, with MLflow 3's parameters, over runs that outlive a process."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.open: str | None = None

    def set_experiment(
        self, experiment_name: str | None = None, experiment_id: str | None = None
    ) -> SimpleNamespace:
        return SimpleNamespace(experiment_id=f"id of {experiment_name}")

    def search_runs(
        self,
        experiment_ids: list[str] | None = None,
        filter_string: str = "",
        run_view_type: int = 1,
        max_results: int = 100_000,
        order_by: list[str] | None = None,
        output_format: str = "pandas",
    ) -> list[SimpleNamespace]:
        assert (experiment_ids, output_format) == (["id of aimo2"], "list")
        found = [
            SimpleNamespace(info=SimpleNamespace(run_id=run_id))
            for run_id, run in self.runs.items()
            for name, value in run["tags"].items()
            if filter_string == f"tags.{name} = '{value}'"
        ]
        return found[:max_results]

    def start_run(
        self,
        run_id: str | None = None,
        experiment_id: str | None = None,
        run_name: str | None = None,
        nested: bool = False,
        parent_run_id: str | None = None,
        tags: dict[str, Any] | None = None,
        description: str | None = None,
        log_system_metrics: bool | None = None,
    ) -> None:
        assert self.open is None, "a run is open already"
        self.open = run_id or f"r{len(self.runs)}"
        new: dict[str, Any] = {"name": run_name, "tags": tags or {}, "params": {}, "metrics": []}
        self.runs.setdefault(self.open, new)

    def log_params(
        self, params: dict[str, Any], synchronous: bool | None = None, run_id: str | None = None
    ) -> None:
        assert self.open is not None
        assert len(params) <= 100, "MLflow takes 100 at once"
        there = self.runs[self.open]["params"]
        assert not there.keys() & params.keys(), "a parameter cannot change"
        there |= params

    def log_metrics(
        self,
        metrics: dict[str, float],
        step: int | None = None,
        synchronous: bool | None = None,
        run_id: str | None = None,
        timestamp: int | None = None,
        model_id: str | None = None,
        dataset: Any = None,
    ) -> None:
        assert self.open is not None
        self.runs[self.open]["metrics"].append((step or 0, metrics))

    def end_run(self, status: str = "FINISHED") -> None:
        self.open = None


class FakeTrackio:
    """Its calls, with the parameters of Trackio 0.43 that matter here."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.open: str | None = None

    def init(
        self,
        project: str,
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str = "never",
    ) -> None:
        print("* Trackio project initialized")
        assert name is not None
        self.open = name
        if resume == "never" and name in self.runs:
            self.open = f"{name} again"
        self.runs.setdefault(self.open, {"config": config, "logged": []})

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        assert self.open is not None
        self.runs[self.open]["logged"].append((step, metrics))

    def finish(self) -> None:
        print("* Run finished")
        self.open = None


@pytest.fixture
def stored(tmp_path: Path) -> RunStore:
    return Exam(tmp_path).run()


def track_in_parts(name: TrackerName, store: RunStore, parts: Sequence[int] = (6, 12)) -> None:
    """A run that was interrupted and goes on: a tracker for each part, figures at the end."""
    score = Score()
    for sample in store.samples.values():
        score.add(sample)
    for done in parts:
        tracker = open_tracker(name, store.record.config, store.folder)
        tracker.progress(done, score)
        tracker.finish(figures_of(store) if done == parts[-1] else None)


def test_mlflow_goes_on_with_the_same_run(
    stored: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    package = FakeMlflow()
    package.runs["other"] = {"name": "x", "tags": {"aimo2_run": "x"}, "params": {}, "metrics": []}
    monkeypatch.setattr("importlib.import_module", lambda _: package)
    track_in_parts("mlflow", stored)
    other, run = package.runs.values()
    assert other["metrics"] == []
    assert run["name"] == "run"
    assert run["params"]["dataset"] == "sums"
    assert run["params"]["solve.stop.rule"] == "majority"
    assert [step for step, _ in run["metrics"]] == [6, 12, 0]
    figures = figures_of(stored)
    assert figures is not None
    last = run["metrics"][-1][1]
    assert last["tokens"] == figures.tokens.value
    assert not any(value != value for value in last.values())
    # What was logged on the way does not stand in for a figure of the same name.
    assert not last.keys() & {name for _, values in run["metrics"][:-1] for name in values}


def test_trackio_goes_on_with_the_same_run_and_leaves_standard_output_alone(
    stored: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = FakeTrackio()
    monkeypatch.setattr("importlib.import_module", lambda _: package)
    track_in_parts("trackio", stored)
    ((name, run),) = package.runs.items()
    assert name.startswith("run-")
    assert run["config"]["solve.stop.rule"] == "majority"
    assert [step for step, _ in run["logged"]] == [6, 12, None]
    assert run["logged"][-1][1]["problems"] == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "Trackio project initialized" in err


def test_two_runs_in_folders_of_one_name_are_two_runs_of_trackio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = FakeTrackio()
    monkeypatch.setattr("importlib.import_module", lambda _: package)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        track_in_parts("trackio", Exam(tmp_path / name, 4 if name == "a" else 5).run(), (6,))
    assert len(package.runs) == 2


@pytest.mark.filterwarnings("default")
def test_the_real_mlflow_goes_on_with_the_same_run(
    stored: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    track_in_parts("mlflow", stored)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.params["solve.stop.rule"] == "majority"
    assert run.data.metrics["samples_done"] == 12
    figures = figures_of(stored)
    assert figures is not None
    assert run.data.metrics["tokens"] == pytest.approx(figures.tokens.value)
    _same_parameters(FakeMlflow, mlflow)


@pytest.mark.filterwarnings("default")
def test_the_real_trackio_goes_on_with_the_same_run(
    stored: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    track_in_parts("trackio", stored)
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    (name,) = storage.get_runs("aimo2")
    assert name.startswith("run-")
    assert [row["step"] for row in storage.get_logs("aimo2", name)] == [6, 12, 13]
    _same_parameters(FakeTrackio, trackio)


def _same_parameters(fake: type, package: Any) -> None:
    """That the fake takes nothing that the real package does not take."""
    for name, call in vars(fake).items():
        if not name.startswith("_"):
            ours = list(inspect.signature(call).parameters)[1:]
            theirs = inspect.signature(getattr(package, name)).parameters
            assert set(ours) <= set(theirs), name
