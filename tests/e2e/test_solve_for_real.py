"""The command as a user runs it: a real process, the real engine, real models."""

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from aimo2.cli.models import ensure_model
from aimo2.config import LocalServerConfig
from aimo2.serving.llama_cpp import LlamaServer
from aimo2.types import Trace

pytestmark = pytest.mark.e2e

DIVISORS = "How many positive divisors does 20! have?"
SHORT = ("-n", "2", "--max-tokens", "40", "--stop", "never", "--seed", "1")


@pytest.fixture(scope="module")
def tiny() -> str:
    """A model of 135 million parameters: it cannot solve anything, but it streams."""
    return str(ensure_model("smollm2-135m", Console(stderr=True)))


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "aimo2", *args]


def aimo2(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args),
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
        check=False,
    )


def started(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def engine_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The llama.cpp child of a running `aimo2`."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if any("llama_child" in part for part in child.cmdline()):
            return child
    raise AssertionError("no engine runs")


def wait_for_line(process: subprocess.Popen[str], word: str) -> str:
    """Read the process's standard error up to a line with `word`; returns what was read."""
    assert process.stderr is not None
    read = ""
    for line in process.stderr:
        read += line
        if word in line:
            return read
    raise AssertionError(f"{word!r} did not come in: {read}")


def many(tmp_path: Path, number: int) -> str:
    path = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "problem": f"What is {i} + {i}?"} for i in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_default_model_solves_the_readme_s_problem_with_code() -> None:
    done = aimo2("solve", DIVISORS)
    assert (done.stdout, done.returncode) == ("41040\n", 0), done.stderr
    assert "code runs" in done.stderr


def test_a_file_gives_answers_objects_and_traces_that_agree(tiny: str, tmp_path: Path) -> None:
    out, traces = tmp_path / "o.csv", tmp_path / "t.jsonl"
    source = many(tmp_path, 2)
    files = ("--json", "-o", str(out), "--traces", str(traces))
    done = aimo2("solve", "--file", source, "--model", tiny, "--logprobs", *SHORT, *files)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["p0", "p1"], done.stderr
    assert done.returncode == (0 if all(row["answer"] is not None for row in rows) else 1)
    with out.open(newline="") as file:
        assert [line["answer"] for line in csv.DictReader(file)] == [
            row["answer"] or "" for row in rows
        ]
    read = [Trace.model_validate_json(line) for line in traces.read_text().splitlines()]
    for row in rows:
        own = [trace for trace in read if trace.problem_id == row["id"]]
        assert len(own) == row["num_rollouts"] == 2
        assert sum(trace.num_tokens for trace in own) == row["num_sampled_tokens"] > 0
        assert all("limits" in trace.sandbox_layers for trace in own)
        for trace in own:  # a forced answer is asked for without log-probabilities
            sampled = trace.turns[:-1] if trace.stop_reason == "salvaged" else trace.turns
            assert all(turn.mean_logprob is not None for turn in sampled)


def test_the_same_seed_gives_the_same_text(tiny: str, tmp_path: Path) -> None:
    texts: list[Sequence[str]] = []
    for name in ("a", "b"):
        path = tmp_path / name
        aimo2("solve", "Say something.", "--model", tiny, *SHORT, "--traces", str(path))
        lines = path.read_text().splitlines()
        texts.append([Trace.model_validate_json(line).text for line in lines])
    assert len(texts[0]) == 2
    assert texts[0] == texts[1]


def test_a_killed_server_is_reported_and_started_again(tiny: str) -> None:
    long = ("-n", "1", "--max-tokens", "300", "--no-code", "--stop", "never", "--json")
    with started("solve", "Count as far as you can.", "--model", tiny, *long) as process:
        wait_for_line(process, "ready after")
        engine_of(process).kill()
        assert "starting it again" in wait_for_line(process, "starting it again")
        out, err = process.communicate(timeout=300)
    assert json.loads(out)["stop_reason"] == "exhausted", err
    assert process.returncode in (0, 1)


def test_ctrl_c_keeps_finished_answers_and_leaves_no_process(tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    source = many(tmp_path, 500)
    with started("solve", "-f", source, "--model", tiny, *SHORT, "-o", str(out)) as process:
        wait_for_line(process, "1/500")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    with out.open(newline="") as file:
        assert next(csv.DictReader(file))["id"] == "p0"
    assert children
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_two_solves_at_once_do_not_disturb_each_other(tiny: str) -> None:
    # A thread each: engines that share cores wait for each other's threads at every layer.
    arguments = ("solve", "Say something.", "--model", tiny, *SHORT, "--json", "--threads", "1")
    with started(*arguments) as one, started(*arguments) as two:
        shown = [json.loads(process.communicate(timeout=300)[0]) for process in (one, two)]
    for result in shown:
        result.pop("seconds")
    assert shown[0] == shown[1]


def test_a_truncated_model_file_is_one_clear_line(tiny: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(tiny).read_bytes()[:2_000_000])
    done = aimo2("solve", "x", "--model", str(broken))
    assert (done.returncode, done.stdout) == (2, "")
    assert "broken.gguf" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_full_disk_loses_no_answer(tiny: str) -> None:
    done = aimo2("solve", "Say 7.", "--model", tiny, *SHORT, "--json", "-o", "/dev/full")
    assert done.returncode == 2
    assert json.loads(done.stdout)["id"] == "1"
    assert "no room left" in done.stderr.splitlines()[-1]


def test_any_openai_compatible_server_will_do_and_its_key_stays_secret(
    tiny: str, tmp_path: Path
) -> None:
    traces = tmp_path / "t.jsonl"

    async def solve() -> tuple[int | None, str, str]:
        async with LlamaServer(LocalServerConfig(model_path=Path(tiny), concurrency=2)) as server:
            url, key = server.endpoint()
            assert key is not None
            process = await asyncio.create_subprocess_exec(
                *command("solve", "Say something.", "--base-url", url, "--api-key-env", "A_KEY"),
                *(*SHORT, "--json", "--traces", str(traces)),
                env={**os.environ, "A_KEY": key},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = await process.communicate()
            shown = err.decode() + traces.read_text()
            assert key not in shown
            return process.returncode, out.decode(), shown

    code, out, err = asyncio.run(solve())
    assert code in (0, 1), err
    assert json.loads(out)["num_rollouts"] == 2


def test_a_server_that_does_not_exist_is_one_clear_line() -> None:
    done = aimo2("solve", "x", "--base-url", "http://127.0.0.1:9/v1", "--timeout", "20")
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
