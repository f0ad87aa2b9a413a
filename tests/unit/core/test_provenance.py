"""Dirty means that code or versions differ from the commit; data have their own md5."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components.core.provenance import code_of


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in (
        "components/a.py",
        "pyproject.toml",
        "requirements/main.lock",
        "data.dvc",
        "README.md",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("as committed")
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for arguments in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "all")):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "is_dirty"),
    [
        ("components/a.py", True),
        ("components/untracked.py", True),
        ("flows/untracked.py", True),
        ("pyproject.toml", True),
        ("requirements/main.lock", True),
        ("data.dvc", False),
        ("README.md", False),
        ("notes.txt", False),
    ],
)
def test_only_code_makes_a_checkout_dirty(checkout: Path, name: str, is_dirty: bool) -> None:
    assert code_of(checkout)["git_dirty"] is False
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("changed")
    assert code_of(checkout)["git_dirty"] is is_dirty


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path) -> None:
    assert code_of(tmp_path) == {"git_commit": "unknown", "git_dirty": None}
