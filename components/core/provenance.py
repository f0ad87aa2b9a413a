"""Who made it: commit, machine, packages. Recorded beside an artifact, never part of what it is."""

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
    "daft",
    "deepspeed",
    "dvc",
    "gigatoken",
    "great-expectations",
    "mlflow",
    "prefect",
    "torch",
    "transformers",
)


_CODE = ("flows", "components", "pyproject.toml", "constraints.txt")
"""What decides results, relative to the checkout: our code and the versions of everybody else's."""


def provenance() -> dict[str, JsonValue]:
    """Time (UTC), git commit, host, Python and the versions of the packages that decide results."""
    return {"created_at": datetime.now(UTC).isoformat(timespec="seconds"), **_code(), **_machine()}


@functools.cache
def _code() -> dict[str, JsonValue]:
    return code_of(Path(__file__).parents[2])


def code_of(root: Path) -> dict[str, JsonValue]:
    """The commit of a checkout, and whether code or versions differ from it, in files that git does not know as well.

    `data.dvc` does not count: a pull of another preset rewrites it, and its md5 is in the lineage of all that is made.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None  # Not a checkout, or no git: said as "unknown" below.
        return done.stdout.strip()

    commit, status = (
        git("rev-parse", "HEAD"),
        git("status", "--porcelain", "--untracked-files=all", "--", *_CODE),
    )
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
