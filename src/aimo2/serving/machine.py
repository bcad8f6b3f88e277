"""What this process may use of the machine: cores, memory, graphics cards. Knows no models.

A container or a batch system often grants less than the machine has, and an engine with more
threads than granted cores is slowed down by its own waiting. So counts are the least of: the CPUs
of the affinity mask, the control group's quota, and physical cores (two hyper-threads share the
arithmetic units that bound a CPU engine). Control groups: the kernel's
`Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.

Memory limits that are set with `ulimit` are not seen.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card. `memory_mib`: as the driver reports it."""

    name: str
    memory_mib: int
    driver: str


def usable_cores(root: Path = _ROOT) -> int:
    """Physical cores that this process may keep busy, at least 1.

    `root`: where `/proc` and `/sys` are looked up.
    """
    cpus = _affinity()
    physical = _physical(cpus, root) if cpus else (psutil.cpu_count(logical=False) or 1)
    quota = cpu_quota(root)
    return max(1, physical if quota is None else min(physical, int(quota)))


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that can be allocated without swapping or reaching the control group's limit."""
    free = psutil.virtual_memory().available
    return min([free, *(_free_in(group) for group in _groups("memory", root))])


def total_memory(root: Path = _ROOT) -> int:
    """Bytes of memory, or the control group's limit where that is less."""
    limits = [_limit(group) for group in _groups("memory", root)]
    return min([psutil.virtual_memory().total, *(limit for limit in limits if limit is not None)])


def cpu_quota(root: Path = _ROOT) -> float | None:
    """CPUs' worth of time that the control groups grant; `None` where nothing limits it."""
    quotas = [quota for group in _groups("cpu", root) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def cpu_name(root: Path = _ROOT) -> str:
    """The processor's name where the system tells it, else the architecture."""
    return _cpuinfo("model name", root) or platform.processor() or platform.machine()


def has_avx2(root: Path = _ROOT) -> bool | None:
    """Whether the CPU has AVX2; `None` where that cannot be told or has no meaning."""
    flags = _cpuinfo("flags", root)
    return None if flags is None else "avx2" in flags.split()


def gpus(timeout: float = 10.0) -> tuple[Gpu, ...]:
    """NVIDIA cards as `nvidia-smi` lists them; none where it is missing, fails or hangs.

    `timeout`: seconds. A driver that is being installed or has crashed can block for minutes.
    """
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version"]
    try:
        listing = subprocess.run(
            [*query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(listing)


def parse_gpus(listing: str) -> tuple[Gpu, ...]:
    """Cards of a CSV listing `name, memory in MiB, driver`; other lines are skipped."""
    rows = ([cell.strip() for cell in line.rsplit(",", 2)] for line in listing.splitlines())
    return tuple(
        Gpu(row[0], int(row[1]), row[2]) for row in rows if len(row) == 3 and row[1].isdigit()
    )


def _affinity() -> frozenset[int]:
    """The CPUs this process may run on; empty where the system has no such mask."""
    ask = getattr(os, "sched_getaffinity", None)
    return frozenset(ask(0)) if ask else frozenset()


def _physical(cpus: frozenset[int], root: Path) -> int:
    """Distinct cores among the CPUs; a CPU whose core is unknown counts as one."""
    names = (_siblings(cpu, root) or str(cpu) for cpu in cpus)
    return len(set(names))


def _siblings(cpu: int, root: Path) -> str | None:
    """The hyper-threads of a CPU's core, as the kernel writes them: the same text for each."""
    return _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")


def _cpuinfo(key: str, root: Path) -> str | None:
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the control groups around this process, innermost first.

    Inside a container the path in `/proc/self/cgroup` may be the host's and not exist here; the
    walk up to the mount's root then still meets the container's own group.
    """
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        inner = Path(path.strip("/"))
        yield from (mount / group for group in (inner, *inner.parents) if ".." not in group.parts)


def _quota(group: Path) -> float | None:
    text = _read(group / "cpu.max")  # version 2: "QUOTA PERIOD" or "max PERIOD", microseconds
    if text is None:
        parts = [_read(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    else:
        parts = text.split()
    numbers = [int(part) for part in parts if part.isdigit()]  # version 1: -1 means no limit
    return numbers[0] / numbers[1] if len(numbers) == 2 and numbers[1] else None


def _limit(group: Path) -> int | None:
    return _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")


def _free_in(group: Path) -> int:
    """Bytes left in a group; cached file pages count as free, because they are given back."""
    limit = _limit(group)
    if limit is None:
        return sys.maxsize
    used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
    return max(0, limit - used + _cached(group))


def _cached(group: Path) -> int:
    for line in (_read(group / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
