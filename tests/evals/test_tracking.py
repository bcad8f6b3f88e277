from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aimo2.errors import ConfigError
from aimo2.evals.figures import figures_of
from aimo2.evals.runner import Score
from aimo2.evals.tracking import Tracker, flat, open_tracker
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
