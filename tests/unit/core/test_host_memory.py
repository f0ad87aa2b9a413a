"""Free memory within control groups, and tuned malloc thresholds."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from components.core.host_memory import free_memory_bytes

MB = 1 << 20


def group(folder: Path, limit: str, used: int, cached: int = 0, version: int = 2) -> None:
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cached}\nfile 9\n")


def free(tmp_path: Path, own: str) -> int:
    (tmp_path / "own").write_text(own)
    return free_memory_bytes(tmp_path / "groups", tmp_path / "own")


def test_free_memory_respects_the_limit_of_a_container(tmp_path: Path) -> None:
    """The container's own group is the root of the groups that it can read; the page cache counts
    as free."""
    group(tmp_path / "groups", str(100 * MB), 70 * MB, cached=20 * MB)
    assert free(tmp_path, "0::/\n") == 50 * MB
    assert free(tmp_path, "0::/docker/not/to/be/seen/here\n") == 50 * MB


def test_the_tightest_limit_of_all_parent_groups_counts(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    group(groups / "slurm", str(90 * MB), 80 * MB)
    group(groups / "slurm" / "job:7", str(60 * MB), 20 * MB)
    group(groups / "slurm" / "job:7" / "step", "max", 20 * MB)
    group(groups / "other", str(MB), MB)
    assert free(tmp_path, "0::/slurm/job:7/step\n") == 10 * MB


def test_control_groups_of_version_1_are_read(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "memory", str(0x7FFFFFFFFFFFF000), 5 * MB, version=1)
    container = tmp_path / "groups" / "memory" / "docker" / "a"
    group(container, str(40 * MB), 30 * MB, cached=5 * MB, version=1)
    groups_of_process = "4:cpu,cpuacct:/x\n3:memory:/docker/a\n1:name=systemd:/y\n0::/z\n"
    assert free(tmp_path, groups_of_process) == 15 * MB


def test_free_memory_is_zero_beyond_the_limit(tmp_path: Path) -> None:
    group(tmp_path / "groups", str(100 * MB), 130 * MB)
    assert free(tmp_path, "0::/\n") == 0


@pytest.mark.parametrize("own", ["0::/\n", "nonsense\n", ""])
def test_without_limits_free_memory_is_that_of_the_machine(tmp_path: Path, own: str) -> None:
    group(tmp_path / "groups", "max", 5 * MB)
    assert 0 < free(tmp_path, own) <= psutil.virtual_memory().total
    assert (
        0
        < free_memory_bytes(tmp_path / "groups", tmp_path / "absent")
        <= psutil.virtual_memory().total
    )


FAULTS = """
import resource, sys
import numpy as np
from components.core.host_memory import tune_malloc_thresholds
if sys.argv[1] == "tuned":
    assert tune_malloc_thresholds()
def work():
    for _ in range(20):
        np.ones(6_000_000)  # 48 MB: by default glibc maps and unmaps it every time
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def num_page_faults(mode: str) -> int:
    command = [sys.executable, "-c", FAULTS, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is part of glibc")
def test_tuned_thresholds_avoid_repeated_page_faults() -> None:
    assert num_page_faults("tuned") < 1000 < 5000 < num_page_faults("default")
