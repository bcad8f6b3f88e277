"""Who serves a port: against the real `/proc`, and against a made one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aimo2.serving import gpu
from aimo2.serving.gpu import Card
from aimo2.serving.listener import serving

LISTENS = """
import socket, subprocess, sys
own = socket.create_server(("127.0.0.1", 0))
child = subprocess.Popen(["sleep", "60"])
print(own.getsockname()[1], child.pid, flush=True)
sys.stdin.read()
child.kill()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_port_s_processes_are_who_listens_and_their_children() -> None:
    command = [sys.executable, "-c", LISTENS]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        port, child = map(int, process.stdout.readline().split())
        found = serving(port)
        process.communicate()
    assert found == {process.pid, child}
    assert serving(port) == frozenset()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as own:
        port = own.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert os.getpid() in serving(port)
            assert serving(client.getsockname()[1]) == frozenset()


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert serving(8000, tmp_path) == frozenset()
    (tmp_path / "net").mkdir()
    row = "0: 0100007F:1F40 00000000:0000 0A 0:0 0:0 0 0 0 77"
    (tmp_path / "net" / "tcp6").write_text(f"header\n{row}\n")
    for pid, parent, link in ((5, 1, "socket:[77]"), (6, 5, "/dev/null"), (7, 6, ""), (8, 1, "")):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (a name) S) S {parent} 0 0")
        if link:  # the others' folders cannot be read
            (folder / "fd").mkdir()
            (folder / "fd" / "3").symlink_to(link)
    (tmp_path / "9").mkdir()  # it has ended meanwhile
    assert serving(8000, tmp_path) == {5, 6, 7}
    assert serving(8001, tmp_path) == frozenset()


SMI = """#!/bin/sh
case "$1" in
  --query-compute-apps=pid,gpu_uuid) printf '70, GPU-b\\n[N/A], GPU-a\\n71, GPU-c\\n' ;;
  *) exit 1 ;;
esac
"""


def test_cards_are_told_from_the_processes_that_compute_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(SMI)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cards = [Card(n, "H100", 80_000, 8_000, (9, 0), f"GPU-{name}") for n, name in enumerate("abc")]
    assert gpu.used_by({70, 72}, cards) == (cards[1],)
    assert gpu.used_by({70, 71}, cards) == (cards[1], cards[2])
    assert gpu.used_by({72}, cards) == ()
    script.write_text("#!/bin/sh\nexit 9\n")
    assert gpu.used_by({70}, cards) == ()
