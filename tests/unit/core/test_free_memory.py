"""What may still be taken, in control groups as Linux shows them."""

from __future__ import annotations

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


def test_a_container_may_take_what_its_limit_leaves(tmp_path: Path) -> None:
    """Its own group is the root of what it sees; files that were read count as free."""
    group(tmp_path / "groups", str(100 * MB), 70 * MB, cached=20 * MB)
    assert free(tmp_path, "0::/\n") == 50 * MB
    assert free(tmp_path, "0::/docker/not/to/be/seen/here\n") == 50 * MB


def test_the_tightest_of_the_groups_above_counts(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    group(groups / "slurm", str(90 * MB), 80 * MB)
    group(groups / "slurm" / "job:7", str(60 * MB), 20 * MB)
    group(groups / "slurm" / "job:7" / "step", "max", 20 * MB)
    group(groups / "other", str(MB), MB)
    assert free(tmp_path, "0::/slurm/job:7/step\n") == 10 * MB


def test_version_1_has_its_own_names_and_its_own_place(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "memory", str(0x7FFFFFFFFFFFF000), 5 * MB, version=1)
    group(
        tmp_path / "groups" / "memory" / "docker" / "a",
        str(40 * MB),
        30 * MB,
        cached=5 * MB,
        version=1,
    )
    assert (
        free(tmp_path, "4:cpu,cpuacct:/x\n3:memory:/docker/a\n1:name=systemd:/y\n0::/z\n")
        == 15 * MB
    )


def test_beyond_the_limit_there_is_nothing(tmp_path: Path) -> None:
    group(tmp_path / "groups", str(100 * MB), 130 * MB)
    assert free(tmp_path, "0::/\n") == 0


@pytest.mark.parametrize("own", ["0::/\n", "nonsense\n", ""])
def test_where_nothing_limits_it_is_what_the_machine_has_free(tmp_path: Path, own: str) -> None:
    group(tmp_path / "groups", "max", 5 * MB)
    assert 0 < free(tmp_path, own) <= psutil.virtual_memory().total
    assert (
        0
        < free_memory_bytes(tmp_path / "groups", tmp_path / "absent")
        <= psutil.virtual_memory().total
    )
