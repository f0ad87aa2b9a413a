"""`codegen doctor`: what this machine has and lacks, what it costs to go without, and how to get it.

One decision: every finding is a plain record, and who prints it decides nothing; what is merely better to have does not
fail the examination. Nothing is made or mended here, and no server is started. Not covered: other hosts of a run.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil

from components.core.errors import TrackingError
from components.core.network import redact_credentials
from flows.settings.execution import Execution, health_error

_RUN_DISK_BYTES = 3_000_000_000
"""Measured: the starter run leaves 1.1 GB (data twice, once in DVC's cache, artifacts, models), rounded up."""
_RUN_MEMORY_BYTES = 6_000_000_000
"""The starter run's stated peak."""
_ANSWER_TIMEOUT_S = 5.0
"""Assumption: a server that takes longer to say that it is well is no help to a run."""
_MAX_NAMED = 5
"""Packages that a line names before it only counts."""


class CheckResult(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    impact: str = ""
    """What it costs to go without."""
    fix: str = ""
    required: bool = True
    """Whether runs fail without it; what is merely better to have does not fail the examination."""


def run_checks(execution: Execution) -> Iterator[CheckResult]:
    """Look at one thing after the other."""
    yield CheckResult(
        "python",
        sys.version_info >= (3, 11),
        platform.python_version(),
        "nothing runs below 3.11",
        "install Python 3.11 or newer, then make PYTHON=python3.11 run",
    )
    yield _packages()
    yield _versions(execution.project_path / "constraints.txt")
    git = shutil.which("git")
    yield CheckResult(
        "git", git is not None, git or "not found", "DVC cannot tell what is committed, runs carry no commit",
        "apt-get install git",
    )  # fmt: skip
    yield _prefect()
    yield _mlflow(execution)
    yield _jail(execution)
    yield from _machine(execution.workspace_path)
    yield _gpu()


def _packages() -> CheckResult:
    """Whether everything is installed that the project's own declaration names, optional extras left out."""
    declared = [one for one in metadata.requires("codegen-platform") or [] if "extra ==" not in one]
    names = [re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0] for one in declared]
    missing = [name for name in names if _installed(name) is None]
    return CheckResult(
        "packages",
        not missing,
        f"{_named(missing)} not installed" if missing else f"{len(names)} are installed",
        "commands that import them fail",
        "pip install -c constraints.txt -e .",
    )


def _versions(constraints: Path) -> CheckResult:
    """Whether the installed packages have the versions that were tested together."""
    if not constraints.is_file():
        return CheckResult(
            "versions", True, f"not compared: there is no {constraints}", required=False
        )
    pinned = re.findall(
        r"^([A-Za-z0-9._-]+)==(\S+)", constraints.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    installed = {name: (_installed(name), version) for name, version in pinned}
    other = [
        f"{name} {found} instead of {version}"
        for name, (found, version) in installed.items()
        if found not in (None, version)
    ]
    same = sum(found == version for found, version in installed.values())
    return CheckResult(
        "versions",
        not other,
        _named(other) if other else f"{same} packages as in {constraints}",
        "these versions were not tested together",
        f"pip install -c {constraints} -e {constraints.parent}",
        required=False,
    )


def _installed(name: str) -> str | None:
    try:
        # A local part names a build of the same version: 2.13.0+cpu.
        return metadata.version(name).split("+", maxsplit=1)[0]
    except metadata.PackageNotFoundError:
        return None


def _named(these: list[str]) -> str:
    more = len(these) - _MAX_NAMED
    return ", ".join(these[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _prefect() -> CheckResult:
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        return CheckResult(
            "Prefect", True, "no server is configured: every run starts a temporary one on loopback"
        )
    error, shown = health_error(f"{url}/health", _ANSWER_TIMEOUT_S), redact_credentials(url)
    if error is None:
        return CheckResult("Prefect", True, f"{shown} answers")
    return CheckResult(
        "Prefect", False, f"{shown} does not answer: {error}", "no flow begins",
        "start it (`codegen ui`, `prefect server start`), or unset PREFECT_API_URL",
    )  # fmt: skip


def _mlflow(execution: Execution) -> CheckResult:
    uri = execution.resolved_tracking_uri
    if uri.startswith("sqlite:") and not Path(uri.removeprefix("sqlite:///")).exists():
        return CheckResult("MLflow", True, f"no server is configured: the first run makes {uri}")
    try:
        execution.open_tracking().check()
    except TrackingError as error:
        return CheckResult("MLflow", False, error.got, "no run begins", error.fix)
    return CheckResult("MLflow", True, f"{redact_credentials(uri)} answers")


def _jail(execution: Execution) -> CheckResult:
    from components.evaluation.sandbox import probe

    report = probe(kind=execution.sandbox)
    if report.caveat:
        return CheckResult(
            "sandbox", False, report.summary, "namespaces: verdicts differ, and scores are of a protocol of their own",
            "install bubblewrap (sudo apt-get install bubblewrap) where namespaces are allowed", required=False,
        )  # fmt: skip
    return CheckResult(
        "sandbox",
        report.available,
        report.summary,
        "nothing that a model writes is executed: no pass@k and no MTPB pass rate, and the results say so",
        report.fix,
        needed=False,
    )


def _machine(workspace: Path) -> Iterator[CheckResult]:
    free = shutil.disk_usage(workspace).free
    yield CheckResult(
        "disk", free > _RUN_DISK_BYTES, f"{free / 1e9:,.1f} GB free at {workspace}",
        "a starter run may stop half-way; it continues once there is room",
        f"free {_RUN_DISK_BYTES / 1e9:.0f} GB, or set CODEGEN_WORKSPACE to a larger disk", required=False,
    )  # fmt: skip
    memory = psutil.virtual_memory().available
    yield CheckResult(
        "memory", memory > _RUN_MEMORY_BYTES, f"{memory / 1e9:,.1f} GB available",
        "a starter run may be killed by the system", "close other programs, or --exec training.world_size=1", required=False,
    )  # fmt: skip
    cores = os.cpu_count() or 1
    yield CheckResult(
        "processors",
        cores >= 2,
        f"{cores}",
        "a starter run takes twice as long",
        "use a machine with two cores",
        required=False,
    )


def _gpu() -> CheckResult:
    """What the driver sees, and whether PyTorch was built for it."""
    found = ""
    if tool := shutil.which("nvidia-smi"):
        asked = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        listed = subprocess.run(asked, capture_output=True, text=True, check=False)
        found = "; ".join(listed.stdout.strip().splitlines()) if listed.returncode == 0 else ""
    if not found:
        return CheckResult(
            "GPU", False, "none", "stages train on the cores: right for starter and tiny, weeks for the paper's recipes",
            "a machine with GPUs; `codegen plan -r 350m --gpu h100` says how many", required=False,
        )  # fmt: skip
    import torch

    return CheckResult(
        "GPU", torch.cuda.is_available(), found, f"PyTorch {torch.__version__} cannot use it, and stages train on the cores",
        f"install the CUDA build of PyTorch {torch.__version__.split('+', maxsplit=1)[0]}", required=False,
    )  # fmt: skip
