import contextlib
import json
import sys
import types
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aimo2 import engine
from aimo2.answers import Judge
from aimo2.config import EngineConfig, SolveConfig
from aimo2.deadline import Deadline
from aimo2.evals.store import read_run
from aimo2.llm.fake import ScriptedModel
from aimo2.sandbox.fake import FakeSandbox
from aimo2.solver import Tools
from tests.cli.command import Command, handlers_kept
from tests.evals.exam import write_sums
from tests.evals.test_runner import summing
from tests.scripted import execute


class Run(Command):
    """Runs `aimo2` in this process on a scripted engine that adds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        super().__init__(monkeypatch, capfd)
        self.configs: list[tuple[EngineConfig, SolveConfig]] = []

    def __call__(self, *args: str) -> int:
        @contextlib.asynccontextmanager
        async def open_engine(
            config: EngineConfig,
            solve: SolveConfig,
            notify: Callable[[str], None],
            deadline: Deadline,
        ) -> AsyncGenerator[engine.Engine, None]:
            self.configs.append((config, solve))
            model = ScriptedModel(lambda asked, how: list(summing(asked, how))[1:])
            async with FakeSandbox(execute) as sandbox, Judge() as judge:
                yield engine.Engine(Tools(model, sandbox, judge), lambda: None)

        self._monkeypatch.setattr(engine, "open_engine", open_engine)
        self._monkeypatch.setattr(
            "aimo2.cli.models.ensure_model", lambda name, console: Path("/models") / name
        )
        return self.invoke(*args)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    monkeypatch.chdir(tmp_path)
    with handlers_kept():
        yield Run(monkeypatch, capfd)


@pytest.fixture
def sums(tmp_path: Path) -> str:
    return str(write_sums(tmp_path / "sums.jsonl", 5))


def test_figures_go_to_standard_output_and_progress_to_standard_error(run: Run, sums: str) -> None:
    assert run("eval", sums, "-k", "4", "-o", "r") == 0
    assert "sums: 5 problems, 4 samples each" in run.out
    assert "pass@1 (mean over samples)" in run.out
    assert "maj@4 (exact)" in run.out
    assert "contamination:" in run.out
    assert "20/20: pass@1" in run.err
    assert "traces and grades are in r" in run.err
    names = {path.name for path in Path("r").iterdir()}
    assert {"run.json", "traces.jsonl", "outcomes.jsonl", "samples.parquet"} <= names


def test_json_figures_are_those_of_the_folder(run: Run, sums: str) -> None:
    assert run("eval", sums, "-k", "3", "-o", "r", "--json", "--limit", "4") == 0
    shown = json.loads(run.out)
    stored = read_run(Path("r"))
    right = sum(bool(sample.correct) for sample in stored.samples.values())
    assert shown["pass_1"]["value"] == pytest.approx(right / 12)
    assert (shown["problems"], shown["samples"], list(shown["maj_k"])) == (4, 3, ["1", "2", "3"])


def test_the_same_command_goes_on_in_its_own_folder(run: Run, sums: str) -> None:
    assert run("eval", sums, "-k", "2", "--seed", "5") == 0
    folder = Path("runs/sums-k2-seed5")
    first = (folder / "traces.jsonl").read_bytes()
    assert run("eval", sums, "-k", "2", "--seed", "5") == 0
    assert "10 of 10 samples are done" in run.err
    assert (folder / "traces.jsonl").read_bytes() == first


def test_other_settings_in_the_same_folder_are_refused(run: Run, sums: str) -> None:
    assert run("eval", sums, "-k", "2", "-o", "r") == 0
    assert run("eval", sums, "-k", "2", "-o", "r", "--temperature", "0.2") == 2
    assert "solve.sampling.temperature is 0.7 there and 0.2 here" in run.err
    assert run("eval", sums, "-k", "2", "-o", "r", "--model", "other") == 2
    assert "and other here" in run.err


def test_other_settings_of_the_engine_are_refused_too(run: Run, sums: str) -> None:
    assert run("eval", sums, "-k", "2", "-o", "r") == 0
    assert run("eval", sums, "-k", "2", "-o", "r", "--context", "8192") == 2
    assert "engine.context is 4096 there and 8192 here" in run.err
    assert run("eval", sums, "-k", "2", "-o", "r", "--sandbox", "strict") == 2
    assert "engine.sandbox is auto there and strict here" in run.err
    served = ["eval", sums, "-k", "2", "-o", "s", "--base-url", "http://localhost:9/v1"]
    Path("own.jinja").write_text("{{ messages }}")
    assert run(*served, "--chat-template", "own.jinja") == 0
    assert run(*served, "--chat-template", "own.jinja", "--context", "8192") == 0
    assert run(*served, "--chat-template", "chatml") == 2
    assert "engine.chat_template is " in run.err
    assert run(*served, "--chat-template", "gone.jinja") == 2
    assert "--chat-template gone.jinja cannot be read" in run.err


def test_flags_of_the_solver_are_named_where_they_do_nothing(run: Run, sums: str) -> None:
    flags = ["--stop", "never", "--token-budget", "900", "--set", "branch.roots=2"]
    assert run("eval", sums, "-k", "2", "-o", "r", *flags, "--temperature", "0.5") == 0
    assert "--token-budget, --stop, --set branch.roots have no effect on them" in run.err
    assert "--temperature" not in run.err
    assert run("eval", sums, "-k", "2", "-o", "s", *flags, "--mode", "solve") == 0
    assert "no effect" not in run.err


class FakeWandb(types.ModuleType):
    """What `--track wandb` uses of the package, which keeps files in the folder it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("wandb")
        self.error = error
        self.started: list[dict[str, Any]] = []
        self.summary: dict[str, float] = {}
        self.steps: list[int] = []
        self.finished = 0

    def Settings(self, **kwargs: Any) -> dict[str, Any]:  # noqa: N802 - the package's name
        return kwargs

    def init(self, **kwargs: Any) -> "FakeWandb":
        if self.error is not None:
            raise self.error
        Path(kwargs["dir"], "wandb").mkdir(exist_ok=True)
        self.started.append(kwargs)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.steps.append(step)

    def finish(self) -> None:
        self.finished += 1


