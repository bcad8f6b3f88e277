"""`aimo2 replay` and `aimo2 calibrate`: flags, files, messages and exit codes."""

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aimo2.cli import app
from aimo2.errors import Aimo2Error
from aimo2.evals.recorded import read_samples
from aimo2.evals.replay_measure import split
from tests.evals.recorded import row, write


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """40 problems of 6 samples; code that agrees makes a right answer likely."""
    generator = random.Random(0)
    rows = []
    for number in range(40):
        for _ in range(6):
            agrees = generator.random() < 0.5
            right = generator.random() < (0.8 if agrees else 0.3)
            answer = "7" if right else generator.choice("123")
            text = f"```output\n{answer if agrees else 9}\n```\n\\boxed{{{answer}}}"
            rows.append(row(f"p{number}", answer, text=text, n_tokens=generator.randint(50, 500)))
    return write(tmp_path / "s.jsonl.gz", rows)


def said(*args: str) -> str:
    result = CliRunner().invoke(app, list(args))
    assert isinstance(result.exception, Aimo2Error), result.output
    return str(result.exception)


def ran(*args: str) -> str:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_rule_and_weighting_is_compared_by_default(samples: Path) -> None:
    lines = ran("replay", str(samples), "--orders", "2").splitlines()
    names = [line.split("\t")[0] for line in lines[1:]]
    assert names[0] == "never+count"
    assert {"majority", "window:speed=3", "adaptive_consistency", "never+calibrated"} <= set(names)


def test_named_policies_as_json(samples: Path, tmp_path: Path) -> None:
    plot = tmp_path / "a.png"
    args = ("--policy", "majority@4x2", "--policy", "never+calibrated", "--orders", "2")
    report: dict[str, Any] = json.loads(
        ran("replay", str(samples), "--json", "--plot", str(plot), *args)
    )
    first, second, third = report["policies"]
    assert (first["name"], first["gain"]["value"]) == ("never+count", 0.0)
    assert (second["name"], second["num_rollouts"], second["concurrency"]) == ("majority@4x2", 4, 2)
    assert second["tokens"]["value"] < first["tokens"]["value"]
    assert third["folds"] == 5
    assert third["weigh"]["calibration"]["coefficients"]["code_agrees"] > 0
    assert plot.stat().st_size > 1000


def test_the_grid_chooses_on_one_half_and_reports_the_other(samples: Path) -> None:
    report = json.loads(
        ran("replay", str(samples), "--grid", "--json", "--orders", "1", "--rollouts", "4")
    )
    assert report["train"][0]["name"] == report["held_out"][0]["name"] == "never+count@6x6"
    names = {each["name"] for each in report["held_out"]}
    assert {report["most_accurate"], report["cheapest"]} <= names
    assert len(report["grid"]) > 50
    text = ran("replay", str(samples), "--grid", "--orders", "1")
    assert "held out: what the choice is worth" in text


def test_the_grid_chooses_calibrated_by_models_that_have_not_seen_the_problem(
    samples: Path,
) -> None:
    report = json.loads(ran("replay", str(samples), "--grid", "--json", "--orders", "1"))
    assert "calibrated" in report["most_accurate"]
    chosen, judged = (
        {each["name"]: each for each in report[half]} for half in ("train", "held_out")
    )
    name = report["most_accurate"]
    assert (chosen[name]["folds"], judged[name]["folds"]) == (5, 1)
    assert judged[name]["weigh"]["calibration"]["num_problems"] == len(half_of(samples))


def half_of(samples: Path) -> set[str]:
    """The problems that `--grid` chooses on."""
    return {each.problem_id for each in split(read_samples([samples]).problems)[0]}


def test_what_is_not_known_is_null_in_json(samples: Path, tmp_path: Path) -> None:
    one = str(write(tmp_path / "one.jsonl", [row("p", "7"), row("p", "7")]))
    for args in (("replay", one, "--policy", "majority"), ("calibrate", str(samples))):
        text = ran(*args, "--json")
        json.loads(text, parse_constant=lambda name: pytest.fail(name))
    policies = json.loads(ran("replay", one, "--policy", "majority", "--json"))["policies"]
    assert policies[1]["accuracy"] == {"value": 1.0, "low": None, "high": None}


