import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from aimo2.serving import machine
from aimo2.serving.machine import Gpu

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def siblings(*pairs: str) -> dict[str, str]:
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {topology.format(cpu): pair for pair in pairs for cpu in pair.split(",")}


def test_this_machine_has_at_least_one_core_and_some_memory() -> None:
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)
    assert 0 < machine.available_memory() <= machine.total_memory()
    assert machine.cpu_name()


@pytest.mark.usefixtures("eight_cpus")
def test_two_threads_of_a_core_count_once(tmp_path: Path) -> None:
    root = write(tmp_path, siblings("0,4", "1,5", "2,6", "3,7"))
    assert machine.usable_cores(root) == 4


@pytest.mark.usefixtures("eight_cpus")
def test_cpus_of_unknown_cores_count_each(tmp_path: Path) -> None:
    assert machine.usable_cores(tmp_path) == 8


def test_only_cpus_of_the_affinity_mask_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 5}, raising=False)
    root = write(tmp_path, siblings("0,4", "1,5", "2,6", "3,7"))
    assert machine.usable_cores(root) == 2


def test_without_a_mask_the_physical_cores_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else 6)
    assert machine.usable_cores(tmp_path) == 6


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("maximum", "cores"),
    [("max 100000", 8), ("300000 100000", 3), ("250000 100000", 2), ("50000 100000", 1)],
)
def test_a_quota_of_the_second_kind_bounds_the_cores(
    tmp_path: Path, maximum: str, cores: int
) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": maximum})
    assert machine.usable_cores(root) == cores


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("200000", 2)])
def test_a_quota_of_the_first_kind_bounds_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    group = "sys/fs/cgroup/cpu/job"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/job\n1:name=systemd:/job",
            f"{group}/cpu.cfs_quota_us": quota,
            f"{group}/cpu.cfs_period_us": "100000",
        },
    )
    assert machine.usable_cores(root) == cores


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/job",
            "sys/fs/cgroup/slice/cpu.max": "150000 100000",
            "sys/fs/cgroup/slice/job/cpu.max": "400000 100000",
        },
    )
    assert machine.cpu_quota(root) == 1.5


def test_a_path_that_only_the_host_has_leads_to_the_containers_group(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {"proc/self/cgroup": "0::/../docker/123", "sys/fs/cgroup/cpu.max": "200000 100000"},
    )
    assert machine.cpu_quota(root) == 2.0


def test_without_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert machine.cpu_quota(tmp_path) is None


@pytest.fixture
def much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=64 * GIB, total=100 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.mark.usefixtures("much_memory")
def test_file_pages_of_a_group_count_as_free(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/job"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job",
            f"{group}/memory.max": str(8 * GIB),
            f"{group}/memory.current": str(5 * GIB),
            f"{group}/memory.stat": f"anon {3 * GIB}\ninactive_file {2 * GIB}",
        },
    )
    assert machine.available_memory(root) == 5 * GIB
    assert machine.total_memory(root) == 8 * GIB


@pytest.mark.usefixtures("much_memory")
def test_a_group_without_a_limit_leaves_the_machines_memory(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/memory.max": "max"})
    assert machine.available_memory(root) == 64 * GIB
    assert machine.total_memory(root) == 100 * GIB


@pytest.mark.usefixtures("much_memory")
def test_a_group_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(2 * GIB),
        },
    )
    assert machine.available_memory(root) == 0


def test_avx2_is_read_from_the_flags(tmp_path: Path) -> None:
    assert machine.has_avx2(tmp_path) is None
    root = write(tmp_path, {"proc/cpuinfo": "model name\t: Old CPU\nflags\t\t: fpu avx avx512f"})
    assert machine.has_avx2(root) is False
    assert machine.cpu_name(root) == "Old CPU"
    write(tmp_path, {"proc/cpuinfo": "flags\t\t: fpu avx avx2"})
    assert machine.has_avx2(root) is True


def test_cards_are_read_line_by_line() -> None:
    listing = "NVIDIA H200, 143771, 570.1\nOdd, name, 80000, 570.1\nNo devices were found\n"
    assert machine.parse_gpus(listing) == (
        Gpu("NVIDIA H200", 143771, "570.1"),
        Gpu("Odd, name", 80000, "570.1"),
    )


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError(),
        subprocess.TimeoutExpired("nvidia-smi", 10),
        subprocess.CalledProcessError(9, "nvidia-smi"),
    ],
)
def test_without_a_working_driver_there_are_no_cards(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise failure

    monkeypatch.setattr(subprocess, "run", fail)
    assert machine.gpus() == ()
