"""`codegen doctor`: what this machine has and lacks, what it costs to go without, and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.markup import escape

from flows.execution import Execution

_RUN_DISK_BYTES = 3_000_000_000
"""Measured: the starter run leaves 1.1 GB (data twice, once in DVC's cache, artifacts, models), rounded up."""
_RUN_MEMORY_BYTES = 6_000_000_000
"""The starter run's stated peak."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    fine: bool
    found: str
    cost: str = ""
    """What it costs to go without."""
    remedy: str = ""
    needed: bool = True
    """Whether runs fail without it; what is merely better to have does not fail the examination."""


def examine(execution: Execution, console: Console) -> bool:
    """Print every finding; False where something that is needed is missing."""
    findings = list(_findings(execution))
    for one in findings:
        mark = "[green]✓[/green]" if one.fine else "[red]✗[/red]" if one.needed else "[yellow]![/yellow]"
        console.print(f"{mark} {one.name:<12} {escape(one.found)}", soft_wrap=True)
        if not one.fine:
            console.print(f"    without it:  {escape(one.cost)}\n    do this:     {escape(one.remedy)}", soft_wrap=True)
    return all(one.fine for one in findings if one.needed)


def _findings(execution: Execution) -> Iterator[Finding]:
    yield Finding(
        "python",
        sys.version_info >= (3, 11),
        platform.python_version(),
        "nothing runs below 3.11",
        "install Python 3.11 or newer, then make PYTHON=python3.11 run",
    )
    git = shutil.which("git")
    yield Finding(
        "git", git is not None, git or "not found", "DVC cannot tell what is committed, runs carry no commit",
        "apt-get install git",
    )  # fmt: skip
    yield _jail(execution)
    free = shutil.disk_usage(execution.workspace_path).free
    yield Finding(
        "disk", free > _RUN_DISK_BYTES, f"{free / 1e9:,.1f} GB free at {execution.workspace_path}",
        "a starter run may stop half-way; it continues once there is room",
        f"free {_RUN_DISK_BYTES / 1e9:.0f} GB, or set CODEGEN_WORKSPACE to a larger disk", needed=False,
    )  # fmt: skip
    memory = psutil.virtual_memory().available
    yield Finding(
        "memory", memory > _RUN_MEMORY_BYTES, f"{memory / 1e9:,.1f} GB available",
        "a starter run may be killed by the system", "close other programs, or --at training.num_processes=1", needed=False,
    )  # fmt: skip
    cores = os.cpu_count() or 1
    yield Finding(
        "processors",
        cores >= 2,
        f"{cores}",
        "a starter run takes twice as long",
        "use a machine with two cores",
        needed=False,
    )


def _jail(execution: Execution) -> Finding:
    from components.evaluation.sandbox import probe

    report = probe(kind=execution.sandbox)
    if report.caveat:
        return Finding(
            "sandbox", False, report.summary, "namespaces: verdicts differ, and scores are of a protocol of their own",
            "install bubblewrap (sudo apt-get install bubblewrap) where namespaces are allowed", needed=False,
        )  # fmt: skip
    return Finding(
        "sandbox",
        report.available,
        report.summary,
        "nothing that a model writes is executed: no pass@k and no MTPB pass rate, and the results say so",
        report.remedy,
        needed=False,
    )
