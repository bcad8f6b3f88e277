"""What cutting needs from a real engine: candidates of every token, and side requests."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from aimo2.cli.models import ensure_model
from aimo2.types import Trace

pytestmark = pytest.mark.e2e


def test_a_real_engine_gives_candidates_and_answers_probes(tmp_path: Path) -> None:
    """The model of 135 million parameters agrees with itself about nothing in particular."""
    model = str(ensure_model("smollm2-135m", Console(stderr=True)))
    traces = tmp_path / "t.jsonl"
    flags = (
        f"--model {model} --traces {traces} -n 2 --concurrency 2 --openings plain,late"
        " --no-salvage --max-tokens 80 --stop never"
        " --seed 1 --cut-unsure --probe low --set cut.window=32"
    )
    done = subprocess.run(
        [sys.executable, "-m", "aimo2", "solve", "Count the primes below 50.", *flags.split()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    read = [Trace.model_validate_json(line) for line in traces.read_text().splitlines()]
    assert [trace.opening for trace in read] == ["plain", "late"], done.stderr
    for trace in read:
        assert trace.stats is not None
        # The end-of-text token may be counted and not shown.
        assert trace.num_tokens - trace.stats.num_tokens in range(4)
        assert trace.stats.confidence is not None
        assert trace.stats.min_confidence is not None
        assert trace.stats.entropy is not None
        assert 0 < trace.stats.min_confidence <= trace.stats.confidence
        assert 0 <= trace.stats.entropy < 1.7
