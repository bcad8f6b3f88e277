"""Serve a model on this machine: choose the engine, place its replicas, start and stop them.

Knows no requests. vLLM where there is a GPU, llama.cpp for the models of the catalogue.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from aimo2.config import LocalServerConfig
from aimo2.errors import ConfigError, InputError
from aimo2.serving import gpu, llama_cpp, machine, vllm
from aimo2.serving.catalogue import CATALOGUE, DEFAULT_MODEL
from aimo2.serving.gpu import Card
from aimo2.serving.hub import Source, check_model, find_source, model_config
from aimo2.serving.llama_cpp import LlamaServer, ServerEvent
from aimo2.serving.store import default_home

EngineName = Literal["vllm", "llama.cpp"]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a model is served.

    `context`: tokens of prompt and reply together, a stream. `concurrency`: streams expected of
    all replicas together. `port`: of the first replica, the next ones follow; `None` takes free
    ones. `extra`: vLLM's own flags. `api_key`: what clients must send; `None`: vLLM asks for none,
    llama.cpp for one that is drawn; empty: none. `start_timeout`: seconds; `None` is the engine's.
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
    start_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """What is being served.

    `endpoints()`: (base URL, key) of each replica now; a restart may move one. `failures()`: why
    replicas are gone for good, one line each. `slots`: streams that the engine takes at once.
    `cards`: the GPUs that it runs on, where it does and they were chosen here.
    """

    engine: EngineName
    servers: tuple[LlamaServer, ...]
    slots: int
    cards: tuple[Card, ...] = ()

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
    """The cards of each replica: those with the most free memory, neighbours together.

    None twice while there are enough; replicas of one card each share them where there are not.
    Without cards nothing is said of them. Over several machines
    (`--distributed-executor-backend ray`) one replica takes what vLLM's own Ray finds. Raises
    `ConfigError` where there are too few cards.
    """
    width, number = vllm.num_cards(options.tensor_parallel, options.extra), options.replicas
    spread = any("distributed-executor-backend" in flag for flag in options.extra)
    if not cards or (spread and number == 1):
        return [()] * number
    if width > 1 and number * width > len(cards):
        raise ConfigError(
            f"--replicas {number} over {width} GPUs each needs {number * width} GPUs and "
            f"{len(cards)} are here: take fewer, or a Ray cluster with "
            "`-- --distributed-executor-backend ray`"
        )
    freest = sorted(range(len(cards)), key=lambda index: -_freedom(cards[index]))
    chosen = [cards[index] for index in sorted(freest[: number * width])]
    groups = [tuple(chosen[at : at + width]) for at in range(0, len(chosen), width)]
    return [groups[index % len(groups)] for index in range(number)]


def _freedom(card: Card) -> int:
    """How free a card's memory is, in twentieths: idle cards differ by less."""
    return round(20 * card.free_mib / card.total_mib) if card.total_mib else 20


@dataclass(frozen=True, slots=True)
class _Fleet:
    """Servers to be started. `slots`, `cards`: as in `Running`. `at_once`: that may start side by
    side.
    """

    servers: Sequence[LlamaServer]
    slots: int
    at_once: int
    cards: tuple[Card, ...] = ()


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
    if engine == "vllm":
        source = await asyncio.to_thread(find_source, model)
        made_for = vllm.longest_context(await asyncio.to_thread(model_config, source))
        if made_for is not None and options.context > made_for:
            notify(f"--context {options.context}: {source.name} was made for {made_for} tokens")
            options = replace(options, context=made_for)
        fleet = _vllm_servers(source, options, cards, notify)
    else:
        fleet = _llama_servers(model, options, notify, local_file)
    async with AsyncExitStack() as stack:
        await _start_all(fleet, stack)
        yield Running(engine, tuple(fleet.servers), fleet.slots, fleet.cards)


async def _start_all(fleet: _Fleet, stack: AsyncExitStack) -> None:
    """Each is stopped whatever becomes of the others; the first failure is the one that is told."""
    stack.push_async_callback(_stop_all, fleet.servers)
    for begin in range(0, len(fleet.servers), fleet.at_once):
        servers = fleet.servers[begin : begin + fleet.at_once]
        tasks = [asyncio.create_task(server.start()) for server in servers]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(tasks)


async def _stop_all(servers: Sequence[LlamaServer]) -> None:
    """Side by side: a server may take seconds to end."""
    ends = await asyncio.gather(*(server.stop() for server in servers), return_exceptions=True)
    for error in ends:
        if error is not None:
            raise error


def _vllm_servers(
    source: Source, options: ServeOptions, cards: Sequence[Card], notify: Callable[[str], None]
) -> _Fleet:
    groups = place(options, cards)
    apart = len(set(groups))
    sharing = -(-len(groups) // apart) if any(groups) else 1
    if sharing > 1:
        notify(
            f"{len(groups)} replicas share {apart} GPU{'s' if apart > 1 else ''}: each takes "
            f"1/{sharing} of the memory, and those of one GPU start one after the other"
        )
    each = -(-options.concurrency // options.replicas)
    configs = [
        vllm.VllmConfig(
            model=source.path,
            name=source.name,
            revision=source.revision,
            context=options.context,
            concurrency=each,
            devices=tuple(card.handle for card in group),
            sharing=sharing,
            tensor_parallel=options.tensor_parallel,
            presets=options.presets,
            extra=options.extra,
            host=options.host,
            port=options.port + index if options.port else 0,
            api_key=options.api_key,
        )
        for index, group in enumerate(groups)
    ]
    servers = [
        vllm.VllmServer(
            config,
            group,
            on_event=_Teller(notify, index if len(groups) > 1 else None),
            log_dir=default_home() / "logs",
            start_timeout=options.start_timeout or vllm.START_SECONDS,
        )
        for index, (config, group) in enumerate(zip(configs, groups, strict=True))
    ]
    slots = sum(map(vllm.num_sequences, configs, groups))
    used = tuple(dict.fromkeys(card for group in groups for card in group))
    return _Fleet(servers, slots, len(groups) if sharing == 1 else apart, used)


def _llama_servers(
    model: str,
    options: ServeOptions,
    notify: Callable[[str], None],
    local_file: Callable[[str], Path],
) -> _Fleet:
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
            start_timeout=options.start_timeout or llama_cpp.START_SECONDS,
        )
        for index in range(options.replicas)
    ]
    return _Fleet(servers, slots * options.replicas, options.replicas)


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
