"""`aimo2 serve`: a model behind an OpenAI-compatible server on this machine, until Ctrl-C."""

import asyncio
import os
from collections.abc import Callable
from typing import Annotated

import typer

from aimo2.cli import errors
from aimo2.cli.benchmark import EngineChoice
from aimo2.cli.models import ensure_model
from aimo2.cli.running import on_signals
from aimo2.errors import ConfigError, ServerError
from aimo2.serving.serve import Running, ServeOptions
from aimo2.serving.serve import serve as serve_model

_LOOK_SECONDS = 0.5


def serve(
    model: Annotated[
        str, typer.Argument(help="A hub name, a folder, a name of `aimo2 models list`, a .gguf.")
    ],
    flags: Annotated[
        list[str] | None, typer.Argument(help="vLLM's own flags, behind --.", show_default=False)
    ] = None,
    replicas: Annotated[int, typer.Option(help="Servers, on GPUs of their own if they can.")] = 1,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs a server.")] = 1,
    engine: Annotated[EngineChoice, typer.Option(help="vLLM on a GPU, else llama.cpp.")] = (
        EngineChoice.AUTO
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Of the first replica; the others follow.")
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens of context a stream has.")] = 8192,
    concurrent: Annotated[int, typer.Option(help="Streams expected at the same time.")] = 16,
    preset: Annotated[
        list[str] | None, typer.Option(help="fp8, fp8-kv, awq, ngram, draft=MODEL; may repeat.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of llama.cpp.")] = None,
    start_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a start may take, vLLM's own download included."
            " [default: 1200, and 180 of llama.cpp]"
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the key that clients must send."),
    ] = None,
) -> None:
    """Serve a model. Prints the base URL of each replica on standard output once all are ready."""
    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise ConfigError(f"--api-key-env {api_key_env}: that environment variable is not set")
    if host not in ("127.0.0.1", "localhost", "::1") and key is None:
        raise ConfigError(f"--host {host} is open to others: give a key with --api-key-env")
    if start_timeout is not None and start_timeout <= 0:
        raise ConfigError(f"--start-timeout {start_timeout:g}: give a number above 0")
    options = ServeOptions(
        engine=engine.value,
        replicas=replicas,
        tensor_parallel=tensor_parallel,
        context=context,
        concurrency=concurrent,
        host=host,
        port=port,
        threads=threads,
        presets=tuple(preset or ()),
        extra=tuple(flags or ()),
        api_key=key or "",
        start_timeout=start_timeout,
    )
    console = errors.stderr_console()

    def notify(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    async def run() -> None:
        stop = asyncio.Event()
        task = asyncio.current_task()
        on_signals(task.cancel if task else stop.set)
        async with serve_model(
            model, options, notify, lambda name: ensure_model(name, console)
        ) as running:
            for url, _ in running.endpoints():
                print(url, flush=True)
            _say_how(running, api_key_env, notify)
            on_signals(stop.set)
            await _until(stop, running)

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _say_how(running: Running, key_env: str | None, notify: Callable[[str], None]) -> None:
    urls = " ".join(f"--base-url {url}" for url, _ in running.endpoints())
    key = f" --api-key-env {key_env}" if key_env else ""
    notify(f'aimo2 solve {urls}{key} "..."')
    for server in running.servers:
        if server.log_path is not None:
            notify(f"log: {server.log_path}")
    notify("Ctrl-C ends it")


async def _until(stop: asyncio.Event, running: Running) -> None:
    """Until somebody ends it. Raises `ServerError` where every replica is gone for good."""
    while not stop.is_set():
        failures = running.failures()
        if len(failures) == len(running.servers):
            raise ServerError(failures[0])
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await stop.wait()
        except TimeoutError:
            continue
