"""The scripted sandbox behaves as the protocol says, on the loop's clock."""

import asyncio
from typing import Any

import pytest

from aimo2.deadline import NEVER, Deadline
from aimo2.errors import SandboxError
from aimo2.sandbox import CellResult, Kernel, Sandbox
from aimo2.sandbox.fake import FakeSandbox


def script(code: str, namespace: dict[str, Any]) -> CellResult:
    if code == "die":
        return CellResult("", error="died", state_lost=True)
    if code == "slow":
        return CellResult("half", seconds=0.02)
    namespace.setdefault("seen", []).append(code)
    return CellResult(" ".join(namespace["seen"]))


def test_it_is_a_sandbox() -> None:
    sandbox: Sandbox = FakeSandbox(script)

    async def main() -> Kernel:
        async with sandbox:
            return await sandbox.create()

    assert asyncio.run(main())


def test_namespace_lives_until_death_and_forks_apart() -> None:
    async def main() -> None:
        async with FakeSandbox(script) as sandbox:
            kernel = await sandbox.create()
            assert (await kernel.run("a", timeout=1, deadline=NEVER)).output == "a"
            child = await kernel.fork(reseed=3)
            assert (await child.run("b", timeout=1, deadline=NEVER)).output == "a b"
            assert (await kernel.run("c", timeout=1, deadline=NEVER)).output == "a c"
            assert (await kernel.run("die", timeout=1, deadline=NEVER)).state_lost
            assert (await kernel.run("d", timeout=1, deadline=NEVER)).output == "d"
            assert child.parent is kernel
            assert child.reseed == 3
            assert sandbox.kernels == [kernel, child]
            await child.close()
            assert sandbox.open_kernels == [kernel]
            with pytest.raises(SandboxError, match="closed"):
                await child.run("e", timeout=1, deadline=NEVER)
        assert sandbox.open_kernels == []
        with pytest.raises(SandboxError, match="not open"):
            await sandbox.create()

    asyncio.run(main())


def test_more_seconds_than_allowed_is_a_timeout_and_cancelling_is_recorded() -> None:
    async def main() -> None:
        async with FakeSandbox(script) as sandbox:
            kernel = await sandbox.create()
            assert (await kernel.run("slow", timeout=1, deadline=NEVER)).error is None
            late = await kernel.run("slow", timeout=0.01, deadline=NEVER)
            assert (late.error, late.output, late.seconds) == ("timeout", "half", 0.01)
            late = await kernel.run("slow", timeout=1, deadline=Deadline.after(0))
            assert late.error == "timeout"
            task = asyncio.create_task(kernel.run("slow", timeout=1, deadline=NEVER))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert kernel.cancelled == 1

    asyncio.run(main())
