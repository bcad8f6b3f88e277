import contextlib
import csv
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aimo2 import engine
from aimo2.answers import Judge
from aimo2.config import EngineConfig, SolveConfig
from aimo2.deadline import Deadline
from aimo2.errors import ModelUnavailable, ServerError
from aimo2.llm.fake import Delay, ScriptedModel
from aimo2.sandbox.fake import FakeSandbox
from aimo2.serving.catalogue import DEFAULT_MODEL
from aimo2.solver import Tools
from aimo2.types import Trace
from tests.cli.command import Command, handlers_kept
from tests.scripted import execute, model


class Run(Command):
    """Runs `aimo2` in this process on a scripted engine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        super().__init__(monkeypatch, capfd)
        self.configs: list[tuple[EngineConfig, SolveConfig]] = []
        self.set_up_error: Exception | None = None
        self.began = time.time()

    def _ensure_model(self, name: str, console: object) -> Path:
        if self.set_up_error is not None:
            raise self.set_up_error
        return Path("/models") / name

    def __call__(self, *args: str, scripted: ScriptedModel | None = None) -> int:
        chosen = model("\\boxed{42}") if scripted is None else scripted

        @contextlib.asynccontextmanager
        async def open_engine(
            config: EngineConfig,
            solve_config: SolveConfig,
            notify: Callable[[str], None],
            deadline: Deadline,
        ) -> AsyncGenerator[engine.Engine, None]:
            self.configs.append((config, solve_config))
            async with FakeSandbox(execute) as sandbox, Judge() as judge:
                yield engine.Engine(Tools(chosen, sandbox, judge), lambda: None)

        self._monkeypatch.setattr(engine, "open_engine", open_engine)
        self._monkeypatch.setattr("aimo2.cli.models.ensure_model", self._ensure_model)
        self._monkeypatch.setattr(psutil.Process, "create_time", lambda process: self.began)
        return self.invoke(*args)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with handlers_kept():
        yield Run(monkeypatch, capfd)


def problems(tmp_path: Path, *rows: dict[str, object]) -> str:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_answer_stands_alone_on_standard_output(run: Run) -> None:
    assert run("solve", "What is", "6 times 7?") == 0
    assert run.out == "42\n"
    assert "answered 42" in run.err


def test_json_has_the_documented_keys(run: Run) -> None:
    assert run("solve", "--json", "-n", "2", "x") == 0
    shown = json.loads(run.out)
    assert list(shown) == [
        "id", "answer", "votes", "stop_reason", "num_rollouts", "num_sampled_tokens",
        "num_code_runs", "seconds",
    ]  # fmt: skip
    assert (shown["answer"], shown["votes"], shown["stop_reason"]) == (
        "42",
        {"42": 2.0},
        "majority",
    )


def test_a_file_gives_an_object_a_line_with_gold_and_verdict(run: Run, tmp_path: Path) -> None:
    source = problems(
        tmp_path,
        {"id": "a", "problem": "x", "answer": "42"},
        {"id": "b", "problem": "y", "answer": 7},
    )
    assert run("solve", "--file", source, "--json") == 0
    rows = [json.loads(line) for line in run.out.splitlines()]
    assert [(row["id"], row["gold"], row["correct"]) for row in rows] == [
        ("a", "42", True), ("b", "7", False),
    ]  # fmt: skip
    assert "1 of 2 with a gold answer are correct" in run.err


def test_answers_and_traces_are_written(run: Run, tmp_path: Path) -> None:
    source = problems(tmp_path, {"id": "a", "problem": "x"}, {"id": "b", "problem": "y"})
    out, traces = tmp_path / "o.csv", tmp_path / "t.jsonl"
    assert run("solve", "-f", source, "-o", str(out), "--traces", str(traces), "-n", "3") == 0
    assert run.out == "a\t42\nb\t42\n"
    with out.open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "answer"], ["a", "42"], ["b", "42"]]
    read = [Trace.model_validate_json(line) for line in traces.read_text().splitlines()]
    assert [(trace.problem_id, trace.rollout) for trace in read] == [
        ("a", 0), ("a", 1), ("b", 0), ("b", 1),
    ]  # fmt: skip


def test_an_unanswered_problem_is_an_empty_line_and_exit_code_1(run: Run, tmp_path: Path) -> None:
    source = problems(tmp_path, {"id": "a", "problem": "x"}, {"id": "b", "problem": "y"})
    scripted = model(*["No idea."] * 4, "\\boxed{5}")
    assert run("solve", "-f", source, "-n", "2", "--openings", "plain", scripted=scripted) == 1
    assert run.out == "a\t\nb\t5\n"


def test_flags_reach_the_configuration(run: Run) -> None:
    flags = (
        "-n 7 --concurrency 3 --openings plain --no-code --max-tokens 50 --timeout 9 --seed 3"
        " --modulus 1000 --temperature 0.1 --top-p 0.5 --min-p 0.2 --stop never --cell-timeout 2"
        " --context 2048 --threads 1 --logprobs"
    )
    assert run("solve", *flags.split(), "x") == 0
    ((engine_config, config),) = run.configs
    assert (config.num_rollouts, config.concurrency, config.openings) == (7, 3, ("plain",))
    assert (config.rollout.max_code_runs, config.rollout.max_tokens) == (0, 50)
    assert (config.timeout, config.seed, config.modulus) == (9, 3, 1000)
    assert config.stop.rule == "never"
    sampling = config.sampling
    assert (sampling.temperature, sampling.top_p, sampling.min_p) == (0.1, 0.5, 0.2)
    assert sampling.logprobs
    assert config.kernel.cell_timeout == 2
    assert (engine_config.context, engine_config.threads) == (2048, 1)
    assert engine_config.model_path == Path("/models") / DEFAULT_MODEL.name


def test_a_server_of_ones_own_needs_no_model_file(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    assert run("solve", "--base-url", "http://x/v1", "--api-key-env", "SOME_KEY", "x") == 0
    ((engine_config, config),) = run.configs
    assert engine_config.model_path is None
    assert engine_config.server is not None
    assert "sk-secret" not in engine_config.model_dump_json()
    assert (config.num_rollouts, config.concurrency) == (16, 16)
    assert "sk-secret" not in run.out + run.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["solve"], "no problem given"),
        (["solve", "x", "--file", "y"], "both a problem and --file"),
        (["solve", "--file", "none.jsonl"], "none.jsonl: No such file"),
        (["solve", "x", "--timeout", "-1"], "--timeout -1.0: input should be greater than 0"),
        (["solve", "x", "-n", "0"], "--rollouts 0"),
        (["solve", "x", "--openings", "slow"], "no opening is called 'slow'"),
        (["solve", "x", "--modulus", "9", "--answer-type", "expr"], "--modulus 9 needs integer"),
        (["solve", "x", "--api-key-env", "HOME"], "--api-key-env needs --base-url"),
        (["solve", "x", "--base-url", "http://x", "--api-key-env", "NO_SUCH"], "NO_SUCH"),
        (["solve", "x", "-o", "/no/such/folder/o.csv"], "/no/such/folder does not exist"),
        (["solve", "x", "--answer-type", "word"], "answer-type"),
        (["solv", "x"], "solv"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(run: Run, args: list[str], said: str) -> None:
    assert run(*args) == 2
    assert said in run.err
    assert "Traceback" not in run.err
    assert run.out == ""


def test_a_bad_line_costs_nothing_that_was_there(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "p.jsonl"
    source.write_text('{"problem": "x"}\nnot json\n')
    out = tmp_path / "o.csv"
    out.write_text("precious")
    assert run("solve", "-f", str(source), "-o", str(out)) == 2
    assert "p.jsonl line 2" in run.err
    assert out.read_text() == "precious"
    assert run.configs == []


def test_ctrl_c_keeps_what_was_finished(run: Run, tmp_path: Path) -> None:
    source = problems(tmp_path, {"id": "a", "problem": "x"}, {"id": "b", "problem": "y"})
    out = tmp_path / "o.csv"

    def press() -> Iterator[Any]:
        yield "So \\boxed{7}\n"

    def hang() -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGINT)
        yield Delay(3600)

    scripted = model("\\boxed{42}", "\\boxed{42}", press(), hang())
    flags = ("--openings", "plain", "-o", str(out))
    assert run("solve", "-f", source, *flags, scripted=scripted) == 130
    assert out.read_text() == "id,answer\na,42\nb,7\n"
    assert "interrupted; 2 problems done, 0 left" in run.err


def test_ctrl_c_before_any_vote_leaves_the_problem_open(run: Run, tmp_path: Path) -> None:
    source = problems(tmp_path, {"id": "a", "problem": "x"}, {"id": "b", "problem": "y"})

    def hang() -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGINT)
        yield Delay(3600)

    out = tmp_path / "o.csv"
    assert run("solve", "-f", source, "-o", str(out), scripted=model(hang())) == 130
    assert run.out == ""
    assert not out.exists()
    assert "interrupted; 0 problems done, 2 left" in run.err


def test_a_full_disk_still_prints_the_answer(run: Run) -> None:
    assert run("solve", "x", "-o", "/dev/full") == 2
    assert run.out == "42\n"
    assert "no room left to write /dev/full" in run.err


def test_a_server_that_is_gone_is_told(run: Run) -> None:
    assert run("solve", "x", scripted=model([ModelUnavailable("cannot reach it")])) == 1
    assert "cannot reach it" in run.err


def test_the_clock_of_the_first_problem_starts_with_the_process(run: Run, tmp_path: Path) -> None:
    source = problems(tmp_path, {"id": "a", "problem": "x"}, {"id": "b", "problem": "y"})
    run.began -= 1000
    assert run("solve", "-f", source, "--timeout", "900") == 1
    assert run.out == "a\t\nb\t42\n"
    assert "deadline" in run.err


def test_a_set_up_error_is_one_line(run: Run) -> None:
    run.set_up_error = ServerError("the engine cannot load it; run `aimo2 models verify`")
    assert run("solve", "x") == 2
    assert run.err == "aimo2: the engine cannot load it; run `aimo2 models verify`\n"


def test_show_streams_the_first_rollout(run: Run) -> None:
    code = "I compute.\n```python\nprint(42)\n```\n"
    assert (
        run("solve", "--show", "--openings", "plain", "x", scripted=model(code, "\\boxed{42}")) == 0
    )
    assert run.out == "42\n"
    assert "I compute.\n```python\nprint(42)\n```\n```output\n42\n```\n\\boxed{42}" in run.err


def test_version_and_help(run: Run) -> None:
    assert run("--version") == 0
    assert run.out.startswith("aimo2 0.")
    assert run("solve", "--help") == 0
    assert "--timeout" in run.out


def test_show_tree_prints_the_tree(run: Run) -> None:
    code = "I compute.\n```python\nprint(42)\n```\n"
    flags = ("--show", "tree", "--openings", "plain", "-n", "1")
    assert run("solve", *flags, "x", scripted=model(code, "\\boxed{42}")) == 0
    assert run.out == "42\n"
    assert "└── 0 plain · " in run.err
    assert "    └── ✓ 0.50 s  42" in run.err


def test_a_page_of_the_solve_is_written(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run("solve", "--html", str(page), "What is it?") == 0
    assert run.out == "42\n"
    text = page.read_text()
    assert "What is it?" in text
    assert 'id="q0b0"' in text
    assert run("solve", "--html", str(tmp_path / "no" / "x.html"), "x") == 2
    assert "does not exist; create it" in run.err


def test_flags_beat_assignments_beat_the_environment_beat_the_file_beat_the_preset(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        'preset = "thorough"\nnum_rollouts = 5\nseed = 1\n[stop]\nrule = "never"\nk = 9\n'
    )
    monkeypatch.setenv("AIMO2_SEED", "2")
    monkeypatch.setenv("AIMO2_STOP__K", "8")
    flags = ("--config", str(path), "--set", "stop.k=7", "--set", "seed=3", "--seed", "4")
    assert run("solve", *flags, "--stop", "k_equal", "x") == 0
    config = run.configs[0][1]
    assert (config.branch.policy, config.num_rollouts) == ("bfs", 5)
    assert (config.seed, config.stop.rule, config.stop.k) == (4, "k_equal", 7)


def test_a_mix_is_one_in_every_layer(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.toml"
    path.write_text('openings = "code:2,late"\n')
    assert run("solve", "--config", str(path), "x") == 0
    monkeypatch.setenv("AIMO2_OPENINGS", "plain,code")
    assert run("solve", "x") == 0
    assert run("solve", "--set", "openings=late", "x") == 0
    assert [config.openings for _, config in run.configs] == [
        ("code", "late", "code"),
        ("plain", "code"),
        ("late",),
    ]
    assert run("solve", "--set", "openings=nope", "x") == 2
    assert "--set openings: no opening is called 'nope'" in run.err


def test_a_variable_that_is_no_setting_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMO2_TEMPRATURE", "0")
    assert run("solve", "x") == 0
    assert "AIMO2_TEMPRATURE is no setting and is ignored" in run.err


def test_every_choice_is_a_flag(run: Run) -> None:
    flags = (
        "--preset fast --stop window --min-votes 2 --max-votes 9 --certainty 0.9 --weigh"
        " short_first --keep 0.5 --trivial 0.6 --branch beam --roots 2 --children 2 --width 2"
        " --scorer code --token-budget 999 --rollout-timeout 7 --min-thinking-tokens 5"
        " --max-thinking-tokens 50 --no-salvage --salvage-seconds 3 --equal-votes 3"
    )
    assert run("solve", *flags.split(), "x") == 0
    config = run.configs[0][1]
    assert (config.stop.rule, config.stop.min_votes, config.stop.max_votes) == ("window", 2, 9)
    assert (config.stop.certainty, config.stop.k) == (0.9, 3)
    assert (config.weigh.rule, config.weigh.keep, config.weigh.trivial) == ("short_first", 0.5, 0.6)
    branch = config.branch
    assert (branch.policy, branch.roots, branch.children, branch.width) == ("beam", 2, 2, 2)
    assert (branch.scorer, config.max_tokens, config.rollout.timeout) == ("code", 999, 7)
    assert config.rollout.min_thinking_tokens == 5
    assert config.rollout.max_thinking_tokens == 50
    assert (config.salvage.enabled, config.salvage.seconds) == (False, 3)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--preset", "none"], "no preset is called 'none'"),
        (["--config", "none.toml"], "none.toml cannot be read"),
        (["--min-votes", "5", "--max-votes", "2"], "min_votes 5 is above max_votes 2"),
        (["--scorer", "reward"], "needs the reward model's URL"),
        (["--weigh", "calibrated"], "aimo2 calibrate"),
        (["--set", "stop"], "NAME=VALUE"),
        (
            ["--preset", "aimo2-winner-like", "--answer-type", "expr"],
            "preset aimo2-winner-like: modulus 1000 needs integer answers",
        ),
        (["--modulus", "7", "--answer-type", "expr"], "--modulus 7 needs integer"),
        (["--set", "stop.speed=9"], "--set stop.speed 9: input should be"),
    ],
)
def test_a_choice_that_cannot_be_is_one_clear_line(run: Run, args: list[str], said: str) -> None:
    assert run("solve", "x", *args) == 2
    assert said in run.err
    assert len(run.err.splitlines()) == 1


def test_the_run_s_record_stands_beside_its_traces(run: Run, tmp_path: Path) -> None:
    traces = tmp_path / "t.jsonl"
    assert run("solve", "x", "--traces", str(traces), "--preset", "fast", "--seed", "9") == 0
    record = json.loads((tmp_path / "t.jsonl.run.json").read_text())
    assert SolveConfig.model_validate(record["solve"]) == run.configs[0][1]
    assert record["solve"]["seed"] == 9
    assert "python" in record["versions"]


def test_presets_are_listed_and_shown_as_files_that_can_be_used(run: Run, tmp_path: Path) -> None:
    assert run("presets") == 0
    assert {line.split()[0] for line in run.out.splitlines()} == {
        "aimo2-winner-like", "default", "fast", "thorough",
    }  # fmt: skip
    assert run("presets", "fast") == 0
    path = tmp_path / "mine.toml"
    path.write_text(run.out)
    assert run("solve", "x", "--config", str(path)) == 0
    assert run.configs[0][1].stop.rule == "k_equal"
    assert run("presets", "none") == 2


def test_a_mix_of_openings_is_spread_by_weight(run: Run) -> None:
    assert run("solve", "--openings", "code:3,late", "x") == 0
    assert run.configs[-1][1].openings == ("code", "code", "late", "code")


def test_openings_of_ones_own_are_read_from_a_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('mix = "mine:2,code"\n[[opening]]\nname = "mine"\nfence_after = 9\n')
    assert run("solve", "--openings-file", str(file), "x") == 0
    config = run.configs[-1][1]
    assert config.openings == ("mine", "code", "mine")
    assert [(own.name, own.fence_after) for own in config.custom_openings] == [("mine", 9)]
    assert run("solve", "--openings-file", str(file), "--openings", "mine", "x") == 0
    assert run.configs[-1][1].openings == ("mine",)


def test_rules_that_end_attempts_reach_the_configuration(run: Run) -> None:
    flags = (
        "--probe high --cut-unsure --cut-long 2.5 --confirmed --repairs 1 --genselect 6"
        " --thinking off --family qwen3"
    )
    assert run("solve", *flags.split(), "x") == 0
    config = run.configs[-1][1]
    assert (config.cut.probe, config.cut.confidence, config.cut.length) == ("high", True, 2.5)
    assert (config.cut.confirmed, config.rollout.repairs) == (True, 1)
    assert (config.verify.comparisons, config.thinking, config.family) == (6, "off", "qwen3")
    assert config.top_candidates == 20


def test_a_second_models_server_is_named_by_flags(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R_KEY", "secret")
    flags = (
        "--reasoner http://r/v1 --reasoner-model big --reasoner-key-env R_KEY"
        " --verifier http://v/v1 --genselect 4"
    )
    assert run("solve", *flags.split(), "x") == 0
    config = run.configs[-1][0]
    assert config.reasoner is not None
    assert (config.reasoner.base_url, config.reasoner.model) == ("http://r/v1", "big")
    assert config.reasoner.api_key_env == "R_KEY"
    assert config.verifier is not None
    assert config.verifier.base_url == "http://v/v1"
    assert "secret" not in config.model_dump_json()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--openings kode", "no opening is called 'kode': take some of plain,"),
        ("--openings code:0", "'code:0': the weight of an opening is a whole number"),
        ("--openings-file nowhere.toml", "nowhere.toml cannot be read"),
        ("--family qwen9", "no model family is called 'qwen9'"),
        ("--probe wild", "wild"),
        ("--cut-long 0.5", "--cut-long 0.5"),
        ("--genselect -1", "--genselect -1"),
        ("--repairs -1", "--repairs -1"),
        ("--reasoner-model big", "--reasoner-model needs --reasoner"),
        ("--verifier-key-env KEY", "--verifier-key-env needs --verifier"),
        ("--reasoner http://r/v1 --reasoner-key-env NO_SUCH", "NO_SUCH"),
        ("--verifier http://v/v1", "--genselect 8"),
        ("--set openings=['late','kode']", "'kode'"),
    ],
)
def test_a_bad_choice_of_prompts_or_models_is_one_line_with_the_mend(
    run: Run, flags: str, said: str
) -> None:
    assert run("solve", *flags.split(), "x") == 2
    assert said in " ".join(run.err.split())
    assert run.out == ""
