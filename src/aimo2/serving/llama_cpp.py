"""Run llama.cpp's HTTP server in a child process and keep it alive: start, watch, restart, stop.

Knows processes, their logs and one health address; knows no requests and no prompts. What happens
inside the child is in `llama_child`.

The child's standard input is a pipe that we never close while it should live: its end, by whatever
death of ours, ends the child. It also carries the API key, which stands in no argument list, no
environment and no log. A crash after the start is noticed by waiting for the process, reported
with the end of its log, and answered with one restart at the same address if that is still free.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import aiohttp

from aimo2.config import LocalServerConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.errors import DeadlinePassed, InputError, ServerError, SetupError
from aimo2.serving import machine
from aimo2.serving.gguf import read_shape
from aimo2.serving.llama_child import Request
from aimo2.serving.server_log import ServerLog
from aimo2.serving.store import default_home

CHILD_COMMAND = (sys.executable, "-P", "-m", "aimo2.serving.llama_child")
"""`-P`: modules in the user's folder are not ours."""

START_SECONDS = 180.0
_MIB = 1 << 20
_COMPUTE_BYTES = 256 * _MIB
"""Buffers beside weights and cache: 37 MiB measured with a 135M model, 110 MiB with a 1.5B."""
_CACHE_MIB = 8192
"""llama.cpp's own default for prompts kept outside their slots; we take a quarter of what is free
where that is less."""
_TICK = 0.5
"""Seconds between two reports of a start in progress."""
_PROBE = 0.1
"""Seconds between two looks at a server that does not answer yet."""
_PROBE_TIMEOUT = 2.0

