"""Commit, machine and package versions, recorded with an artifact but never part of its digest."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

_PACKAGES = (
    "deepspeed",
    "dvc",
    "gigatoken",
    "great-expectations",
    "mlflow",
    "prefect",
    "torch",
    "transformers",
)
_CODE_PATHS = ("flows", "components", "pyproject.toml", "requirements")
"""Files of the checkout that decide results: the code and the versions of its dependencies."""


def provenance() -> dict[str, JsonValue]:
    """Return the time (UTC), git commit, host, Python version and the versions of packages that
    decide results."""
    return {"created_at": datetime.now(UTC).isoformat(timespec="seconds"), **_code(), **_machine()}


@functools.cache
def _code() -> dict[str, JsonValue]:
    return code_of(Path(__file__).parents[2])


def code_of(root: Path) -> dict[str, JsonValue]:
    """Return the commit of a checkout, and whether code or dependencies differ from it, untracked
    files included.

    `data.dvc` does not count: pulling another preset rewrites it, and its md5 is part of every
    lineage.
    """

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(root), *arguments]
            completed = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None  # Not a checkout, or no git.
        return completed.stdout.strip()

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=all", "--", *_CODE_PATHS)
    return {
        "git_commit": commit or "unknown",
        "git_dirty": None if status is None else bool(status),
    }


@functools.cache
def _machine() -> dict[str, JsonValue]:
    versions: dict[str, JsonValue] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": versions,
    }
