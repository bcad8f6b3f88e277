"""Both ends as real processes, each against another end that knows nothing of our code."""

import csv
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import grpc
import polars as pl
import pytest

from tests.kaggle import wire
from tests.kaggle.test_server import frame_of, predict

METHOD = "/kaggle_evaluation_client.KaggleEvaluationService/Send"


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the first line that it prints; ended afterwards."""
    started = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline().strip()
        assert line, started.communicate(timeout=10)[1]
        yield started, line
    finally:
        started.kill()
        started.communicate()


def serving(*flags: str) -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    rules = ("--competition", "timing", "--sleep", "0.05", "--port", "0")
    return process("aimo2", "kaggle", "serve", *rules, *flags)


def gateway(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aimo2", "kaggle", "gateway", *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def send(address: str, data: bytes) -> bytes:
    with grpc.insecure_channel(address) as channel:
        reply: bytes = channel.unary_unary(METHOD)(data, timeout=60, wait_for_ready=True)
        return reply


def test_the_server_answers_a_foreign_gateway_and_remembers_over_its_lives(tmp_path: Path) -> None:
    out = str(tmp_path / "exam")
    with serving("--out", out) as (server, address):
        assert frame_of(send(address, predict("a", "What?"))) == {"id": ["a"], "answer": [0]}
        with pytest.raises(grpc.RpcError) as caught:
            send(address, wire.request("train"))
        assert "No listener for train was registered." in caught.value.details()
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=30)
    assert server.returncode == 0, err
    with serving("--out", out) as (server, address):
        assert frame_of(send(address, predict("a", "What?"))) == {"id": ["a"], "answer": [0]}
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=30)
    assert server.returncode == 130
    assert "[a] again: 0" in err
    assert "Traceback" not in err


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "problems.csv"
    rows = [(f"p{i}", "?" * (i + 1), i + 1) for i in range(4)]
    path.write_text("id,problem,answer\n" + "".join(f"{i},{p},{a}\n" for i, p, a in rows))
    return str(path)


def test_the_gateway_asks_a_foreign_server_and_goes_on_after_it_has_died(
    problems: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = (problems, "--out", str(out), "--order", "file", "--reconnect", "0.5s")
    with process("tests.kaggle.raw_server", "0", "3") as (_, port):
        done = gateway(*flags, "--port", port)
    assert done.returncode == 2
    assert done.stdout == "p0\t1\np1\t2\n"
    assert "SERVER_CONNECTION_FAILED; 2 of 4 answers are kept" in done.stderr
    assert "hung up and did not come back" in done.stderr.splitlines()[-1]
    assert not (out / "submission.csv").exists()
    with process("tests.kaggle.raw_server", "0") as (_, port):
        done = gateway(*flags, "--port", port)
    assert (done.returncode, done.stdout) == (0, "p2\t3\np3\t4\n")
    assert "going on: 2 of 4 are answered" in done.stderr
    assert "4 of 4 with a gold answer are correct" in done.stderr
    with (out / "submission.csv").open(newline="") as file:
        assert [row["answer"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    frame = pl.read_parquet(out / "submission.parquet")
    assert frame.schema == {"id": pl.String, "answer": pl.Int64}
