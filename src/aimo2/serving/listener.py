"""Which processes serve a port of this machine, by Linux' `/proc`. Knows no cards and no models."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"
"""TCP_LISTEN in `/proc/net/tcp`, from <net/tcp_states.h>."""


def serving(port: int, proc: Path = Path("/proc")) -> frozenset[int]:
    """The processes that listen on a TCP port, and all that descend from them.

    Empty where there are none, or where they belong to somebody else and cannot be seen.
    """
    sockets = _sockets(port, proc)
    parents = dict(_parents(proc))
    found = {pid for pid in parents if sockets and _holds(proc / str(pid) / "fd", sockets)}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return frozenset(found)


def _sockets(port: int, proc: Path) -> frozenset[str]:
    """What the links in a process's `fd` folder say of the sockets that listen on the port."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                row = line.split()
                if row[3] == _LISTENS and int(row[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{row[9]}]")
    return frozenset(found)


def _parents(proc: Path) -> Iterator[tuple[int, int]]:
    """(process, its parent)."""
    for folder in proc.glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            status = (folder / "stat").read_text()
            # The name in parentheses may hold anything, blanks and parentheses too.
            yield int(folder.name), int(status.rpartition(")")[2].split()[1])


def _holds(descriptors: Path, sockets: frozenset[str]) -> bool:
    with suppress(OSError):
        for link in descriptors.iterdir():
            with suppress(OSError):
                if str(link.readlink()) in sockets:
                    return True
    return False
