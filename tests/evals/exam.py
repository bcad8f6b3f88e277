"""A small exam for the tests of evaluation: sums, a run's configuration, a watcher that counts."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aimo2.config import SolveConfig
from aimo2.evals.datasets import Dataset, load
from aimo2.evals.samples import Sample
from aimo2.evals.store import RunConfig, RunRecord, RunStore, new_record
from aimo2.types import Outcome
from tests.scripted import config


def write_sums(path: Path, number: int) -> Path:
    """Problems whose answers the exam server knows, with two levels."""
    rows = [
        {
            "id": f"s{n}",
            "problem": f"What is {7 * n} plus {n + 11}?",
            "answer": str(8 * n + 11),
            "level": n % 2,
        }
        for n in range(number)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(folder: Path, number: int = 4) -> Dataset:
    """The same, loaded."""
    return load(str(write_sums(folder / "sums.jsonl", number)))


def run_config(dataset: Dataset, samples: int = 3, **rest: Any) -> RunConfig:
    """Independent samples of plain rollouts."""
    mode = rest.pop("mode", "samples")
    settings: SolveConfig = rest.pop("solve", None) or config(num_rollouts=samples, **rest)
    return RunConfig(
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        limit=None,
        mode=mode,
        samples=samples,
        model="fake",
        solve=settings,
    )


def record(dataset: Dataset, samples: int = 3, **rest: Any) -> RunRecord:
    """The record of a run that begins now."""
    return new_record(run_config(dataset, samples, **rest), dataset, "a test")


def opened(folder: Path, dataset: Dataset, samples: int = 3, **rest: Any) -> RunStore:
    """A run's folder, new or to go on with."""
    return RunStore.open(folder, record(dataset, samples, **rest), dataset.items)


@dataclass
class Heard:
    """A watcher that keeps what it hears."""

    samples: list[Sample] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def sample_done(self, sample: Sample) -> None:
        self.samples.append(sample)

    def problem_done(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def notice(self, text: str) -> None:
        self.notices.append(text)
