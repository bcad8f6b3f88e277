"""The real child with a scripted engine in xllamacpp's place. Run as `python llama_stub.py MODE`.

Modes: `serve`; `serve-once PATH` serves the first time and fails the next; `hang` and
`hold PATH` never finish loading (`hold` keeps the interpreter's lock, as the real engine does, and
writes to the FIFO when it starts to); `broken` logs a reason and fails; `signal N` dies while
loading; `no-engine`; `stubborn` serves and ignores SIGTERM and the end of its input;
`input-only` serves and has no signal from the kernel at its parent's death; `silent` says nothing.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aimo2.serving import llama_child


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        print("asked", self.path, flush=True)  # to standard output: must land in the log


class Server:
    def __init__(self, params: Any) -> None:
        print("I scripted engine", flush=True)
        _load(*sys.argv[1:])
        self._http = ThreadingHTTPServer((params.hostnames[0], params.port), Health)
        self.listening_address = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()


def parameters() -> SimpleNamespace:
    parts = ("model", "cpuparams", "cpuparams_batch")
    return SimpleNamespace(**{part: SimpleNamespace() for part in parts})


def _load(mode: str, *rest: str) -> None:
    if mode == "serve-once":
        marker = Path(rest[0])
        mode = "broken" if marker.exists() else "serve"
        marker.touch()
    if mode == "broken":
        print("0.00.1 E load: wrong magic \x1b[31m\n0.00.2 E srv: giving up", file=sys.stderr)
        raise RuntimeError("Failed to init server")
    if mode == "hang":
        time.sleep(600)
    if mode == "hold":
        Path(rest[0]).write_text("loading")
        ctypes.PyDLL(None).sleep(600)
    if mode == "signal":
        os.kill(os.getpid(), int(rest[0]))


def engine() -> SimpleNamespace:
    return SimpleNamespace(CommonParams=parameters, Server=Server)


def _import_engine() -> Any:
    if sys.argv[1] == "no-engine":
        raise llama_child._EngineMissingError("No module named 'xllamacpp'")
    return engine()


if __name__ == "__main__":
    llama_child._import_engine = _import_engine
    if sys.argv[1] == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        llama_child._exit_at_end_of_input = lambda: None
    if sys.argv[1] == "input-only":
        llama_child._PR_SET_PDEATHSIG = 0  # no such option: the call has no effect
    if sys.argv[1] == "silent":
        sys.exit(3)
    sys.exit(llama_child.main([]))