def test_a_fitted_model_can_be_stored_and_used(samples: Path, tmp_path: Path) -> None:
    model, plot = tmp_path / "c.toml", tmp_path / "c.png"
    text = ran("calibrate", str(samples), "-o", str(model), "--plot", str(plot))
    assert "Brier score" in text
    assert "code_agrees\t+" in text
    assert plot.stat().st_size > 1000
    report = json.loads(
        ran(
            *("replay", str(samples), "--calibration", str(model), "--json", "--orders", "1"),
            *("--policy", "never+calibrated"),
        )
    )
    assert report["policies"][1]["folds"] == 1
    stored = tomllib.loads(model.read_text())["weigh"]["calibration"]
    assert report["policies"][1]["weigh"]["calibration"] == stored
    as_json = json.loads(ran("calibrate", str(samples), "--json"))
    assert as_json["calibration"] == stored
    assert as_json["held_out"]["num_traces"] == 240


def benchmark_report(path: Path) -> Path:
    figures = {
        "workload": "decode",
        "max_tokens": 512,
        "seconds": 30.0,
        "num_tokens": 3000,
        "useful_share": 1.0,
        "per_stream": 10.0,
        "first_token": None,
        "between_tokens": None,
        "num_calls": 3,
        "num_failed": 0,
        "failure": None,
        "slices": [],
    }
    results = [
        {**figures, "concurrent": streams, "tokens_per_second": rate}
        for streams, rate in ((1, 100.0), (16, 1000.0))
    ]
    setup = {"model": "m", "engine": "vllm"}
    path.write_text(json.dumps({"begun": 0.0, "setup": setup, "results": results}))
    return path


def test_a_benchmark_says_how_fast_the_server_is(samples: Path, tmp_path: Path) -> None:
    bench = benchmark_report(tmp_path / "b.json")
    args = ("replay", str(samples), "--json", "--orders", "1", "--policy", "never@1")
    report = json.loads(ran(*args, "--benchmark", str(bench)))
    assert "b.json decode: 100 tokens/s x1, 1,000 tokens/s x16" in report["speed"]
    one = report["policies"][1]
    assert one["seconds"]["value"] == pytest.approx(one["tokens"]["value"] / 100, rel=0.01)
    assert "assumed speed" in json.loads(ran(*args))["speed"]
    words = said(*args, "--benchmark", str(bench), "--workload", "dance")
    assert "no workload 'dance'; it has decode" in words


def test_traces_take_golds_from_a_file_of_problems(tmp_path: Path) -> None:
    assert "golds for traces" in said("replay", str(write(tmp_path / "e.jsonl", [])))
    golds = tmp_path / "g.jsonl"
    golds.write_text('{"id": "x", "problem": "?", "answer": "1"}\n')
    traces = write(tmp_path / "s.jsonl", [row("p")])
    assert "never+count" in ran("replay", str(traces), "--gold", str(golds), "--orders", "1")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("replay", "none.jsonl"), "cannot read none.jsonl"),
        (("replay", "none.jsonl", "--orders", "0"), "--orders 0: must be 1"),
        (("replay", "none.jsonl", "--rollouts", "0"), "--rollouts 0: must be 1"),
        (("replay", "none.jsonl", "--margin", "-1"), "--margin -1.0: must be 0"),
        (("replay", "none.jsonl", "--grid", "--policy", "never"), "take one of them"),
        (("replay", "none.jsonl", "--plot", "a.txt"), "--plot a.txt: give a file with one of"),
        (("replay", "none.jsonl", "--plot", "no/a.png"), "no such folder"),
        (("replay", "none.jsonl", "--workload", "tir"), "needs --benchmark"),
        (("calibrate", "none.jsonl", "--folds", "1"), "--folds 1: must be 2"),
        (("calibrate", "none.jsonl", "--ridge", "0"), "--ridge 0.0: must be above 0"),
        (("calibrate", "none.jsonl", "-o", "no/c.json"), "--output no/c.json: no such folder"),
    ],
)
def test_wrong_input_is_named(
    args: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in said(*args)


def test_too_few_samples_are_said(tmp_path: Path) -> None:
    few = str(write(tmp_path / "s.jsonl", [row("p", "7"), row("p", "8")]))
    assert "needs 10 problems" in said("calibrate", few)
    assert "needs 10 problems" in said("replay", few, "--policy", "never+calibrated")
    assert "one half is empty" in said("replay", few, "--grid")
    assert "never+calibrated" not in ran("replay", few, "--orders", "1")
