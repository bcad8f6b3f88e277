"""Kernels that are forks of a warm parent, from the side of the asyncio process.

The process that runs the event loop never forks. It starts a zygote (`guest/zygote.py`), which
imports the mathematics once and forks a kernel in milliseconds. Knows no models and no prompts.

    async with ForkSandbox() as sandbox:
        kernel = await sandbox.create()
        result = await kernel.run("2 + 2", timeout=10)
"""

import asyncio
import contextlib
import os
import random
from collections.abc import Sequence
from typing import Final, Literal

from aimo2.config import KernelConfig
from aimo2.errors import SandboxError, SetupError
from aimo2.sandbox.kernel import ForkKernel
from aimo2.sandbox.link import Link
from aimo2.sandbox.parent import ZygoteLost, ZygoteProcess, interpreter_paths
from aimo2.sandbox.report import LAYERS, PRELOAD, LayerReport

__all__ = ["ForkSandbox", "Level", "probe"]

Level = Literal["auto", "strict"]
"""`auto` uses the layers that the machine has; `strict` refuses to run where an attack from
inside reaches the network, or reads or writes files outside the installation."""

_START_SECONDS: Final = 30.0
_PATROL_SECONDS: Final = 1.0
_MAX_DIGITS: Final = 300_000
"""Digits of the largest integer turned into text: about a second, and nothing can interrupt it."""
_SCRATCH_BYTES: Final = 32 * 1024 * 1024
_FLOOD_FACTOR: Final = 16
_LEAST_FLOOD: Final = 1024 * 1024


