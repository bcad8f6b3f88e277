"""The report says what is open, and the strict level refuses to run then."""

import asyncio

import pytest

from aimo2.errors import SetupError
from aimo2.sandbox.forkserver import ForkSandbox, probe
from aimo2.sandbox.report import LAYERS, LayerReport


def frame(**observed: bool) -> dict[str, object]:
    return {
        "layers": {"limits": "", "landlock": "Function not implemented"},
        "observed": observed,
        "imported": {"sympy": 0.2},
        "missing": ["scipy"],
        "available": ["sympy"],
    }


def test_layers_are_active_or_have_a_reason() -> None:
    report = LayerReport.from_frame(frame(network=True, reads=True, writes=True))
    assert tuple(report.layers) == LAYERS
    assert report.active == ("limits",)
    assert report.layers["landlock"] == "Function not implemented"
    assert report.layers["seccomp"] == "not on this system"
    assert (report.missing, report.available) == (("scipy",), ("sympy",))


def test_what_is_open_makes_a_warning() -> None:
    closed = LayerReport.from_frame(frame(network=True, reads=True, writes=True))
    assert (closed.network_closed, closed.files_closed, closed.warning) == (True, True, None)
    leaky = LayerReport.from_frame(frame(network=True, reads=False, writes=True))
    assert (leaky.network_closed, leaky.files_closed) == (True, False)
    assert leaky.warning is not None
    assert leaky.warning.startswith("the sandbox does not close off reads here")
    assert "landlock: Function not implemented" in leaky.warning
    untested = LayerReport.from_frame(frame())
    assert not untested.network_closed
    assert not untested.files_closed
    assert "could not be tested" in str(untested.warning)


def test_strict_refuses_where_files_are_open_and_auto_does_not() -> None:
    async def main() -> None:
        async with ForkSandbox(level="strict", preload=(), layers=["limits"]) as sandbox:
            with pytest.raises(SetupError, match="does not close off network, reads, writes"):
                await sandbox.create()
        async with ForkSandbox(preload=(), layers=["limits"]) as sandbox:
            await sandbox.create()

    asyncio.run(main())


def test_strict_runs_where_this_machine_closes_all() -> None:
    async def main() -> None:
        report = await probe()
        if not (report.network_closed and report.files_closed):
            pytest.skip("this machine cannot close off network and files")
        async with ForkSandbox(level="strict", preload=()) as sandbox:
            await sandbox.create()
        assert report.imported["sympy"] > 0
        assert report.missing == ()

    asyncio.run(main())


def test_a_zygote_that_cannot_start_is_a_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimo2.sandbox.parent._BOOT", "raise SystemExit('no luck {paths!r:.0}')")

    async def main() -> None:
        async with ForkSandbox() as sandbox:
            with pytest.raises(SetupError, match="did not start: no luck"):
                await sandbox.create()

    asyncio.run(main())
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    with pytest.raises(SetupError, match="No such file"):
        asyncio.run(main())
