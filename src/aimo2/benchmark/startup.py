"""Time what happens before the first token: imports of libraries, and a warm interpreter.

Each import is measured in a fresh interpreter, so that no library profits from another's imports.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence

from aimo2.deadline import NEVER
from aimo2.sandbox.forkserver import ForkSandbox

LIBRARIES = (
    *("aiohttp", "numpy", "sympy", "scipy", "networkx", "mpmath", "pydantic", "rich", "typer"),
    *("math_verify", "matplotlib", "xllamacpp", "huggingface_hub", "aimo2.cli", "aimo2.solver"),
)
_CODE = "import time; t = time.perf_counter(); import {0}; print(time.perf_counter() - t)"


def import_seconds(name: str) -> float | None:
    """Seconds that a first import takes in a fresh interpreter; `None` where it fails."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(name)], capture_output=True, text=True, check=False
    )
    try:
        return float(done.stdout.split()[-1])
    except (ValueError, IndexError):
        return None


def bare_seconds() -> float:
    """Seconds from starting an interpreter that does nothing to its end."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begun


async def warm_seconds(trials: int) -> tuple[float, list[float]]:
    """(seconds until the sandbox is warm, seconds from asking for a kernel to its first result)."""
    begun = time.perf_counter()
    async with ForkSandbox() as sandbox:
        await sandbox.report()
        warm = time.perf_counter() - begun
        taken = []
        for _ in range(trials):
            started = time.perf_counter()
            kernel = await sandbox.create()
            await kernel.run("import sympy\nsympy.pi", timeout=30, deadline=NEVER)
            taken.append(time.perf_counter() - started)
            await kernel.close()
    return warm, taken


def measure_startup(trials: int, libraries: Sequence[str] = LIBRARIES) -> dict[str, list[float]]:
    """Name -> seconds of each trial."""
    rows: dict[str, list[float]] = {
        "an interpreter that does nothing": [bare_seconds() for _ in range(trials)]
    }
    for name in libraries:
        taken = [import_seconds(name) for _ in range(trials)]
        rows[f"import {name}"] = [seconds for seconds in taken if seconds is not None]
    warm, first = asyncio.run(warm_seconds(max(trials, 20)))
    rows["the sandbox, from nothing to warm"] = [warm]
    rows["a kernel in the warm sandbox, to its first result with SymPy"] = first
    return rows
