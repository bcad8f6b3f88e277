"""Run the catalogue in a sandbox with some layers; print what was stopped, as JSON.

    python run.py '{"layers": [...], "user": "nobody"}'

`user` "nobody" gives up root first: a private mount namespace opens the way to a Python under a
closed home folder, then the program starts itself again without privileges.
"""

import asyncio
import ctypes
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from aimo2.config import KernelConfig
from aimo2.deadline import NEVER
from aimo2.sandbox import CellResult
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.sandbox.kernel import ForkKernel
from tests.sandbox.attacks.catalogue import ATTACKS

KEY = "sk-secret-of-the-host"
NOBODY = 65534

STREAMS = {
    "write to fd 1 without end": "import os\nfor _ in range(300): os.write(1, bytes(1 << 20))",
    "print without end": "while True: print('y' * 1000)",
    "write garbage into the reply stream": """
import os
for fd in range(3, 256):
    try: os.write(fd, b"\\xff" * 64)
    except OSError: pass
""",
    "forge a reply": """
import os
frame = b'{"id":1,"error":null,"traceback":""}'
for fd in range(3, 256):
    for _ in range(50):
        try: os.write(fd, len(frame).to_bytes(4, "big") + frame)
        except OSError: break
""",
    "send an endless reply": """
import os
for fd in range(3, 256):
    try:
        os.write(fd, (2**31).to_bytes(4, "big"))
        while True: os.write(fd, bytes(65536))
    except OSError: pass
""",
    "shrink the output memory": """
import mmap, os, gc
for thing in gc.get_objects():
    if isinstance(thing, mmap.mmap):
        try: thing.resize(0)
        except (OSError, ValueError, SystemError): pass
for fd in range(3, 256):
    try: os.ftruncate(fd, 0)
    except OSError: pass
""",
    "replace the runner's modules": """
import sys
for name, module in list(sys.modules.items()):
    if "guest" in name:
        for key in list(vars(module)):
            if not key.startswith("__"): setattr(module, key, None)
        sys.modules[name] = None
""",
    "ignore the interrupt": "import signal\nsignal.signal(2, 1)\nwhile True: pass",
    "end the interpreter": "import os\nos._exit(7)",
    "crash the interpreter": "import ctypes\nctypes.string_at(0)",
    "close every descriptor": "import os\nos.closerange(0, 256)",
    "stop itself": "import os\nos.kill(os.getpid(), 19)",
}
"""Attacks on the host's side of the protocol: judged by whether everything else goes on."""


def open_the_way() -> None:
    """Become nobody, with Python still in reach. Replaces this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    needed = {Path(p).resolve() for p in (sys.base_prefix, sys.prefix, Path(__file__).parents[3])}
    closed = {a for p in needed for a in p.parents if not a.stat().st_mode & 1}
    assert libc.unshare(0x20000) == 0, "needs root"
    assert libc.mount(None, b"/", None, 0x4000 | (1 << 18), None) == 0
    for ancestor in closed:
        inside = {p: os.open(p, os.O_PATH) for p in needed if p.is_relative_to(ancestor)}
        assert libc.mount(b"tmpfs", bytes(ancestor), b"tmpfs", 0, b"mode=755") == 0
        for path, fd in inside.items():
            path.mkdir(parents=True)
            source = f"/proc/self/fd/{fd}".encode()
            assert libc.mount(source, bytes(path), None, 4096 | 16384, None) == 0
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    plan = json.loads(sys.argv[1]) | {"user": "self"}
    os.execv(sys.executable, [sys.executable, "-B", "-m", __spec__.name, json.dumps(plan)])


async def attack(layers: list[str]) -> dict[str, Any]:
    """Every attack, each in a kernel of its own, next to a kernel that must not notice."""
    config = KernelConfig(memory_mib=256, output_bytes=4096)
    with Baits() as baits:
        async with ForkSandbox(config, preload=(), layers=layers, checkpoints=False) as sandbox:
            report = await sandbox.report()
            sibling = await sandbox.create()
            baits.names["sibling"] = sibling._link.guest_pid
            stopped = {}
            for each in ATTACKS:
                result = await one(sandbox, each.code.format(**baits.names))
                stopped[each.name] = "SUCCEEDED" not in result.output
            for name, code in STREAMS.items():
                stopped[name] = await sound(sandbox, sibling, code)
    return {"layers": dict(report.layers), "stopped": stopped, "observed": dict(report.observed)}


async def one(sandbox: ForkSandbox, code: str) -> CellResult:
    kernel = await sandbox.create()
    try:
        return await kernel.run(code, timeout=20, deadline=NEVER)
    finally:
        await kernel.close()


async def sound(sandbox: ForkSandbox, sibling: ForkKernel, code: str) -> bool:
    """Whether the host, the other kernel and the attacked one's next cell are all right."""
    before, start = psutil.Process().memory_info().rss, time.monotonic()
    kernel = await sandbox.create()
    result = await kernel.run(code, timeout=0.5, deadline=NEVER)
    seconds = time.monotonic() - start
    grown = psutil.Process().memory_info().rss - before
    again = await kernel.run("6 * 7", timeout=2, deadline=NEVER)
    if again.error is not None:
        again = await kernel.run("6 * 7", timeout=2, deadline=NEVER)
    other = await sibling.run("2 + 2", timeout=2, deadline=NEVER)
    await kernel.close()
    outputs = (again.output, other.output) == ("42\n", "4\n")
    return outputs and len(result.output) <= 4096 and grown < 32 << 20 and seconds < 4


class Baits:
    """What the attacks look for, outside the sandbox."""

    def __enter__(self) -> "Baits":
        os.environ["SECRET_API_KEY"] = KEY
        self._folder = tempfile.TemporaryDirectory(prefix="aimo2-baits-")
        folder = Path(self._folder.name)
        folder.chmod(0o777)
        for name, mode in (("public", 0o644), ("private", 0o600)):
            (folder / name).write_text(KEY)
            (folder / name).chmod(mode)
        self._sockets = [
            _listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            _listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            _listen(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "unix")),
            _listen(socket.AF_UNIX, socket.SOCK_STREAM, f"\0aimo2-{os.getpid()}"),
        ]
        (folder / "unix").chmod(0o777)
        self.names: dict[str, Any] = {
            "tcp": self._sockets[0].getsockname()[1],
            "udp": self._sockets[1].getsockname()[1],
            "unix": str(folder / "unix"),
            "abstract": f"aimo2-{os.getpid()}",
            "public": str(folder / "public"),
            "private": str(folder / "private"),
            "folder": str(folder),
            "key": KEY,
            "host": os.getpid(),
        }
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._sockets:
            each.close()
        self._folder.cleanup()


def _listen(family: int, kind: int, address: Any) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.bind(address)
    if kind == socket.SOCK_STREAM:
        sock.listen(8)
    return sock


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    if plan.get("user") == "nobody":
        open_the_way()
    print(json.dumps(asyncio.run(attack(plan["layers"]))))