_KEPT_NAMES = (
    *("PATH", "HOME", "LANG", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "WINDIR"),
    *("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
)
_KEPT_PREFIXES = ("LC_", "OMP_", "KMP_", "GOMP_", "GGML_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_")

EventKind = Literal["loading", "ready", "crashed", "failed"]


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """Something that a user may want to see.

    `kind`: `loading` comes twice a second during a start; `crashed` is followed by a restart,
    `failed` by nothing. `seconds`: since the latest process was started. `message`: one line.
    `log_end`: the last lines of the log for `crashed` and `failed`, else empty.
    """

    kind: EventKind
    seconds: float
    message: str
    log_end: str = ""


OnEvent = Callable[[ServerEvent], None]


class SupportsEncode(Protocol):
    """What a child is told, as one line."""

    def encode(self) -> bytes:
        """The line."""
        ...


class LlamaServer:
    """A llama.cpp server of our own. An asynchronous context manager: entered, it is ready.

    For one use: once stopped, it stays stopped.

    Entering raises `InputError` where the model file cannot be read, `SetupError` where memory
    does not suffice, and `ServerError` where the server does not come up.
    """

    def __init__(
        self,
        config: LocalServerConfig,
        *,
        on_event: OnEvent = lambda event: None,
        log_dir: Path | None = None,
        start_timeout: float = START_SECONDS,
        grace: float = 5.0,
        max_restarts: int = 1,
        command: Sequence[str] = CHILD_COMMAND,
        port: int = 0,
        api_key: str | None = None,
    ) -> None:
        """Nothing is started yet.

        `log_dir`: `None` is `logs` in `AIMO2_HOME`; where no file can be written, it goes to the
        folder for temporary files. `start_timeout`: seconds for one start. `grace`: seconds
        between asking a process to end and killing it. `port`: 0, or one that is taken for
        another if it is not free. `api_key`: `None` draws one, an
        empty one lets everybody in.
        """
        self._config = config
        self._report = on_event
        self._log_dir = log_dir or default_home() / "logs"
        self._start_timeout = start_timeout
        self._grace = grace
        self._restarts_left = max_restarts
        self._command = tuple(command)
        self._port = port
        drawn = secrets.token_urlsafe(32)
        self._key: str | None = drawn if api_key is None else api_key or None
        self._log = ServerLog()
        self._child: _Child | None = None
        self._address = ""
        self._started = 0.0
        self._cache_mib = 0
        self._watch: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # ready, failed or stopped; cleared while (re)starting
        self._failure: str | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def base_url(self) -> str:
        """Up to and including `/v1`. May change with a restart."""
        return self._address + "/v1"

    @property
    def api_key(self) -> str | None:
        """The bearer token that the server wants; `None` where it wants none."""
        return self._key

    def endpoint(self) -> tuple[str, str | None]:
        """`base_url` and `api_key` of now."""
        return self.base_url, self.api_key

    @property
    def pid(self) -> int | None:
        """The child's process id; `None` before the start and after the end."""
        return self._child.pid if self._child else None

    @property
    def failure(self) -> str | None:
        """Why the server is gone for good, in one line; `None` while it is not."""
        return self._failure

    @property
    def log_path(self) -> Path | None:
        """The log file; `None` where none could be written."""
        return self._log.path

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the log, fit for a terminal; empty where there is no log."""
        return self._log.tail(lines)

    async def start(self) -> None:
        """Start the child and wait until it answers. Raises as entering does."""
        await asyncio.to_thread(self._prepare)
        try:
            await self._launch(port=self._port)
        except BaseException:
            await self.stop()
            raise
        self._watch = asyncio.create_task(self._supervise(), name="llama-server-watch")

    async def stop(self) -> None:
        """End the child: ask, wait `grace` seconds, kill. Idempotent."""
        self._failure = self._failure or "the inference server was stopped"
        watch, self._watch = self._watch, None
        if watch is not None:
            await _cancel(watch)
        child, self._child = self._child, None
        if child is not None:
            await child.end(self._grace)
        self._settled.set()
        self._log.close()
        if watch is not None and not watch.cancelled():
            watch.result()  # a bug in it, or in the caller's `on_event`, shows here

    async def wait_ready(self, deadline: Deadline = NEVER) -> None:
        """Return once the server answers: at once, or after the restart that is in progress.

        For a client whose request failed. A dead child may not have been noticed yet, so the
        server is asked each time.

        Raises `ServerError` where it is gone for good, `DeadlinePassed` at the deadline.
        """
        try:
            async with asyncio.timeout_at(deadline.when()):
                while not await self._answers():  # noqa: ASYNC110 - another process decides
                    await asyncio.sleep(_PROBE)
        except TimeoutError:
            raise DeadlinePassed("the deadline came before the server was ready") from None

    async def _answers(self) -> bool:
        await self._settled.wait()
        if self._failure is not None:
            raise self._error(self._failure)
        return await _healthy(self._address)

    def _prepare(self) -> None:
        """What has to be known and made before the first start. Blocks on the disk."""
        need = needed_memory(self._config)
        available = machine.available_memory()
        if need > available:
            raise SetupError(_too_large(self._config, need, available))
        self._cache_mib = min(_CACHE_MIB, (available - need) // 4 // _MIB)
        self._log = self._open_log()

    def _open_log(self) -> ServerLog:
        return ServerLog.open(self._log_dir, self._config.model_path)

    @property
    def _label(self) -> str:
        """What is served, for people."""
        return self._config.model_path.name

    async def _launch(self, port: int) -> None:
        """One start, from spawning to the first healthy answer. Raises `ServerError`."""
        self._started = time.monotonic()
        self._log.mark()
        deadline = Deadline.after(self._start_timeout)
        self._child = await _Child.spawn(self._command, self._request(port), self._log)
        ticker = asyncio.create_task(self._tick(), name="llama-server-tick")
        try:
            async with asyncio.timeout_at(deadline.when()):
                self._address = await self._handshake(self._child)
                while not await _healthy(self._address):
                    await self._still_alive(self._child)
                await self._see_that_it_is_ours()
        except TimeoutError:
            raise self._error(self._late()) from None
        finally:
            await _cancel(ticker)
        if not ticker.cancelled():
            ticker.result()  # a bug in the caller's `on_event` shows here
        self._settled.set()
        self._emit("ready", f"serving {self._label}")

    async def _handshake(self, child: "_Child") -> str:
        answer = await child.first_line()
        if "address" in answer:
            return str(answer["address"])
        code = await child.wait()
        raise self._error(self._why_not(answer, code))

    async def _still_alive(self, child: "_Child") -> None:
        """Wait a moment for the next look. Raises `ServerError` where the child ended."""
        with contextlib.suppress(TimeoutError):
            code = await asyncio.wait_for(asyncio.shield(child.exited), _PROBE)
            raise self._error(self._why_not({}, code))

    async def _see_that_it_is_ours(self) -> None:
        """Raises `ServerError` where another server answers. llama.cpp is bound to its address
        before it tells it."""

    async def _supervise(self) -> None:
        """Owned by `start` and `stop`. Whatever ends it, nobody waits for the server any more."""
        try:
            await self._answer_deaths()
        finally:
            self._failure = self._failure or "the inference server is not watched any more"
            self._settled.set()

    async def _answer_deaths(self) -> None:
        while self._child is not None:
            code = await self._child.wait()
            self._settled.clear()
            died = f"the inference server died ({_spoken_exit(code)})"
            if self._restarts_left == 0:
                return self._fail(f"{died}, and not for the first time; {self._log_hint()}")
            self._restarts_left -= 1
            self._emit("crashed", f"{died}; starting it again")
            try:
                await self._launch(port=int(self._address.rpartition(":")[2]))
            except ServerError as error:
                await self._child.end(0)
                return self._fail(f"{died} and could not be restarted: {error}")
        return None

    def _fail(self, message: str) -> None:
        self._child = None
        self._failure = message
        self._emit("failed", message)

    async def _tick(self) -> None:
        while True:
            self._emit("loading", f"loading {self._label}")
            await asyncio.sleep(_TICK)

    def _emit(self, kind: EventKind, message: str) -> None:
        end = self.log_tail() if kind in ("crashed", "failed") else ""
        self._report(ServerEvent(kind, time.monotonic() - self._started, message, end))

    def _request(self, port: int) -> SupportsEncode:
        config = self._config
        return Request(
            model_path=str(config.model_path.absolute()),
            alias=config.model_path.stem,
            slots=config.concurrency,
            context=config.context,
            threads=config.threads or machine.usable_cores(),
            cache_mib=self._cache_mib,
            port=port,
            api_key=self._key or "",
            parent_pid=os.getpid(),
        )

    def _error(self, message: str) -> ServerError:
        """With the log's end as a note, which a traceback shows and a one-line message leaves."""
        error = ServerError(message)
        if end := self.log_tail():
            error.add_note(f"end of the log:\n{end}")
        return error

    def _late(self) -> str:
        return (
            f"the inference server did not start within {self._start_timeout:g} s with "
            f"{self._label}; try a smaller model, or {self._log_hint()}"
        )

    def _why_not(self, answer: dict[str, str], code: int) -> str:
        """Why a start failed, from the child's own words, its log and its exit status."""
        if answer.get("error") == "engine":
            return _no_engine(answer["message"])
        model = self._config.model_path
        if code < 0:
            return (
                f"the engine was ended by {_spoken_exit(code)} while it loaded {model}; "
                f"{_MENDS.get(-code, 'run `aimo2 doctor`')}, or {self._log_hint()}"
            )
        reason = self._log.reason() or answer.get("message") or _spoken_exit(code)
        return f"the engine cannot load {model}: {reason}; run `aimo2 models verify`"

    def _log_hint(self) -> str:
        return f"read its log {self._log.path}" if self._log.path else "run `aimo2 doctor`"


_MENDS: dict[int, str] = {
    signal.SIGKILL: "memory may have run out: take a smaller model or less --context",
    signal.SIGILL: "this CPU lacks instructions that the engine needs: give --base-url",
}


def describe_engine(
    command: Sequence[str] = CHILD_COMMAND, timeout: float = 30.0
) -> dict[str, Any]:
    """What `llama_child.describe` returns, asked of a process that ends at once. Blocks.

    `timeout`: seconds. Raises `ServerError` where the engine cannot be imported.
    """
    try:
        result = subprocess.run(
            [*command, "--describe"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=child_environment(),
            timeout=timeout,
            check=False,
        )
        answer = json.loads(result.stdout or b"{}")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ServerError(_no_engine(str(error))) from error
    if result.returncode != 0 or "version" not in answer:
        raise ServerError(_no_engine(answer.get("message") or _spoken_exit(result.returncode)))
    return dict(answer)


def _no_engine(reason: str) -> str:
    return f"the engine xllamacpp cannot be used here ({reason}); give --base-url of a server"


def needed_memory(config: LocalServerConfig) -> int:
    """Bytes that serving with this configuration keeps busy, estimated from the file.

    Weights once, the key-value cache of every slot, and fixed buffers. Weights that the engine
    repacks exist a second time, as file pages that the system may drop.

    Raises `InputError` where the file cannot be read.
    """
    path = config.model_path
    try:
        size = path.stat().st_size
        shape = read_shape(path)
    except OSError as error:
        raise InputError(
            f"the model file {path} cannot be read ({error.strerror}); "
            "run `aimo2 models list` for those that are here"
        ) from error
    cache = shape.cache_bytes * config.concurrency * config.context if shape else 0
    return size + cache + _COMPUTE_BYTES


def _too_large(config: LocalServerConfig, need: int, available: int) -> str:
    return (
        f"{config.model_path.name} with {config.concurrency} x {config.context} tokens of context "
        f"needs about {need / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free; "
        "take a smaller --model, --context or --concurrency"
    )


class _Child:
    """One process: spawn it, hear its first line, end it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.exited = asyncio.ensure_future(process.wait())

    @classmethod
    async def spawn(
        cls, command: Sequence[str], request: SupportsEncode, log: ServerLog
    ) -> "_Child":
        """Start the command and hand it the request. Raises `ServerError`."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log.file or asyncio.subprocess.DEVNULL,
                env=child_environment(),
                start_new_session=True,  # a Ctrl-C in our terminal is not for the child
            )
        except OSError as error:
            raise ServerError(
                f"no process for the inference server could be started ({error.strerror}); "
                "close other programs and try again"
            ) from error
        child = cls(process)
        child._hand_over(request)
        return child

    def _hand_over(self, request: SupportsEncode) -> None:
        """A few hundred bytes fit into any pipe, so there is nothing to wait for."""
        assert self._process.stdin is not None
        self._process.stdin.write(request.encode())

    async def first_line(self) -> dict[str, str]:
        """What the child says of its start; empty where it ended without a word."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    async def wait(self) -> int:
        """The exit status, negative for a signal. Any number of tasks may wait."""
        return await asyncio.shield(self.exited)

    async def end(self, grace: float) -> None:
        """Ask, wait `grace` seconds, kill, and wait for the end. Idempotent."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._signal("terminate")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.exited), grace)
        self._signal("kill")
        await self.wait()
        with contextlib.suppress(TimeoutError):  # lets the pipes close before the loop does
            await asyncio.wait_for(self._process.stdout.read(), 1.0)

    def _signal(self, how: Literal["terminate", "kill"]) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                getattr(self._process, how)()


def child_environment() -> dict[str, str]:
    """Our environment without what the engine does not need; above all, without anybody's keys."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _KEPT_NAMES or name.upper().startswith(_KEPT_PREFIXES)
    }


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end; its exception, if any, stays in it."""
    task.cancel()
    await asyncio.wait([task])


async def _healthy(address: str) -> bool:
    """Whether the server at `address` says that it can take requests."""
    limit = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(f"{address}/health") as reply,
        ):
            return reply.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def _spoken_exit(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
