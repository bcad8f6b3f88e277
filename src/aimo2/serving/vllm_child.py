"""Keep one foreign server process: start it, die with the parent, leave nothing behind.

Run as `python -P -m aimo2.serving.vllm_child` by `vllm`, in a session of its own:

    parent -> child (standard input)    {"command": [...], "environment": {...}, "host", "port",
                                         "only_that_port", "parent_pid"}
    child -> parent (standard output)   {"address": "http://127.0.0.1:PORT"} or {"error", "message"}

The server is started with `--host` and `--port` behind the command. A port that is taken is seen
here: vLLM binds it so that others may, too, and half of the requests would reach somebody else.
The key is in the server's environment, which only its own user can read, and in no argument list.
vLLM starts further processes: they are in our process group, which is killed as a whole when the
parent or the server ends.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
_GRACE = 5.0
"""Seconds between asking the server to end and killing its group."""
_LOOK = 0.05
"""Seconds between two looks at the server."""


def main() -> int:
    """Serve until the parent goes away; returns the server's exit code."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    line = sys.stdin.readline()
    if not line:
        return 1
    request = json.loads(line)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host = request["host"]
    try:
        port = _port(host, request["port"], request["only_that_port"])
    except OSError as error:
        message = f"{request['port']} of {host} cannot be had ({error.strerror})"
        _say(answers, {"error": "port", "message": message})
        return 1
    try:
        server = _start(request, port)
    except OSError as error:
        _say(answers, {"error": "engine", "message": f"{request['command'][0]}: {error.strerror}"})
        return 1
    kill_at: list[float] = []

    def end(number: int, frame: Any) -> None:
        """Only asks: waiting here would wait for a lock that `poll` below may hold."""
        server.terminate()
        kill_at.append(time.monotonic() + _GRACE)

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_watch_parent, daemon=True).start()
    if os.getppid() != request["parent_pid"]:
        os.kill(os.getpid(), signal.SIGTERM)
    _say(answers, {"address": address(host, port)})
    while server.poll() is None and not (kill_at and time.monotonic() > kill_at[0]):
        time.sleep(_LOOK)
    code = server.returncode or 0
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


def _watch_parent() -> None:
    """The parent never writes again, so a read returns only when its end of the pipe closes."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


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


def address(host: str, port: int) -> str:
    """Where a server that listens on `host` is reached from here."""
    near = {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"


def _port(host: str, wanted: int, only_that: bool) -> int:
    """`wanted` if it is free, else any unless it must be that one; 0 is any.

    Raises `OSError`.
    """
    try:
        return _bind(host, wanted, reuse=False)
    except OSError:
        if wanted and _lingers(wanted):
            return _bind(host, wanted, reuse=True)
        if only_that:
            raise
        return _bind(host, 0, reuse=False)


def _bind(host: str, port: int, *, reuse: bool) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        probe.bind((host if host != "localhost" else "127.0.0.1", port))
        return int(probe.getsockname()[1])


def _lingers(port: int) -> bool:
    """Whether connections of a server that has ended still hold the port: harmless, and vLLM's own
    SO_REUSEADDR passes over them, as it would over a server that is bound and does not listen yet.
    """
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table) as lines:  # noqa: PTH123 - nothing else is imported
            rows = [line.split() for line in lines][1:]
            if any(int(row[1].rpartition(":")[2], 16) == port and row[3] == "06" for row in rows):
                return True
    return False


def _say(answers: Any, what: dict[str, Any]) -> None:
    with suppress(OSError):
        answers.write(json.dumps(what) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.exit(main())
