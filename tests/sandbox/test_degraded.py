"""Where a machine lacks layers, the sandbox works with the others, says so, and strict refuses."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NAMESPACES = {f"{name} namespace" for name in ("mount", "pid", "network", "ipc")}


@functools.cache
def look(*denied: str) -> dict[str, Any]:
    if sys.platform != "linux":
        pytest.skip("denies calls by a filter of Linux")
    root = Path(__file__).parents[2]
    finished = subprocess.run(
        [sys.executable, "-B", "-m", "tests.sandbox.degraded", json.dumps({"denied": denied})],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'src'}"},
    )
    assert finished.returncode == 0, finished.stderr
    result: dict[str, Any] = json.loads(finished.stdout)
    assert result["works"]
    return result


def off(found: dict[str, Any]) -> set[str]:
    """The layers that are not active; each has a reason."""
    return {name for name, reason in found["layers"].items() if reason}


def need(*layers: str) -> None:
    missing = off(look()) & set(layers)
    if missing:
        pytest.skip(f"this machine has no {', '.join(sorted(missing))}")


def test_in_a_container_landlock_and_the_filter_close_network_and_files() -> None:
    need("landlock", "seccomp", "fork guard")
    found = look("namespaces")
    assert off(found) >= NAMESPACES
    assert not off(found) & {"landlock", "seccomp", "fork guard", "limits", "capabilities"}
    assert (found["strict"], found["warning"]) == (None, None)


def test_without_landlock_in_a_container_strict_refuses_and_names_what_is_open() -> None:
    need("seccomp")
    found = look("namespaces", "landlock")
    assert off(found) >= {*NAMESPACES, "landlock"}
    assert found["observed"]["network"]
    assert not found["observed"]["reads"]
    assert "does not close off reads here" in found["warning"]
    assert found["strict"].startswith(found["warning"])


def test_without_landlock_namespaces_are_enough() -> None:
    need(*NAMESPACES)
    found = look("landlock")
    assert "landlock" in off(found)
    assert (found["strict"], found["warning"]) == (None, None)


def test_without_notifications_the_filter_stays_and_kernels_fork() -> None:
    need("seccomp")
    found = look("namespaces", "notify")
    assert "fork guard" in off(found)
    assert "seccomp" not in off(found)
    assert found["layers"]["fork guard"] == os.strerror(22)


def test_without_a_filter_and_namespaces_the_network_is_open_and_strict_refuses() -> None:
    found = look("namespaces", "seccomp")
    assert off(found) >= {*NAMESPACES, "seccomp", "fork guard"}
    assert not found["observed"]["network"]
    assert "network" in found["strict"]
