"""Attacks from inside a cell fail, under every set of layers that this machine has.

Each set runs in a process of its own: the host's process is itself one of the targets.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aimo2.sandbox.report import LAYERS
from tests.sandbox.attacks.catalogue import ATTACKS
from tests.sandbox.attacks.run import STREAMS

NAMESPACES = [name for name in LAYERS if "namespace" in name]
PRECONDITION = ["no new privileges"]
SETS: dict[str, list[str]] = {
    "none": [],
    "namespaces": NAMESPACES,
    "limits": ["limits", "capabilities"],
    "user id": [*NAMESPACES, "limits", "user id"],
    "landlock": [*PRECONDITION, "landlock"],
    "seccomp": [*PRECONDITION, "seccomp", "fork guard"],
    "in a container": [name for name in LAYERS if name not in (*NAMESPACES, "user id")],
    "all": list(LAYERS),
}
USERS = ["self", "nobody"] if os.geteuid() == 0 else ["self"]
UNPRIVILEGED = ("landlock", "seccomp", "in a container", "all")
# Without a layer they fail for want of rights or of the feature, on some machines.
NOT_ALWAYS_POSSIBLE = {
    *("read the host's environment", "read the host's memory", "write the zygote's memory"),
    *("leave through /proc/PID/root", "trace the zygote", "read another kernel's memory"),
    *("become root", "mount", "make a namespace", "load a BPF program", "set up io_uring"),
    *("open a key ring", "raise its own limits", "read a key in its own environment"),
    *("take 1 GiB of memory", "take 2 GiB of shared memory", "make SysV shared memory"),
    *("write 96 MiB of files", "open 2,000 descriptors", "start 1,000 threads"),
}


@functools.cache
def outcome(layers: str, user: str) -> dict[str, Any]:
    """What `run.py` says of one set."""
    root = Path(__file__).parents[3]
    plan = json.dumps({"layers": SETS[layers], "user": user})
    finished = subprocess.run(
        [sys.executable, "-B", "-m", "tests.sandbox.attacks.run", plan],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'src'}"},
    )
    assert finished.returncode == 0, finished.stderr
    result: dict[str, Any] = json.loads(finished.stdout)
    return result


def active(layers: str, user: str) -> set[str]:
    """The layers of the set that are on, plus what is always there."""
    return {name for name, why in outcome(layers, user)["layers"].items() if not why} | {"always"}


@pytest.mark.parametrize(
    ("layers", "user"),
    [
        (layers, user)
        for layers in SETS
        for user in USERS
        if user == "self" or layers in UNPRIVILEGED
    ],
)
def test_an_active_layer_stops_what_it_should(layers: str, user: str) -> None:
    stopped = outcome(layers, user)["stopped"]
    on = active(layers, user)
    missed = [a.name for a in ATTACKS if on & set(a.stopped_by) and not stopped[a.name]]
    assert missed == []


@pytest.mark.parametrize("user", USERS)
def test_with_every_layer_nothing_gets_through(user: str) -> None:
    if not {"seccomp", "landlock", "limits", "user id"} <= active("all", user):
        pytest.skip("this machine does not have every layer")
    assert [name for name, held in outcome("all", user)["stopped"].items() if not held] == []


@pytest.mark.parametrize("layers", SETS)
def test_no_kernel_can_hurt_the_host_or_another_kernel_by_what_it_says(layers: str) -> None:
    stopped = outcome(layers, "self")["stopped"]
    assert [name for name in STREAMS if not stopped[name]] == []


def test_the_attacks_are_real() -> None:
    stopped = outcome("none", "self")["stopped"]
    feeble = {attack.name for attack in ATTACKS if stopped[attack.name]}
    assert feeble <= NOT_ALWAYS_POSSIBLE


@pytest.mark.parametrize("layers", SETS)
def test_what_is_reported_as_closed_is_closed(layers: str) -> None:
    found = outcome(layers, "self")
    for seen, attacks in {
        "network": ["open a TCP connection", "send a UDP datagram"],
        "reads": ["read /etc/passwd", "read a public file elsewhere"],
        "writes": ["write outside its folder"],
        "signals": ["signal the host", "signal the zygote"],
        "processes": ["fork"],
    }.items():
        assert found["observed"][seen] == all(found["stopped"][name] for name in attacks), seen
