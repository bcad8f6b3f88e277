"""`aimo2 benchmark`: tokens a second of a served model, and of what this project puts around it."""

import asyncio
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aimo2.benchmark.figures import Figures
from aimo2.benchmark.kernels import measure_sandbox
from aimo2.benchmark.load import Progress as LoadProgress
from aimo2.benchmark.report import (
    Report,
    compare,
    efficiencies,
    load_report,
    plain_lines,
    plot,
    table,
)
from aimo2.benchmark.runner import (
    Layout,
    Load,
    WorkloadName,
    best_layout,
    compare_layouts,
    decode_prompts,
    run_benchmark,
)
from aimo2.benchmark.startup import measure_startup
from aimo2.cli import errors
from aimo2.cli.models import ensure_model
from aimo2.cli.options import RoutingName, RoutingOption, server_config
from aimo2.cli.running import on_signals, run_async
from aimo2.errors import ConfigError, DiskFullError, ServerError
from aimo2.problems import read_problems
from aimo2.serving import gpu
from aimo2.serving.catalogue import DEFAULT_MODEL
from aimo2.serving.serve import ServeOptions, is_local_model
from aimo2.types import Problem

_LINE_SECONDS = 5.0

app = typer.Typer(
    help="Measure tokens a second of a served model.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class What(StrEnum):
    """What is measured."""

    MODEL = "model"
    SANDBOX = "sandbox"
    STARTUP = "startup"


class EngineChoice(StrEnum):
    """The engine of our own server."""

    AUTO = "auto"
    VLLM = "vllm"
    LLAMA_CPP = "llama.cpp"


class LayoutChoice(StrEnum):
    """Whether to find out how GPUs are best shared out."""

    GIVEN = "given"
    AUTO = "auto"


@app.callback()
def benchmark(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(help="A hub name, a folder, a name of `aimo2 models list`, a .gguf file."),
    ] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option(help="Measure this server instead of starting one; again for replicas."),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the environment variable with the API key.")
    ] = None,
    routing: RoutingOption = RoutingName.PREFIX,
    concurrent: Annotated[
        str, typer.Option(help="Streams at the same time; a list such as 1,16,100 sweeps.")
    ] = "1",
    oversubscribe: Annotated[
        bool,
        typer.Option("--oversubscribe", help="Let other rollouts stream while some run code."),
    ] = False,
    workload: Annotated[
        str, typer.Option(help=f"Of {', '.join(get_args(WorkloadName))}; a list measures each.")
    ] = "decode",
    max_tokens: Annotated[int, typer.Option(help="Tokens of a completion or rollout.")] = 512,
    cell_timeout: Annotated[
        float, typer.Option(help="Seconds of one code run of the workload tir.")
    ] = 5.0,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of each measurement (30 by default).")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="Measure so many problems instead of a duration.")
    ] = None,
    prompt_file: Annotated[
        str | None, typer.Option(help="Problems to ask: .jsonl, .csv, or -; else drawn ones.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.7,
    top_p: Annotated[
        float, typer.Option(help="Nucleus sampling; below 1 some servers sample more slowly.")
    ] = 1.0,
    logprobs: Annotated[bool, typer.Option(help="Ask for log-probabilities.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same prompts and requests.")] = 0,
    engine: Annotated[EngineChoice, typer.Option(help="Of our own server.")] = EngineChoice.AUTO,
    replicas: Annotated[int, typer.Option(help="Servers, each on GPUs of its own.")] = 1,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs a server.")] = 1,
    layout: Annotated[
        LayoutChoice,
        typer.Option(help="auto: measure replicas against tensor parallel on all GPUs."),
    ] = LayoutChoice.GIVEN,
    context_length: Annotated[
        int | None, typer.Option("--context", help="Tokens of context a stream has.")
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option(help="fp8, fp8-kv, awq, ngram, draft=MODEL; may repeat.")
    ] = None,
    vllm_flags: Annotated[str, typer.Option(help="Further flags for vLLM, in one string.")] = "",
    threads: Annotated[int | None, typer.Option(help="Threads of llama.cpp.")] = None,
    what: Annotated[What, typer.Option(help="The model, the sandbox, or start-up times.")] = (
        What.MODEL
    ),
    trials: Annotated[int, typer.Option(help="For --what sandbox and startup.")] = 50,
    as_json: Annotated[
        Path | None,
        typer.Option("--json", help="Write everything here, as it comes.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the file of --json, if it is there.")
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(help="A report of --json whose decode the efficiency is told against."),
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw it: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Measure tokens a second of a served model, at each concurrency, over real prompts."""
    if context.invoked_subcommand is not None:
        return
    if what is not What.MODEL:
        _small(what, trials, as_json)
        return
    if requests is not None and duration is not None:
        raise ConfigError("--requests and --duration were both given; give one of them")
    load = Load(
        workloads=_workloads(workload),
        concurrent=_numbers(concurrent),
        max_tokens=_positive("--max-tokens", max_tokens),
        requests=None if requests is None else _positive("--requests", requests),
        duration=30.0 if duration is None else _positive("--duration", duration),
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        oversubscribed=oversubscribe,
        routing=routing.value,
        cell_timeout=_positive("--cell-timeout", cell_timeout),
        logprobs=logprobs,
        problems=tuple(read_problems(prompt_file)) if prompt_file else (),
    )
    options = ServeOptions(
        engine=engine.value,
        replicas=_positive("--replicas", replicas),
        tensor_parallel=_positive("--tensor-parallel", tensor_parallel),
        context=context_length or max(2048, 2 * load.max_tokens + 1024),
        concurrency=max(load.concurrent),
        threads=threads,
        presets=tuple(preset or ()),
        extra=_split("--vllm-flags", vllm_flags),
    )
    _check_writable(as_json, plot_file)
    out = _Output(as_json, plot_file, _baseline(baseline), resume=resume)
    if resume and as_json is None:
        raise ConfigError("--resume needs --json: the file to go on with")
    chosen = model or DEFAULT_MODEL.name
    console = errors.stderr_console()

    def local_file(name: str) -> Path:
        return ensure_model(name, console)

    if layout is LayoutChoice.AUTO:
        if base_url:
            raise ConfigError("--layout auto starts servers of its own: leave --base-url away")
        num_cards = _num_cards(chosen, engine)
    spread = layout is LayoutChoice.AUTO or (not base_url and options.replicas > 1)
    routed = RoutingName.PREFIX if spread else routing  # of our own replicas, `load` tells it
    served = server_config(base_url, model, api_key_env, None, routed)
    try:
        with _Screen(console) as screen:
            if layout is LayoutChoice.AUTO:
                _interruptible(
                    lambda: compare_layouts(
                        chosen,
                        options,
                        load,
                        screen,
                        local_file,
                        num_cards,
                        out.keep_layout,
                        prompts=prompt_file or "drawn",
                        before=out.before,
                    )
                )
            else:
                _interruptible(
                    lambda: run_benchmark(
                        served,
                        chosen,
                        options,
                        load,
                        screen,
                        local_file,
                        out.keep,
                        prompts=prompt_file or "drawn",
                        before=out.before(None),
                    )
                )
    finally:
        out.show()
    if not out.reports:
        raise ServerError("no layout could be measured: the lines above say why")
    if out.failed:
        raise typer.Exit(errors.EXIT_UNANSWERED)


@app.command("compare")
def compare_command(
    before: Annotated[Path, typer.Argument(help="A report of --json.")],
    after: Annotated[Path, typer.Argument(help="Another.")],
) -> None:
    """Compare two reports: the ratio of useful tokens a second, with an interval."""
    for line in compare(load_report(before), load_report(after)):
        print(line)


@app.command("prompts")
def prompts_command(
    base_url: Annotated[str, typer.Option(help="The server whose chat template they are in.")],
    number: Annotated[int, typer.Option(help="So many.")] = 1000,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a completion.")] = 512,
    seed: Annotated[int, typer.Option(help="Other numbers for another seed.")] = 0,
    model: Annotated[str | None, typer.Option(help="The served model; the first one.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the environment variable with the API key.")
    ] = None,
) -> None:
    """Print the prompts of `decode` as JSON lines, for the same load by another program."""
    served = server_config([base_url], model, api_key_env, None)
    assert served is not None
    _positive("--number", number)
    _positive("--max-tokens", max_tokens)

    def notice(line: str) -> None:
        print(line, file=sys.stderr)

    for text in run_async(lambda: decode_prompts(served, number, seed, notice)):
        print(json.dumps({"prompt": text, "output_tokens": max_tokens}))


class _Screen:
    """A `Listener`: a bar with speed and end estimate on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: Any = None
        self._load: Load | None = None
        self._title = ""
        self._tokens = 0
        self._started = 0.0
        self._shown = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def notice(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def begun(self, workload: str, concurrent: int, load: Load) -> None:
        """Start a new bar."""
        self._load, self._title = load, f"{workload} x{concurrent}"
        self._tokens, self._started = 0, time.monotonic()
        self._shown = self._started
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(self._title, total=1.0, speed="")
        else:
            self.notice(f"{self._title}: measuring")

    def tokens(self, number: int, progress: LoadProgress) -> None:
        """Count; show at most four times a second, or a line each five seconds."""
        self._tokens += number
        now = time.monotonic()
        if now - self._shown < (0.25 if self._bar is not None else _LINE_SECONDS):
            return
        self._shown = now
        seconds = now - self._started
        done = self._share(seconds, progress)
        speed = f"{self._tokens / seconds:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, speed=speed)
        else:
            left = seconds / done - seconds if done > 0.02 else None
            eta = "" if left is None else f", about {max(0.0, left):.0f} s left"
            self.notice(f"{self._title}: {done:.0%}, {speed}{eta}")

    def _share(self, seconds: float, progress: LoadProgress) -> float:
        assert self._load is not None
        if self._load.requests is not None:
            return min(1.0, progress.num_done / self._load.requests)
        return min(1.0, seconds / (1.15 * self._load.duration))

    def ended(self, figures: Figures) -> None:
        """Say the main figure; the table comes at the end."""
        self.notice(f"{self._title}: {figures.tokens_per_second:,.0f} tokens/s")


def _interruptible(work: Callable[[], Any]) -> Any:
    """Run on uvloop; the first Ctrl-C or SIGTERM cancels, and what was finished is kept."""

    async def main() -> Any:
        task = asyncio.current_task()
        assert task is not None
        on_signals(task.cancel)
        return await work()

    try:
        return run_async(main)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _num_cards(model: str, engine: EngineChoice) -> int:
    """GPUs to share out. Raises `ConfigError` where there is nothing to compare."""
    found = len(gpu.cards())
    if found < 2:
        raise ConfigError(
            f"--layout auto needs two or more GPUs, and {found} "
            f"{'is' if found == 1 else 'are'} here: measure one with --replicas 1"
        )
    if engine is EngineChoice.LLAMA_CPP or (engine is EngineChoice.AUTO and is_local_model(model)):
        raise ConfigError(
            f"--layout auto shares out GPUs among vLLM servers, and {model} runs on llama.cpp: "
            "give another --model, a hub name or a folder"
        )
    return found


@dataclass(slots=True)
class _Output:
    """What becomes of the reports: to files as they come, to the terminal at the end.

    A report stands under its layout, or under `None` where only one is measured.
    """

    json: Path | None
    plot: Path | None
    baseline: Report | None
    resume: bool
    reports: dict[Layout | None, Report] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether any request did."""
        return any(each.num_failed for report in self.reports.values() for each in report.results)

    def keep(self, report: Report) -> None:
        """The report so far."""
        self._keep(None, report)

    def keep_layout(self, layout: Layout, report: Report) -> None:
        """A layout's report so far."""
        self._keep(layout, report)

    def _keep(self, layout: Layout | None, report: Report) -> None:
        self.reports[layout] = report
        if self.json is not None:
            _write(_of_layout(self.json, layout), report.model_dump_json(indent=1))

    def before(self, layout: Layout | None) -> Report | None:
        """What there is already to go on with. Raises `InputError` for a file that is no report."""
        if self.json is None or not self.resume:
            return None
        path = _of_layout(self.json, layout)
        return load_report(path) if path.exists() else None

    def show(self) -> None:
        """Print everything, and draw it."""
        for layout, report in self.reports.items():
            if layout is not None:
                print(f"{layout}:")
            _show(report, self.baseline)
            if self.plot is not None:
                plot(report, _of_layout(self.plot, layout))
        measured = {each: report for each, report in self.reports.items() if each is not None}
        for (workload, streams), layout in best_layout(measured).items():
            print(f"best for {workload} x{streams}: {layout}")


def _of_layout(path: Path, layout: Layout | None) -> Path:
    """`a.json` of 4 replicas over 2 cards each is `a-4x2.json`."""
    if layout is None:
        return path
    return path.with_name(f"{path.stem}-{layout.replicas}x{layout.tensor_parallel}{path.suffix}")


def _show(report: Report, baseline: Report | None) -> None:
    console = Console()
    setup = report.setup
    where = ", ".join(setup.gpus) or f"{setup.cores} cores ({setup.cpu})"
    print(f"{setup.model} on {setup.engine}, {where}")
    if console.is_terminal:
        console.print(table(report.results))
    else:
        print("\n".join(plain_lines(report.results)))
    for line in efficiencies(report, baseline):
        print(line)
    for figures in report.results:
        if figures.num_failed:
            print(f"{figures.workload} x{figures.concurrent} failed: {figures.failure}")
    if not report.complete:
        print("not complete: --resume with the same --json measures what is missing")


def _small(what: What, trials: int, as_json: Path | None) -> None:
    """The benchmarks without a model."""
    trials = _positive("--trials", trials)
    if what is What.SANDBOX:
        rows = asyncio.run(measure_sandbox(trials, 64))
    else:
        rows = measure_startup(max(1, min(trials, 5)))
    shown = Table("", "median", "90th percentile", "trials", box=None)
    for name, values in rows.items():
        shown.add_row(name, *_summary(name, values), str(len(values)))
    Console().print(shown)
    if as_json is not None:
        import orjson

        _write(as_json, orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())


def _summary(name: str, values: Sequence[float]) -> tuple[str, str]:
    if not values:
        return "failed", "–"
    scale, unit = (1.0, "") if "(MiB)" in name or "a second" in name else (1000.0, " ms")
    middle = f"{statistics.median(values) * scale:,.2f}{unit}"
    if len(values) < 10:
        return middle, "–"
    return middle, f"{statistics.quantiles(values, n=10)[-1] * scale:,.2f}{unit}"


def _write(path: Path, text: str) -> None:
    """At once or not at all: what was there before survives a kill."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text + "\n")
        beside.replace(path)
    except OSError as error:
        raise DiskFullError(f"cannot write {path}: {error.strerror}; give another file") from error


def _check_writable(*paths: Path | None) -> None:
    """Before minutes of work: a folder that is missing is noticed now."""
    for path in paths:
        if path is not None and not os.access(path.absolute().parent, os.W_OK):
            raise ConfigError(f"{path} cannot be written: make its folder, or give another file")


def _baseline(path: Path | None) -> Report | None:
    """The report of --baseline. Raises `InputError` for another file, `ConfigError` for others."""
    if path is None:
        return None
    report = load_report(path)
    if all(each.workload != "decode" for each in report.results):
        raise ConfigError(f"--baseline {path} has no decode: measure --workload decode first")
    return report


def _split(flag: str, text: str) -> tuple[str, ...]:
    """As a shell does, so that JSON and blanks can be quoted."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"{flag} {text}: {error}; close the quotes") from error


def _workloads(text: str) -> tuple[WorkloadName, ...]:
    known = get_args(WorkloadName)
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"--workload {name}: take of {', '.join(known)}")
    if not names:
        raise ConfigError(f"--workload is empty: take of {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--concurrent {text}: give whole numbers from 1 on, such as 1,16,100")
    return tuple(int(part) for part in parts)


def _positive(flag: str, number: Any) -> Any:
    if number <= 0:
        raise ConfigError(f"{flag} {number}: give a number above 0")
    return number


def main() -> None:
    """`python -m aimo2.benchmark`; ends the process with the documented exit code."""
    errors.run_command(app, "aimo2 benchmark")


__all__: Sequence[str] = ("Problem", "app", "main")