def test_a_tracked_run_begins_and_goes_on_under_one_id(
    run: Run, sums: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    command = ["eval", sums, "-k", "2", "-o", "r", "--track", "wandb"]
    assert run(*command) == 0
    assert run(*command) == 0
    first, second = fake.started
    assert first["id"] == second["id"]
    assert first["resume"] == "allow"
    assert first["config"]["dataset"] == "sums"
    assert fake.steps
    assert fake.summary["problems"] == 5
    assert fake.finished == 2
    assert run("eval", sums, "-k", "2", "-o", "other", "--seed", "1", "--track", "wandb") == 0
    assert fake.started[-1]["id"] != first["id"]


def test_a_tracker_that_gives_no_run_is_one_line_and_the_folder_stays_usable(
    run: Run, sums: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("no API key\nmore lines")
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(error))
    assert run("eval", sums, "-k", "2", "-o", "r", "--track", "wandb") == 2
    assert "--track wandb: it gives no run (no API key)" in run.err
    assert "Traceback" not in run.err
    assert run("eval", sums, "-k", "2", "-o", "r") == 0


def test_a_tracker_that_is_not_installed_is_named_before_anything_starts(
    run: Run, sums: str
) -> None:
    assert run("eval", sums, "-k", "2", "-o", "r", "--track", "trackio") == 2
    assert "--track trackio: the package is not installed" in run.err
    assert not Path("r").exists()


def test_flags_reach_the_configuration(run: Run, sums: str) -> None:
    flags = (
        "-k 6 -o r --openings plain --no-code --max-tokens 50 --timeout 900 --seed 3"
        " --temperature 0.1 --top-p 0.5 --min-p 0.2 --concurrency 7 --logprobs --mode solve"
        " --stop never"
    )
    assert run("eval", sums, *flags.split()) == 0
    config = read_run(Path("r")).record.config
    assert (config.mode, config.samples, config.solve.num_rollouts) == ("solve", 6, 6)
    assert (config.solve.rollout.max_code_runs, config.solve.rollout.max_tokens) == (0, 50)
    assert (config.solve.seed, config.solve.timeout, config.solve.openings) == (3, 900, ("plain",))
    assert config.solve.sampling.temperature == 0.1
    assert config.solve.answer_type == "int"
    assert self_concurrency(run) == 7
    assert "answers that are right" in run.out
    spent = sum(one.num_sampled_tokens for one in read_run(Path("r")).outcomes.values())
    assert f"right, {spent:,} tokens" in run.err


def self_concurrency(run: Run) -> int:
    return run.configs[-1][1].concurrency


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nosuch"], "nosuch is no data set and no file"),
        (["sums.jsonl", "--limit", "0"], "--limit 0: must be 1 or more"),
        (["sums.jsonl", "--draw"], "--draw needs --limit"),
        (["sums.jsonl", "-k", "0"], "--samples 0"),
        (["sums.jsonl", "--temperature", "9"], "--temperature 9"),
        (["sums.jsonl", "--columns", "answer=final"], "no column final for answer"),
        (["sums.jsonl", "--modulus", "10", "--answer-type", "expr"], "--modulus 10 needs integer"),
        (["bare.jsonl"], "no problem has a gold answer"),
        (["math500", "--data-dir", "gone"], "--data-dir gone: there is no such folder"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    run: Run, sums: str, args: list[str], said: str
) -> None:
    Path("bare.jsonl").write_text('{"problem": "x"}\n')
    assert run("eval", *args) == 2
    assert said in run.err
    assert len(run.err.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_data_list_show_and_overlap(run: Run, sums: str) -> None:
    assert run("data", "list") == 0
    assert "HuggingFaceH4/MATH-500" in run.out
    assert run("data", "show", sums, "-n", "1") == 0
    assert "5 problems, 5 with a gold answer" in run.out
    assert "level: 0 (3), 1 (2)" in run.out
    assert "[s0] What is 0 plus 11?" in run.out
    assert run("data", "show", sums, "--json") == 0
    assert [json.loads(line)["id"] for line in run.out.splitlines()] == [
        "s0",
        "s1",
        "s2",
        "s3",
        "s4",
    ]
    assert run("data", "overlap", sums, sums) == 0
    assert "5 of 5 problems share" in run.out
    assert run("data", "overlap", sums, sums, "--json") == 0
    assert json.loads(run.out.splitlines()[0]) == {
        "id": "s0", "row": 1, "share": 1.0, "long_runs": 1,
    }  # fmt: skip
