"""`aimo2 sandbox`: run a file or type cells in a kernel, as a model's code would run."""

import asyncio
import codeop
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aimo2.cli import errors
from aimo2.config import KernelConfig
from aimo2.deadline import NEVER
from aimo2.errors import InputError
from aimo2.sandbox import CellResult
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.sandbox.kernel import ForkKernel
from aimo2.sandbox.report import LayerReport
from aimo2.serving.machine import usable_cores

app = typer.Typer(
    help="Try code in the sandbox that a model's code runs in.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Level(StrEnum):
    """What the sandbox must be able to close off."""

    AUTO = "auto"
    STRICT = "strict"


Timeout = Annotated[float, typer.Option(help="Seconds a cell may take.", min=0.01)]
Memory = Annotated[int, typer.Option(help="MiB of memory the kernel may use.", min=64)]
Strict = Annotated[
    Level, typer.Option("--sandbox", help="strict: refuse where network or files stay open.")
]

Preload = Annotated[
    str | None, typer.Option(help="Modules to import beforehand, such as numpy,sympy.")
]

_HELP = """A cell is run when it is complete; a block ends with an empty line.
%fork   go on in a second kernel with the same variables; %back returns to the first
%layers what isolates the kernel; %quit or Ctrl-D ends. Ctrl-C interrupts a cell."""


@app.command("run")
def run_file(
    source: Annotated[str, typer.Argument(metavar="FILE|-", help="Python code to run.")],
    timeout: Timeout = 10.0,
    memory: Memory = 2048,
    level: Strict = Level.AUTO,
    preload: Preload = None,
) -> None:
    """Run a file, or standard input, as one cell.

    Its output goes to standard output and an error to standard error. Exit code: 0 where the
    cell succeeded, 1 where it failed, 2 bad input or set-up.
    """
    code = _read(source)
    config = _config(timeout, memory, preload).model_copy(update={"output_bytes": 1 << 20})
    result = asyncio.run(_run_one(code, config, level))
    _show(result)
    raise typer.Exit(1 if result.error else 0)


def _config(timeout: float, memory: int, preload: str | None) -> KernelConfig:
    names = None if preload is None else tuple(filter(None, preload.replace(" ", "").split(",")))
    return KernelConfig(cell_timeout=timeout, memory_mib=memory, preload=names)


def _read(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return data.decode()
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text; save it as UTF-8") from error


async def _run_one(code: str, config: KernelConfig, level: Level) -> CellResult:
    async with ForkSandbox(config, level=level.value, concurrency=usable_cores()) as sandbox:
        _introduce(await sandbox.report())
        kernel = await sandbox.create()
        return await kernel.run(code, timeout=config.cell_timeout, deadline=NEVER)


def _introduce(report: LayerReport) -> None:
    """Say what is not as one may expect."""
    missing = f"not installed: {', '.join(report.missing)}" if report.missing else None
    for line in (report.warning, missing):
        if line is not None:
            errors.stderr_console().print(line, style="yellow", markup=False, highlight=False)


def _show(result: CellResult) -> None:
    sys.stdout.write(result.output)
    if result.output and not result.output.endswith("\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()
    if result.traceback:
        print(result.traceback.rstrip("\n"), file=sys.stderr)
    if result.bytes_dropped:
        print(f"({result.bytes_dropped} bytes of output dropped)", file=sys.stderr)
    if result.state_lost:
        print("(the kernel's variables are gone)", file=sys.stderr)


@app.command("repl")
def repl(
    timeout: Timeout = 10.0,
    memory: Memory = 2048,
    level: Strict = Level.AUTO,
    preload: Preload = None,
) -> None:
    """Type cells; the kernel keeps its variables, and `%fork` splits it in two."""
    config = _config(timeout, memory, preload)
    asyncio.run(_Repl(config, level).run())


class _Repl:
    """A stack of kernels, the last one in use."""

    def __init__(self, config: KernelConfig, level: Level) -> None:
        self._config = config
        self._level = level
        self._kernels: list[ForkKernel] = []
        self._cell: asyncio.Task[CellResult] | None = None
        self._sandbox = ForkSandbox(config, level=level.value, concurrency=usable_cores())

    async def run(self) -> None:
        async with self._sandbox:
            _introduce(await self._sandbox.report())
            self._kernels.append(await self._sandbox.create())
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)
            print(_HELP, file=sys.stderr)
            while (code := await self._next()) is not None:
                await self._act(code)

    def _interrupt(self) -> None:
        if self._cell is not None:
            self._cell.cancel()

    async def _next(self) -> str | None:
        """The next complete cell or command; `None` at the end of the input."""
        lines: list[str] = []
        while True:
            prompt = "... " if lines else f"[{len(self._kernels)}] "
            line = await asyncio.to_thread(_ask, prompt)
            if line is None:
                return "\n".join(lines) if lines else None
            lines.append(line)
            if not lines[0].strip():
                lines.clear()
            elif lines[0].startswith("%") or _complete("\n".join(lines)):
                return "\n".join(lines)

    async def _act(self, code: str) -> None:
        match code.strip():
            case "%quit":
                raise typer.Exit
            case "%help":
                print(_HELP, file=sys.stderr)
            case "%layers":
                for name, reason in (await self._sandbox.report()).layers.items():
                    print(f"{name}: {reason or 'on'}", file=sys.stderr)
            case "%fork":
                self._kernels.append(await self._kernels[-1].fork())
            case "%back" if len(self._kernels) > 1:
                await self._kernels.pop().close()
            case "%back":
                print("this is the first kernel", file=sys.stderr)
            case _:
                await self._run_cell(code)

    async def _run_cell(self, code: str) -> None:
        kernel = self._kernels[-1]
        self._cell = asyncio.create_task(
            kernel.run(code, timeout=self._config.cell_timeout, deadline=NEVER)
        )
        try:
            _show(await self._cell)
        except asyncio.CancelledError:
            print("interrupted", file=sys.stderr)
        finally:
            self._cell = None


def _ask(prompt: str) -> str | None:
    """One line, or `None` at the end. The prompt shows on a terminal only."""
    if sys.stdin.isatty():
        print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _complete(code: str) -> bool:
    """Whether Python would run this now: as in its own prompt, a block waits for an empty line."""
    try:
        return codeop.compile_command(code, "<cell>", "single") is not None
    except (SyntaxError, ValueError, OverflowError):
        return True  # The kernel says what is wrong with it.
