"""requirements/ against pyproject.toml: current, complete, with hashes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
LOCKS = ("build.lock", "main.lock", "torch.lock", "torch-cpu.lock")


def read_entries(name: str) -> list[str]:
    """The text of each locked package: its requirement and its hashes."""
    text = (PROJECT / "requirements" / name).read_text()
    return [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "requirements", "tests/lint/lock.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy_file = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy_file(PROJECT / name, tmp_path / name)
    return tmp_path


def check(project: Path) -> tuple[int, str]:
    command = [sys.executable, str(project / "tests/lint/lock.py"), "--check"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stderr == ""
    return process.returncode, process.stdout


def test_the_lock_is_current_until_a_declaration_changes(copy: Path) -> None:
    assert check(copy) == (0, "")
    pyproject = (copy / "pyproject.toml").read_text()
    (copy / "pyproject.toml").write_text(pyproject.replace("line-length = 100", "line-length = 99"))
    assert check(copy) == (0, "")
    for old, new in (("numpy>=2", "numpy>=2.1"), ("pytest>=9", "pytest>=9.1")):
        assert old in pyproject
        (copy / "pyproject.toml").write_text(pyproject.replace(old, new))
        status, message = check(copy)
        assert status == 1
        assert all(name in message for name in LOCKS)
        assert "make lock" in message


def test_an_absent_lock_is_not_current(copy: Path) -> None:
    (copy / "requirements/torch.lock").unlink()
    status, message = check(copy)
    assert (status, "torch.lock" in message, "main.lock" in message) == (1, True, False)


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_a_version_and_a_hash_but_no_address(name: str) -> None:
    entries = read_entries(name)
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==[^ ]+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}$", entry), entry
        assert "//" not in entry


def test_every_declared_package_is_locked_in_a_declared_version() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    versions: dict[str, list[str]] = {}
    for entry in read_entries("main.lock") + read_entries("torch.lock"):
        name, version = re.split("==| ", entry)[:2]
        versions.setdefault(canonicalize_name(name), []).append(version)
    extras = project["optional-dependencies"]
    (own,) = (line for line in extras["dev"] if line.startswith(project["name"]))
    lines = [*project["dependencies"], *extras["dev"]]
    lines += [line for name in Requirement(own).extras for line in extras[name]]
    for line in lines:
        requirement = Requirement(line)
        if requirement.name != project["name"]:
            locked = versions[canonicalize_name(requirement.name)]
            assert all(requirement.specifier.contains(version) for version in locked), line


def test_every_dependency_has_an_upper_bound() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            continue
        bounds = [item.version for item in requirement.specifier if item.operator in ("<", "==")]
        assert len(bounds) == 1, line
        if any(item.version.startswith("0.") for item in requirement.specifier):
            assert bounds[0].startswith("0."), line