class ForkSandbox:
    """Makes kernels by fork. Leaving it ends every process that it started.

    `config`: limits of kernels and cells. `level`: see `Level`. `concurrency`: cells that run at
    the same time; others wait in line, and their time-out starts with their turn; `None` is the
    number of cores. `checkpoints`: keep a fork of each kernel from before its cell, and go on
    from there where the cell kills it. `zygotes`: warm parents; more than one helps only where
    kernels are made by the hundred. `preload`: modules imported once; `None` takes the
    configuration's. `seed`: makes kernels' random states repeatable. `layers`: the
    layers to try, of `LAYERS`.
    """

    def __init__(
        self,
        config: KernelConfig | None = None,
        *,
        level: Level = "auto",
        concurrency: int | None = None,
        checkpoints: bool = True,
        zygotes: int = 1,
        preload: Sequence[str] | None = None,
        seed: int | None = None,
        layers: Sequence[str] = LAYERS,
    ) -> None:
        if zygotes < 1 or (concurrency is not None and concurrency < 1):
            raise ValueError(f"at least one of each, not {zygotes=} and {concurrency=}")
        unknown = set(layers) - set(LAYERS)
        if unknown:
            raise ValueError(f"layers are {LAYERS}, not {sorted(unknown)}")
        self.config = config or KernelConfig()
        self.checkpoints = checkpoints
        self.turns = asyncio.Semaphore(concurrency or _usable_cores())
        """Held by a running cell; first come, first served."""
        self._level = level
        self._wanted = zygotes
        wanted = self.config.preload if preload is None else preload
        self._preload = PRELOAD if wanted is None else tuple(wanted)
        self._layers = tuple(layers)
        self._seeds = random.Random(seed)
        self._zygotes: list[ZygoteProcess] = []
        self._kernels: set[ForkKernel] = set()
        self._patrol: asyncio.Task[None] | None = None
        self._made = 0
        self._proven = False
        """Whether a zygote has started here."""
        self._open = False

    async def __aenter__(self) -> "ForkSandbox":
        """Start the zygotes; they warm up while the caller does something else."""
        if not hasattr(os, "fork"):
            raise SetupError("the sandbox needs a system with fork: Linux, macOS or WSL")
        self._open = True
        self._zygotes = [self._start_zygote() for _ in range(self._wanted)]
        self._patrol = asyncio.create_task(self._walk())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open = False
        if self._patrol is not None:
            self._patrol.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._patrol
        try:
            for kernel in tuple(self._kernels):
                await kernel.close()
            for zygote in self._zygotes:
                await zygote.close()
        finally:
            for zygote in self._zygotes:
                zygote.kill()

    async def report(self) -> LayerReport:
        """What isolates the kernels here. Raises `SetupError` where no zygote starts."""
        return await self._report_of(self._zygote())

    async def _report_of(self, zygote: ZygoteProcess) -> LayerReport:
        report = LayerReport.from_frame(await zygote.ready())
        if self._level == "strict" and not (report.network_closed and report.files_closed):
            raise SetupError(f"{report.warning}; run without the strict level to accept that")
        return report

    async def create(self) -> ForkKernel:
        """A fresh kernel.

        Raises `SandboxError`, and `SetupError` where no zygote starts or the strict level cannot
        be had.
        """
        kernel = ForkKernel(self, *await self.new_link())
        self._kernels.add(kernel)
        return kernel

    def _start_zygote(self) -> ZygoteProcess:
        plan = {
            "preload": self._preload,
            "memory": self.config.memory_mib * 1024 * 1024,
            "flood": max(_LEAST_FLOOD, _FLOOD_FACTOR * self.config.output_bytes),
            "digits": _MAX_DIGITS,
            "scratch": _SCRATCH_BYTES,
            "layers": self._layers,
        }
        try:
            return ZygoteProcess(plan, interpreter_paths())
        except OSError as error:
            raise SetupError(f"the sandbox did not start: {error.strerror}") from error

    def _zygote(self) -> ZygoteProcess:
        """The next zygote in turn; a dead one is replaced."""
        if not self._open:
            raise SandboxError("the sandbox is not open: use it with `async with`")
        self._made += 1
        index = self._made % len(self._zygotes)
        if self._zygotes[index].lost:
            self._zygotes[index].kill()
            self._zygotes[index] = self._start_zygote()
        return self._zygotes[index]

    async def new_link(self) -> tuple[Link, ZygoteProcess]:
        """A process for a kernel. One zygote may die under us; two in a row are an error.

        A failed start is `SetupError` as long as none has succeeded; later it is the machine's
        trouble of the moment, which costs a rollout and not the run.
        """
        proven = self._proven
        try:
            return await self._new_link(self._zygote())
        except (ZygoteLost, SetupError) as error:
            if isinstance(error, SetupError) and not proven:
                raise
        try:
            return await self._new_link(self._zygote())
        except SetupError as error:
            raise SandboxError(f"no new kernel: {error}") from error

    async def _new_link(self, zygote: ZygoteProcess) -> tuple[Link, ZygoteProcess]:
        await self._report_of(zygote)
        self._proven = True
        link = self.open_link()
        try:
            async with asyncio.timeout(_START_SECONDS):
                family = await zygote.spawn(link.ends, self._seeds.getrandbits(64))
                link.close_ends()
                zygote.enlist(link, family)
                await link.greeted()
        except TimeoutError as error:
            link.dispose()
            raise SandboxError(f"no new kernel within {_START_SECONDS:.0f} s") from error
        except BaseException:
            link.dispose()
            raise
        return link, zygote

    def open_link(self) -> Link:
        """The host's end of a kernel that is still to be made."""
        return Link(self.config.output_bytes)

    def adopt(self, kernel: ForkKernel) -> None:
        """Take over a kernel that was forked."""
        if not self._open:
            raise SandboxError("the sandbox is closed")
        self._kernels.add(kernel)

    def forget(self, kernel: ForkKernel) -> None:
        """A kernel was closed."""
        self._kernels.discard(kernel)

    async def _walk(self) -> None:
        """See to it that idle kernels are idle, and that there is nobody else."""
        while True:
            await asyncio.sleep(_PATROL_SECONDS)
            for kernel in tuple(self._kernels):
                kernel.patrol()
                await asyncio.sleep(0)
            for zygote in tuple(self._zygotes):
                await zygote.patrol()


async def probe(layers: Sequence[str] = LAYERS) -> LayerReport:
    """What would isolate kernels on this machine. Raises `SetupError`."""
    async with ForkSandbox(layers=layers) as sandbox:
        return await sandbox.report()


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
