"""Run a sandbox where the system denies some calls, as containers do; print what it says, as JSON.

python degraded.py '{"denied": ["namespaces", "landlock", "notify", "seccomp"]}'
"""

import asyncio
import ctypes
import errno
import json
import platform
import struct
import sys
from typing import Any

from aimo2.errors import SetupError
from aimo2.sandbox.forkserver import ForkSandbox
from tests.sandbox.conftest import run

INTEL = platform.machine() == "x86_64"
UNSHARE, MOUNT, SECCOMP = (272, 165, 317) if INTEL else (97, 40, 277)
LANDLOCK, CLONE3 = 444, 435
DENIED = {
    # (call, errno, bit of the second argument that is denied; 0: any)
    "namespaces": [(UNSHARE, errno.EPERM, 0), (MOUNT, errno.EPERM, 0), (CLONE3, errno.ENOSYS, 0)],
    "landlock": [(LANDLOCK, errno.ENOSYS, 0)],
    "notify": [(SECCOMP, errno.EINVAL, 8)],
    "seccomp": [(SECCOMP, errno.ENOSYS, 0)],
}


def deny(names: list[str]) -> None:
    """Put a filter on this process and its children."""
    program = b""
    for number, error, bit in (rule for name in names for rule in DENIED[name]):
        answer = struct.pack("<HBBI", 0x06, 0, 0, 0x50000 | error)
        load = struct.pack("<HBBI", 0x20, 0, 0, 0)
        if bit:
            argument = struct.pack("<HBBI", 0x20, 0, 0, 16 + 8)
            test = struct.pack("<HBBI", 0x45, 0, 1, bit)
            answer = argument + test + answer
        program += load + struct.pack("<HBBI", 0x15, 0, len(answer) // 8, number) + answer
    program += struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(header, len(header)), 0, 0) == 0


async def look() -> dict[str, Any]:
    async with ForkSandbox(preload=()) as sandbox:
        report = await sandbox.report()
        kernel = await sandbox.create()
        await run(kernel, "n = 40")
        child = await kernel.fork()
        output = (await run(child, "n + 2")).output
        kept = (await run(child, "import os; os._exit(1)")).state_lost is False
    strict: str | None = None
    async with ForkSandbox(preload=(), level="strict") as sandbox:
        try:
            await sandbox.create()
        except SetupError as error:
            strict = str(error)
    return {
        "layers": dict(report.layers),
        "observed": dict(report.observed),
        "warning": report.warning,
        "works": output == "42\n" and kept,
        "strict": strict,
    }


if __name__ == "__main__":
    deny(json.loads(sys.argv[1])["denied"])
    print(json.dumps(asyncio.run(look())))
