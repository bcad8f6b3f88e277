import asyncio
import contextlib
import csv
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from aimo2 import engine
from aimo2.answers import Judge
from aimo2.config import EngineConfig, SolveConfig
from aimo2.deadline import Deadline
from aimo2.errors import KeyRefused, ModelUnavailable, ServerError
from aimo2.exam import exam_history
from aimo2.holder import EngineHolder
from aimo2.llm.fake import Delay, ScriptedModel
from aimo2.sandbox.fake import FakeSandbox
from aimo2.solver import Tools
from tests.cli.command import Command, handlers_kept
from tests.scripted import execute, model


class Run(Command):
    """Runs `aimo2 exam` in this process on a scripted engine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        super().__init__(monkeypatch, capfd)
        self.configs: list[tuple[EngineConfig, SolveConfig]] = []
        self.failures: list[str | None] = []
        self.set_up_errors: list[Exception] = []

    def __call__(self, *args: object, scripted: ScriptedModel | None = None) -> int:
        chosen = model("\\boxed{42}") if scripted is None else scripted

        @contextlib.asynccontextmanager
        async def open_engine(
            config: EngineConfig,
            solve_config: SolveConfig,
            notify: Callable[[str], None],
            deadline: Deadline,
        ) -> AsyncGenerator[engine.Engine, None]:
            if self.set_up_errors:
                raise self.set_up_errors.pop(0)
            self.configs.append((config, solve_config))
            failures = iter(self.failures)
            async with FakeSandbox(execute) as sandbox, Judge() as judge:
                yield engine.Engine(Tools(chosen, sandbox, judge), lambda: next(failures, None))

        self._monkeypatch.setattr(engine, "open_engine", open_engine)
        self._monkeypatch.setattr(
            "aimo2.cli.models.ensure_model", lambda name, console: Path("/models") / name
        )
        return self.invoke("exam", *map(str, args))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with handlers_kept():
        yield Run(monkeypatch, capfd)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.csv"
    path.write_text("id,problem,answer\na,six times seven?,42\nb,x,7\nc,y,1042\n")
    return path


def test_an_exam_writes_its_submission_score_and_report(
    run: Run, problems: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e"
    assert run("run", problems, "--limit", "5m", "--modulus", 1000, "--out", out) == 0
    assert run.out == "a\t42\nb\t42\nc\t42\n"
    assert "score: 2 of 3" in run.err
    with (out / "submission.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "answer"], ["a", "42"], ["b", "42"], ["c", "42"]]
    frame = pl.read_parquet(out / "submission.parquet")
    assert frame.rows() == [("a", 42), ("b", 42), ("c", 42)]
    assert frame.schema == {"id": pl.String, "answer": pl.Int64}
    assert "2 of 3" in (out / "report.html").read_text()
    outcomes = [json.loads(line) for line in (out / "outcomes.jsonl").read_text().splitlines()]
    assert [outcome["id"] for outcome in outcomes] == ["a", "b", "c"]
    assert (out / "traces.jsonl").read_text().count("\n") >= 3
    history = exam_history(out)
    assert history.ended
    assert run("report", out, "--out", tmp_path / "again.html") == 0
    assert run.out.strip() == str(tmp_path / "again.html")


def test_an_answer_out_of_the_range_of_the_rules_decides_nothing(
    run: Run, problems: Path, tmp_path: Path
) -> None:
    scripted = model("\\boxed{123456}", "\\boxed{123456}", "\\boxed{42}")
    flags = ("--competition", "aimo3", "--limit", "5m", "--reserve", "1s")
    assert run("run", problems, *flags, "--out", tmp_path / "e", scripted=scripted) == 0
    assert run.out == "a\t42\nb\t42\nc\t42\n"
    (_, solve_config), *_ = run.configs
    assert (solve_config.lowest, solve_config.highest) == (0, 99_999)


def test_the_order_is_random_by_the_seed_and_the_submission_is_not(
    run: Run, problems: Path, tmp_path: Path
) -> None:
    orders = []
    for name, seed in (("e1", 3), ("e2", 3), ("e3", 4)):
        flags = ("--order", "random", "--seed", seed, "--out", tmp_path / name)
        assert run("run", problems, "--limit", "5m", *flags) == 0
        orders.append([line.split("\t")[0] for line in run.out.splitlines()])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == ["a", "b", "c"]


def test_an_interrupted_exam_is_resumed_with_nothing_asked_twice(
    run: Run, problems: Path, tmp_path: Path
) -> None:
    out = interrupted(run, problems, tmp_path / "e")
    assert run.out == "a\t42\n"
    assert "aimo2 exam resume" in run.err
    assert (out / "submission.csv").read_text() == "id,answer\na,42\n"
    assert run("run", problems, "--limit", "5m", "--out", out) == 2
    assert "holds an exam already" in run.err
    assert run("resume", out, scripted=model("\\boxed{7}")) == 0
    assert run.out == "b\t7\nc\t7\n"
    assert (out / "submission.csv").read_text() == "id,answer\na,42\nb,7\nc,7\n"
    assert exam_history(out).num_resumed == 1


def test_a_server_that_is_gone_for_good_is_started_anew(
    run: Run, problems: Path, tmp_path: Path
) -> None:
    run.failures = [None, "out of memory"]
    assert run("run", problems, "--limit", "5m", "--out", tmp_path / "e") == 0
    assert "started anew: out of memory" in run.err
    assert len(run.configs) > 1


def test_a_standard_error_that_takes_nothing_costs_no_answer(
    run: Run, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert run("run", problems, "--limit", "5m", "--out", tmp_path / "e") == 0
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert run.out == "a\t42\nb\t42\nc\t42\n"


def test_a_resumed_exam_waits_for_its_server_and_burns_no_question(
    run: Run, problems: Path, tmp_path: Path
) -> None:
    out = interrupted(run, problems, tmp_path / "e")
    run.set_up_errors = [ModelUnavailable("nobody listens")]
    assert run("resume", out, scripted=model("\\boxed{7}")) == 0
    assert run.out == "b\t7\nc\t7\n"
    assert "no engine: nobody listens" in run.err
    resumed = next(r for r in records(out) if r["kind"] == "resumed")
    noted = next(r for r in records(out) if r["kind"] == "noted")
    assert noted["elapsed"] >= resumed["elapsed"] > 0  # the clock ran before the engine was there


def test_a_resumed_exam_whose_key_is_refused_loses_no_question(
    run: Run, problems: Path, tmp_path: Path
) -> None:
    out = interrupted(run, problems, tmp_path / "e")
    refused = KeyRefused("the server answered 401")
    # The second time the server is not there at first, and refuses the key during a question.
    for before in ((), (ModelUnavailable("nobody listens"),)):
        run.set_up_errors = [*before, refused]
        assert run("resume", out) == 2
        assert run.out == ""
        assert run.err.splitlines()[-1] == "aimo2: the server answered 401"
        assert list(exam_history(out).answers) == ["a"]
    assert run("resume", out, scripted=model("\\boxed{7}")) == 0
    assert run.out == "b\t7\nc\t7\n"


def test_an_exam_that_is_interrupted_before_it_begins_is_begun_by_the_same_command(
    run: Run, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(holder: EngineHolder) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    out = tmp_path / "e"
    with monkeypatch.context() as patched:
        patched.setattr(EngineHolder, "tools", hang)
        assert run("run", problems, "--limit", "5m", "--out", out) == 130
    assert run.err == "interrupted before the exam began; the same command begins it\n"
    assert not (out / "submission.csv").exists()
    assert run("run", problems, "--limit", "5m", "--out", out) == 0


def interrupted(run: Run, problems: Path, out: Path) -> Path:
    """An exam that Ctrl-C ends in its second question."""

    def hang() -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGINT)
        yield Delay(3600)

    scripted = model("\\boxed{42}", "\\boxed{42}", hang())
    assert run("run", problems, "--limit", "5m", "--out", out, scripted=scripted) == 130
    return out


def records(out: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line.split(" ", 1)[1]) for line in (out / "journal").read_text().splitlines()
    ]


def test_an_engine_that_cannot_start_begins_no_exam(
    run: Run, problems: Path, tmp_path: Path
) -> None:
    run.set_up_errors = [ServerError("no room for the model; take a smaller one")]
    out = tmp_path / "e"
    assert run("run", problems, "--limit", "5m", "--out", out) == 2
    assert "no room for the model" in run.err
    assert run("run", problems, "--limit", "5m", "--out", out) == 0


def test_the_timing_preset_needs_no_engine(run: Run, problems: Path, tmp_path: Path) -> None:
    flags = ("--competition", "timing", "--limit", "4m", "--per-question", "2.2s")
    assert run("run", problems, *flags, "--out", tmp_path / "e") == 1
    assert run.out == "a\t0\nb\t0\nc\t0\n"
    assert run.configs == []


def test_a_key_is_never_written_down(
    run: Run, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    out = tmp_path / "e"
    flags = ("--base-url", "http://x/v1", "--api-key-env", "SOME_KEY", "--out", out)
    assert run("run", problems, "--limit", "5m", *flags) == 0
    for path in out.iterdir():
        assert b"sk-secret" not in path.read_bytes()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--limit", "5x"), "--limit 5x: give a duration such as 5h"),
        (("--limit", "0"), "above 0"),
        (("--limit", "1m", "--reserve", "60s"), "leaves nothing of the limit"),
        (("--per-question", "half an hour"), "--per-question half an hour: give a duration"),
        (("--competition", "imo"), "no competition 'imo'"),
        (("--modulus", "0"), "modulus"),
        (("--order", "sorted"), "order"),
        (("-n", "0"), "--rollouts 0"),
    ],
)
def test_bad_flags_are_one_clear_line(
    run: Run, problems: Path, tmp_path: Path, args: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "e"
    assert run("run", problems, "--out", out, *args) == 2
    assert said in run.err
    assert "Traceback" not in run.err
    assert not (out / "journal").exists()


@pytest.mark.parametrize("command", ["resume", "report"])
def test_a_folder_without_an_exam_is_told(run: Run, tmp_path: Path, command: str) -> None:
    assert run(command, tmp_path) == 2
    assert "holds no exam" in run.err
    (tmp_path / "journal").touch()
    assert run(command, tmp_path) == 2
    assert "never began" in run.err
