"""A short exam as a user runs it: a real process, the real engine, killed and resumed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from aimo2.cli.models import ensure_model
from aimo2.exam import exam_history

pytestmark = pytest.mark.e2e


def test_a_killed_exam_on_the_embedded_engine_is_resumed_and_ends_in_time(tmp_path: Path) -> None:
    tiny = str(ensure_model("smollm2-135m", Console(stderr=True)))
    source, out = tmp_path / "p.csv", tmp_path / "exam"
    source.write_text("id,problem,answer\na,What is 1+1?,2\nb,What is 2+2?,4\nc,What is 3+3?,6\n")
    command = [sys.executable, "-m", "aimo2", "exam"]
    flags = ["--model", tiny, "--limit", "3m", "-n", "2", "--max-tokens", "40", "--out", str(out)]
    process = subprocess.Popen(
        [*command, "run", str(source), *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("a\t")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    began = time.time()
    resumed = subprocess.run(
        [*command, "resume", str(out)], capture_output=True, text=True, timeout=200, check=False
    )
    assert resumed.returncode in (0, 1), resumed.stderr
    assert "a\t" not in resumed.stdout
    assert "c\t" in resumed.stdout
    history = exam_history(out)
    assert list(history.answers) == ["a", "b", "c"]
    assert f"a\t{history.answers['a'].answer}\n" == first
    assert history.ended
    assert history.last_elapsed <= 180
    assert time.time() - began < 180
    assert (out / "submission.parquet").exists()
    assert "of 3" in (out / "report.html").read_text()
