"""Serve a model on this machine: choose the engine, place its replicas, start and stop them.

Knows no requests. vLLM where there is a GPU, llama.cpp for the models of the catalogue.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aimo2.config import LocalServerConfig
from aimo2.errors import ConfigError, InputError
from aimo2.serving import gpu, machine, vllm
from aimo2.serving.catalogue import CATALOGUE, DEFAULT_MODEL
from aimo2.serving.gpu import Card
from aimo2.serving.hub import check_model
from aimo2.serving.llama_cpp import LlamaServer, ServerEvent
from aimo2.serving.store import default_home

EngineName = Literal["vllm", "llama.cpp"]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a model is served.

    `context`: tokens of prompt and reply together, a stream. `concurrency`: streams expected of
    all replicas together. `port`: of the first replica, the next ones follow; `None` takes free
    ones. `extra`: vLLM's own flags. `api_key`: what clients must send; `None`: vLLM asks for none,
    llama.cpp for one that is drawn; empty: none.
    """

    engine: Literal["auto", "vllm", "llama.cpp"] = "auto"
    replicas: int = 1
    tensor_parallel: int = 1
    context: int = 4096
    concurrency: int = 1
    host: str = "127.0.0.1"
    port: int | None = None
    threads: int | None = None
    presets: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """What is being served.

    `endpoints()`: (base URL, key) of each replica now; a restart may move one. `failures()`: why
    replicas are gone for good, one line each. `slots`: streams that the engine takes at once.
    """

    engine: EngineName
    servers: tuple[LlamaServer, ...]
    slots: int

    def endpoints(self) -> tuple[tuple[str, str | None], ...]:
        """Of every replica, dead ones included."""
        return tuple(server.endpoint() for server in self.servers)

    def failures(self) -> tuple[str, ...]:
        """Empty while all is well."""
        return tuple(server.failure for server in self.servers if server.failure is not None)


def is_local_model(model: str) -> bool:
    """Whether llama.cpp serves it: a name of the catalogue, or a `.gguf` file."""
    return model.endswith(".gguf") or any(model == entry.name for entry in CATALOGUE)


def choose_engine(model: str, options: ServeOptions, cards: Sequence[Card]) -> EngineName:
    """The engine for a model on this machine.

    Raises `ConfigError` that says what is missing and the nearest command that works.
    """
    if options.engine == "llama.cpp" or (options.engine == "auto" and is_local_model(model)):
        if not is_local_model(model):
            raise ConfigError(
                f"llama.cpp serves the models of `aimo2 models list` and .gguf files, not {model}"
            )
        return "llama.cpp"
    missing = []
    if not cards:
        missing.append("no NVIDIA GPU is seen here")
    if not vllm.is_installed():
        missing.append(
            "vLLM is not installed (pip install vllm, or name its Python in "
            f"{vllm.PYTHON_VARIABLE})"
        )
    try:
        check_model(model)
    except ConfigError as error:
        missing.append(str(error))
    if missing:
        raise ConfigError(
            f"{model} needs vLLM: {'; '.join(missing)}. What works here: --model "
            f"{DEFAULT_MODEL.name}, or --base-url of a server"
        )
    return "vllm"


def place(options: ServeOptions, cards: Sequence[Card]) -> list[tuple[Card, ...]]:
    """The cards of each replica, none twice; without cards, nothing is said of them.

    Over several machines (`--distributed-executor-backend ray`) one replica takes what vLLM's own
    Ray finds. Raises `ConfigError` where there are too few cards.
    """
    width, number = options.tensor_parallel, options.replicas
    spread = any("distributed-executor-backend" in flag for flag in options.extra)
    if not cards or (spread and number == 1):
        return [()] * number
    if number * width > len(cards):
        raise ConfigError(
            f"--replicas {number} with --tensor-parallel {width} needs {number * width} GPUs and "
            f"{len(cards)} are here: take fewer, or a Ray cluster with "
            "`-- --distributed-executor-backend ray`"
        )
    if number == 1 and width == 1:
        return [tuple(cards[:1])]
    return [tuple(cards[index * width : (index + 1) * width]) for index in range(number)]


