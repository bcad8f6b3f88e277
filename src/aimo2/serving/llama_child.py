"""The engine's own process: import xllamacpp, serve one model, die with the parent.

Run as `python -P -m aimo2.serving.llama_child` by `llama_cpp`, which speaks to it in JSON lines:

    parent -> child (standard input)    {"model_path": ..., "slots": ..., "api_key": ..., ...}
    child -> parent (standard output)   {"address": "http://127.0.0.1:PORT"}
                                     or {"error": "engine" | "model", "message": ...}

The request arrives over a pipe and not as arguments, because arguments and environment can be read
by every process of the user. Standard output carries the answer and nothing else: the descriptor
is moved away before the engine is imported, and what a library prints goes to the log.

With `--describe` it prints what the engine says of itself and of this machine, and ends.

Loading a model holds the interpreter's lock, so the thread that waits for the parent's end sees it
only afterwards; on Linux the kernel sends SIGKILL in the meantime. Knows no HTTP and no restarts.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any, TextIO

LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


@dataclass(frozen=True, slots=True)
class Request:
    """What the parent wants served.

    `context`: tokens of one slot. `port`: 0 lets the system choose; any other is used if it is
    free and else ignored. `cache_mib`: memory for prompts that left their slot; 0 keeps none.
    """

    model_path: str
    alias: str
    slots: int
    context: int
    threads: int
    cache_mib: int
    port: int
    api_key: str
    parent_pid: int

    def encode(self) -> bytes:
        """One JSON line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: str) -> "Request":
        """The inverse of `encode`. Raises `ValueError` or `TypeError` on anything else."""
        return cls(**json.loads(line))

    def __repr__(self) -> str:
        return f"Request(model_path={self.model_path!r}, slots={self.slots}, api_key=...)"


def main(arguments: list[str]) -> int:
    """Serve until the parent goes away; the exit code is 1 where serving never began."""
    answers = _take_stdout()
    if arguments == ["--describe"]:
        return _answer(answers, describe)
    # The parent decides when we end: a Ctrl-C in its terminal is not for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = sys.stdin.readline()
    if not line:
        return 1
    request = Request.decode(line)
    die_with_parent(request.parent_pid)
    server: list[Any] = []  # keeps the engine's object alive: its end would stop the server
    code = _answer(answers, lambda: _serve(request, server))
    answers.close()
    if code == 0:
        threading.Event().wait()
    return code


def die_with_parent(parent_pid: int) -> None:
    """End this process when its parent ends, whatever ends the parent."""
    threading.Thread(target=_exit_at_end_of_input, name="parent-watch", daemon=True).start()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.name == "posix" and os.getppid() != parent_pid:
        os._exit(1)  # it died before the request above was made


def parameters(engine: Any, request: Request) -> Any:
    """The engine's parameters for a request. `engine` is the xllamacpp module."""
    params = engine.CommonParams()
    params.model.path = request.model_path
    params.model_alias = {request.alias}
    params.n_parallel = request.slots
    params.n_ctx = request.slots * request.context
    params.kv_unified = False
    params.cpuparams.n_threads = request.threads
    params.cpuparams_batch.n_threads = request.threads
    params.cache_ram_mib = request.cache_mib
    params.hostnames = [LOOPBACK]
    params.port = request.port if _is_free(request.port) else 0
    params.api_keys = [request.api_key] if request.api_key else []
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.ui = False
    # A stream and an idle connection hold a thread each: let the health check find one.
    params.n_threads_http = 2 * request.slots + 8
    return params


def describe() -> dict[str, Any]:
    """Version, compiled features and devices, as the engine reports them."""
    engine = _import_engine()
    return {
        "version": engine.__version__,
        "system": engine.get_system_info().strip(" |"),
        "devices": [
            {"name": device["name"], "description": device["description"]}
            for device in engine.get_device_info()
        ],
    }


class _EngineMissingError(Exception):
    """xllamacpp cannot be imported."""


def _serve(request: Request, keep: list[Any]) -> dict[str, Any]:
    engine = _import_engine()
    keep.append(engine.Server(parameters(engine, request)))
    return {"address": keep[0].listening_address}


def _import_engine() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise _EngineMissingError(str(error)) from error
    return xllamacpp


def _answer(answers: TextIO, produce: Any) -> int:
    """Write what `produce` returns, or why it failed, as the one JSON line."""
    try:
        answer, code = produce(), 0
    except _EngineMissingError as error:
        answer, code = {"error": "engine", "message": str(error)}, 1
    except (RuntimeError, ValueError, OSError) as error:
        answer, code = {"error": "model", "message": str(error)}, 1
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    return code


def _take_stdout() -> TextIO:
    """A private copy of standard output; descriptor 1 leads to standard error from now on."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8")


def _exit_at_end_of_input() -> None:
    """The parent never writes again, so a read returns only when its end of the pipe closes."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
