"""`aimo2 benchmark` and `aimo2 serve`: flags, messages and exit codes; no model is started."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aimo2.benchmark.figures import Figures
from aimo2.benchmark.report import Report, Setup, load_report
from aimo2.benchmark.runner import Layout
from aimo2.cli import app, benchmark
from aimo2.errors import Aimo2Error, ServerError
from aimo2.serving import gpu
from aimo2.serving.gpu import Card


def said(*args: str) -> str:
    """The one line that a wrong call ends with."""
    result = CliRunner().invoke(app, list(args))
    assert isinstance(result.exception, Aimo2Error), result.output
    return str(result.exception)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--concurrent", "1,x"), "--concurrent 1,x: give whole numbers"),
        (("--concurrent", "0"), "--concurrent 0: give whole numbers"),
        (
            ("--workload", "dance"),
            "--workload dance: take of decode, tir, solver, plain, tree, independent",
        ),
        (("--requests", "3", "--duration", "9"), "both given"),
        (("--max-tokens", "-4"), "--max-tokens -4: give a number above 0"),
        (("--duration", "0"), "--duration 0.0: give a number above 0"),
        (("--vllm-flags", "--x 'y"), "--vllm-flags --x 'y: No closing quotation"),
        (("--resume",), "--resume needs --json"),
        (("--baseline", "none.json"), "cannot read none.json"),
        (("--routing", "load"), "--routing load needs two or more --base-url"),
        (("--layout", "auto", "--base-url", "http://h/v1"), "leave --base-url away"),
        (("--json", "/nonexistent/a.json"), "/nonexistent/a.json cannot be written"),
        (("--api-key-env", "NO_SUCH"), "--api-key-env needs --base-url"),
        (("--layout", "auto"), "--layout auto needs two or more GPUs"),
        (("--engine", "llama.cpp", "--model", "x/y"), "llama.cpp serves the models of"),
        (("--model", "smollm2-135m", "--preset", "fp8"), "need vLLM"),
    ],
)
def test_wrong_input_is_named_before_anything_starts(args: tuple[str, ...], words: str) -> None:
    assert words in said("benchmark", *args)


def test_a_server_that_others_can_reach_needs_a_key() -> None:
    assert "give a key with --api-key-env" in said("serve", "smollm2-135m", "--host", "0.0.0.0")
    assert "not set" in said("serve", "smollm2-135m", "--api-key-env", "NO_SUCH_VARIABLE")


def test_small_benchmarks_need_no_model(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    result = CliRunner().invoke(
        app, ["benchmark", "--what", "startup", "--trials", "1", "--json", str(out)]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())
    assert rows["import sympy"][0] > 0
    assert "warm" in result.output


def test_prompts_are_printed_as_vllm_s_benchmark_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def prompts(served: Any, number: int, seed: int, notify: Any) -> list[str]:
        return [f"{served.base_url} {seed} {index}\n" for index in range(number)]

    monkeypatch.setattr(benchmark, "decode_prompts", prompts)
    flags = ("--base-url", "http://h/v1", "--number", "2", "--seed", "7", "--max-tokens", "9")
    result = CliRunner().invoke(app, ["benchmark", "prompts", *flags])
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"prompt": "http://h/v1 7 0\n", "output_tokens": 9},
        {"prompt": "http://h/v1 7 1\n", "output_tokens": 9},
    ]
    assert "--number 0" in said("benchmark", "prompts", *flags, "--number", "0")


def test_compare_needs_two_reports(tmp_path: Path) -> None:
    bad = tmp_path / "a.json"
    bad.write_text("[]")
    assert "a.json is no report" in said("benchmark", "compare", str(bad), str(bad))


def figures(workload: str = "decode", num_failed: int = 0) -> Figures:
    return Figures(
        workload=workload,
        concurrent=1,
        max_tokens=512,
        seconds=10,
        num_tokens=1000,
        tokens_per_second=100,
        useful_share=1.0,
        per_stream=100,
        first_token=None,
        between_tokens=None,
        num_calls=9,
        num_failed=num_failed,
        failure="it burnt" if num_failed else None,
        slices=(100.0,) * 10,
    )


def report(*results: Figures, complete: bool = True) -> Report:
    setup = Setup(model="m", engine="vllm")
    return Report(begun=0, setup=setup, results=results, complete=complete)


Ending = BaseException | None


def measuring(
    monkeypatch: pytest.MonkeyPatch, ending: Ending, *reports: Report
) -> list[dict[str, Any]]:
    """`run_benchmark` hands these over and then ends so; what it was called with."""
    calls: list[dict[str, Any]] = []

    async def run_benchmark(*args: Any, **options: Any) -> None:
        calls.append(options | {"options": args[2]})
        for each in reports:
            args[-1](each)
        if ending is not None:
            raise ending

    monkeypatch.setattr(benchmark, "run_benchmark", run_benchmark)
    return calls


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["benchmark", *args])


def test_what_came_before_a_server_s_death_is_stored_as_incomplete_and_the_death_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = report(figures(), complete=False)
    measuring(monkeypatch, ServerError("it died"), part)
    result = invoke("--json", str(tmp_path / "a.json"))
    assert str(result.exception) == "it died"  # `main` ends with 2
    assert load_report(tmp_path / "a.json") == part
    assert "decode\t1\t100" in result.output
    assert "not complete: --resume" in result.output


def test_an_interruption_is_told_by_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import asyncio

    measuring(monkeypatch, asyncio.CancelledError(), report(figures(), complete=False))
    result = invoke("--json", str(tmp_path / "a.json"))
    assert result.exit_code == 130
    assert not load_report(tmp_path / "a.json").complete


def test_failed_requests_are_told_by_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, None, report(figures(num_failed=2)))
    result = invoke()
    assert result.exit_code == 1
    assert "decode x1 failed: it burnt" in result.output


def test_a_report_is_gone_on_with_only_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored = report(figures(), complete=False)
    file = tmp_path / "a.json"
    file.write_text(stored.model_dump_json())
    calls = measuring(monkeypatch, None, report(figures(), figures("tir")))
    assert invoke("--json", str(file), "--resume").exit_code == 0
    assert invoke("--json", str(file)).exit_code == 0
    assert [call["before"] for call in calls] == [stored, None]
    assert len(load_report(file).results) == 2


def test_efficiency_is_told_against_the_baseline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "raw.json"
    file.write_text(report(figures()).model_dump_json())
    measuring(monkeypatch, None, report(figures("tir")))
    output = invoke("--baseline", str(file)).output
    assert "efficiency of tir x1: 100 -> 100 tokens/s, ratio 1.000" in output
    file.write_text(report(figures("tir")).model_dump_json())
    assert "has no decode" in said("benchmark", "--baseline", str(file))


def test_vllm_s_flags_are_split_as_a_shell_does(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = measuring(monkeypatch, None, report(figures()))
    flag = '--speculative-config \'{"method": "ngram"}\''
    assert invoke("--vllm-flags", flag).exit_code == 0
    assert calls[0]["options"].extra == ("--speculative-config", '{"method": "ngram"}')


def with_cards(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    cards = tuple(Card(index, "A", 80_000, 80_000, (9, 0)) for index in range(number))
    monkeypatch.setattr(gpu, "cards", lambda: cards)


def comparing(monkeypatch: pytest.MonkeyPatch, *kept: tuple[Layout, Report]) -> None:
    async def compare_layouts(*args: Any, **options: Any) -> None:
        keep: Callable[[Layout, Report], None] = args[-1]
        for layout, measured in kept:
            keep(layout, measured)

    monkeypatch.setattr(benchmark, "compare_layouts", compare_layouts)


def test_layouts_need_a_model_of_vllm_s(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cards(monkeypatch, 4)
    assert "runs on llama.cpp: give another --model" in said("benchmark", "--layout", "auto")


def test_each_layout_has_its_files_and_failures_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_cards(monkeypatch, 2)
    comparing(
        monkeypatch,
        (Layout(2, 1), report(figures())),
        (Layout(1, 2), report(figures(num_failed=1))),
    )
    auto = ("--layout", "auto", "--model", "a/b")
    files = ("--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.svg"))
    result = invoke(*auto, *files)
    assert result.exit_code == 1
    assert "best for decode x1: 2 x tensor parallel 1" in result.output
    names = {"a-2x1.json", "a-1x2.json", "a-2x1.svg", "a-1x2.svg"}
    assert {path.name for path in tmp_path.iterdir()} == names
    comparing(monkeypatch)
    assert "no layout could be measured" in said("benchmark", *auto)
