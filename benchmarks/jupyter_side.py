"""The Jupyter half of `sandbox.py`. Runs in an environment with jupyter_client and ipykernel.

Takes `{"trials", "kernels", "first", "cell", "pause"}`, counts, codes and seconds, and prints the
same figures.
"""

import asyncio
import json
import sys
import time
from typing import Any

import psutil
from jupyter_client.manager import AsyncKernelManager


async def start() -> tuple[Any, Any]:
    manager = AsyncKernelManager()
    await manager.start_kernel(extra_arguments=["--HistoryManager.enabled=False"])
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    return manager, client


async def run(client: Any, code: str) -> str:
    """Run a cell; its printed text, once the kernel is idle again."""
    asked = client.execute(code)
    text = ""
    while True:
        message = await client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "stream":
            text += message["content"]["text"]
        if message["msg_type"] == "error":
            raise RuntimeError(message["content"]["evalue"])
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            await client.get_shell_msg(timeout=60)
            return text


async def stop(manager: Any, client: Any) -> None:
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


async def measure(trials: int, kernels: int, first: str, cell: str, pause: float) -> dict[str, Any]:
    """The figures of one kernel after another, or, with `kernels`, of many at once."""
    if kernels:
        return await many(kernels, first, cell)
    starts: list[float] = []
    cells: list[float] = []
    for _ in range(trials):
        begun = time.perf_counter()
        manager, client = await start()
        await run(client, first)
        starts.append(time.perf_counter() - begun)
        await stop(manager, client)
    manager, client = await start()
    for _ in range(trials):
        begun = time.perf_counter()
        assert await run(client, cell) == "4\n"
        cells.append(time.perf_counter() - begun)
    paused = []
    for _ in range(trials):
        await asyncio.sleep(pause)
        begun = time.perf_counter()
        await run(client, cell)
        paused.append(time.perf_counter() - begun)
    await stop(manager, client)
    return {"start": starts, "cell": cells, "paused": paused}


async def many(kernels: int, first: str, cell: str) -> dict[str, Any]:
    """Private memory of idle kernels, and cells a second of all together."""
    fleet = []
    for _ in range(kernels):
        fleet.append(await start())
        await run(fleet[-1][1], first)
    memory = [process.memory_full_info().uss / 2**20 for process in psutil.Process().children(True)]
    begun, done = time.perf_counter(), 0

    async def keep_busy(client: Any) -> None:
        nonlocal done
        while time.perf_counter() - begun < 5:
            await run(client, cell)
            done += 1

    await asyncio.gather(*(keep_busy(client) for _, client in fleet))
    rate = done / (time.perf_counter() - begun)
    for manager, client in fleet:
        await stop(manager, client)
    return {"uss_mib": memory, "cells_per_second": [rate]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(**json.loads(sys.argv[1])))))