@asynccontextmanager
async def serve(
    model: str,
    options: ServeOptions,
    notify: Callable[[str], None],
    local_file: Callable[[str], Path],
) -> AsyncGenerator[Running, None]:
    """Start the replicas side by side, and end them again.

    `local_file` gives the file of a catalogue's model, fetching it where needed. `notify` hears
    one line for a person now and then. Raises `ConfigError`, `SetupError` or `InputError`.
    """
    if options.replicas < 1 or options.tensor_parallel < 1:
        raise ConfigError("--replicas and --tensor-parallel must be 1 or more")
    if is_local_model(model) and options.engine != "vllm":
        cards: tuple[Card, ...] = ()
    else:
        cards = await asyncio.to_thread(gpu.cards)
    engine = await asyncio.to_thread(choose_engine, model, options, cards)
    make = _vllm_servers if engine == "vllm" else _llama_servers
    servers, slots = make(model, options, cards, notify, local_file)
    async with AsyncExitStack() as stack:
        await _start_all(servers, stack)
        yield Running(engine, tuple(servers), slots)


async def _start_all(servers: Sequence[LlamaServer], stack: AsyncExitStack) -> None:
    """Each is stopped whatever becomes of the others; the first failure is the one that is told."""
    for server in servers:
        stack.push_async_callback(server.stop)
    tasks = [asyncio.create_task(server.start()) for server in servers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(tasks)


def _vllm_servers(
    model: str,
    options: ServeOptions,
    cards: Sequence[Card],
    notify: Callable[[str], None],
    local_file: Callable[[str], Path],
) -> tuple[list[LlamaServer], int]:
    groups = place(options, cards)
    each = -(-options.concurrency // options.replicas)
    servers: list[LlamaServer] = [
        vllm.VllmServer(
            vllm.VllmConfig(
                model=model,
                context=options.context,
                concurrency=each,
                devices=tuple(card.index for card in group),
                tensor_parallel=options.tensor_parallel,
                presets=options.presets,
                extra=options.extra,
                host=options.host,
                port=options.port + index if options.port else 0,
                api_key=options.api_key,
            ),
            group,
            on_event=_Teller(notify, index if len(groups) > 1 else None),
            log_dir=default_home() / "logs",
        )
        for index, group in enumerate(groups)
    ]
    return servers, max(256, each) * len(groups)


def _llama_servers(
    model: str,
    options: ServeOptions,
    cards: Sequence[Card],
    notify: Callable[[str], None],
    local_file: Callable[[str], Path],
) -> tuple[list[LlamaServer], int]:
    if options.tensor_parallel > 1 or options.presets or options.extra:
        raise ConfigError("--tensor-parallel, --preset and vLLM's own flags need vLLM")
    if options.host != "127.0.0.1":
        raise ConfigError(f"--host {options.host}: llama.cpp is served on 127.0.0.1 only")
    try:
        path = local_file(model)
    except InputError as error:
        raise ConfigError(str(error)) from error
    cores = options.threads or machine.usable_cores()
    threads = max(1, cores // options.replicas)
    slots = max(1, min(options.concurrency // options.replicas, 2 * cores))
    servers = [
        LlamaServer(
            LocalServerConfig(
                model_path=path,
                concurrency=slots,
                context=options.context,
                threads=threads,
            ),
            on_event=_Teller(notify, index if options.replicas > 1 else None),
            log_dir=default_home() / "logs",
            port=options.port + index if options.port else 0,
            api_key=options.api_key,
        )
        for index in range(options.replicas)
    ]
    return servers, slots * options.replicas


class _Teller:
    """Tells a person what a server does, each thing once."""

    def __init__(self, notify: Callable[[str], None], index: int | None) -> None:
        self._notify = notify
        self._name = "" if index is None else f"replica {index}: "
        self._loading = False

    def __call__(self, event: ServerEvent) -> None:
        if event.kind == "loading":
            if not self._loading:
                self._notify(self._name + event.message)
            self._loading = True
            return
        self._loading = False
        took = f" (ready after {event.seconds:.1f} s)" if event.kind == "ready" else ""
        self._notify(self._name + event.message + took)
        if event.log_end:
            self._notify(f"end of the server's log:\n{event.log_end}")
