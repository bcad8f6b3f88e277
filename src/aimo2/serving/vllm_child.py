"""Keep one foreign server process: start it, die with the parent, leave nothing behind.

Run as `python -P -m aimo2.serving.vllm_child` by `vllm`, in a session of its own:

    parent -> child (standard input)    {"command": [...], "environment": {...}, "host", "port",
                                         "parent_pid"}
    child -> parent (standard output)   {"address": "http://127.0.0.1:PORT"} or {"error", "message"}

The server is started with `--host` and `--port` behind the command. Its key is in its environment,
which only its own user can read, and in no argument list. vLLM starts further processes: they are
in our process group, which is killed as a whole when the parent or the server ends.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
_GRACE = 5.0
"""Seconds between asking the server to end and killing its group."""


def main() -> int:
    """Serve until the parent goes away; returns the server's exit code."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    line = sys.stdin.readline()
    if not line:
        return 1
    request = json.loads(line)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    port = request["port"] or _free_port(request["host"])
    try:
        server = _start(request, port)
    except OSError as error:
        _say(answers, {"error": "engine", "message": f"{request['command'][0]}: {error.strerror}"})
        return 1
    signal.signal(signal.SIGTERM, lambda number, frame: _end(server))
    threading.Thread(target=_watch_parent, args=(server,), daemon=True).start()
    if os.getppid() != request["parent_pid"]:
        _end(server)
    host = request["host"]
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host
    _say(answers, {"address": f"http://{reachable}:{port}"})
    code = server.wait()
    _say(answers, {"exit": code})
    _kill_group(code)
    return code


def _start(request: dict[str, Any], port: int) -> "subprocess.Popen[bytes]":
    command = [*request["command"], "--host", request["host"], "--port", str(port)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=request["environment"],
        preexec_fn=_die_with_us if sys.platform == "linux" else None,
    )


def _die_with_us() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _watch_parent(server: "subprocess.Popen[bytes]") -> None:
    """The parent never writes again, so a read returns only when its end of the pipe closes."""
    while os.read(0, 4096):
        pass
    _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(_GRACE)
    _kill_group(0)


def _kill_group(code: int) -> None:
    """Everything that was started, ourselves included; without a group of our own, only us."""
    if os.getpgrp() == os.getpid():
        members = _others_in_group()
        for pid in members:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    os._exit(code if 0 <= code < 256 else 1)


def _others_in_group() -> list[int]:
    if not os.path.isdir("/proc"):  # noqa: PTH112 - cheap, and nothing else is imported
        return []
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        with suppress(ValueError, ProcessLookupError, PermissionError):
            if int(name) != os.getpid() and os.getpgid(int(name)) == os.getpgrp():
                found.append(int(name))
    return found


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host if host != "localhost" else "127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(answers: Any, what: dict[str, Any]) -> None:
    with suppress(OSError):
        answers.write(json.dumps(what) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.exit(main())
