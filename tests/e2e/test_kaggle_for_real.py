"""The gateway and the server with the real engine behind it, as processes of their own."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from aimo2.cli.models import ensure_model

pytestmark = pytest.mark.e2e


def test_a_model_answers_a_gateway_within_every_limit(tmp_path: Path) -> None:
    tiny = str(ensure_model("smollm2-135m", Console(stderr=True)))
    problems = tmp_path / "problems.csv"
    problems.write_text("id,problem,answer\na,What is 2 + 3?,5\nb,What is 4 + 5?,9\n")
    rules = ("--competition", "custom", "--limit", "90s", "--per-question", "40s")
    size = ("--problems", "2", "--rollouts", "1", "--max-tokens", "40", "--port", "0")
    command = [sys.executable, "-m", "aimo2", "kaggle"]
    server = subprocess.Popen(
        [*command, "serve", *rules, *size, "--model", tiny, "--out", str(tmp_path / "exam")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip().rpartition(":")[2]
        done = subprocess.run(
            [*command, "gateway", str(problems), "--port", port, "--out", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=60)
    finally:
        server.kill()
        server.communicate()
    assert done.returncode == 0, done.stderr + err
    assert server.returncode == 0, err
    with (tmp_path / "out" / "submission.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a", "b"]
    assert all(row["answer"].lstrip("-").isdigit() for row in rows)
    outcomes = (tmp_path / "exam" / "outcomes.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["num_sampled_tokens"] for line in outcomes) > 0
    assert "Traceback" not in err
