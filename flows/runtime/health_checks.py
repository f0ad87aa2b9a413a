"""Checks before a run: of this machine (`codegen doctor`) and of recipe and execution config.

`run_checks` changes nothing and starts no server. It covers this host only, not other hosts of a
distributed run.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil
from packaging.requirements import Requirement

from components.core.errors import ConfigError, TrackingError
from components.core.network import health_error, redact_credentials
from components.core.sqlite import sqlite_path
from components.registry.config import benchmark_of
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe

_RUN_DISK_BYTES = 3_000_000_000
"""Measured: a starter run writes 1.1 GB (data, DVC's cache, artifacts, models); rounded up."""
_RUN_MEMORY_BYTES = 6_000_000_000
"""The stated peak of a starter run."""
_HEALTH_TIMEOUT_S = 5.0
"""Assumption: a server that takes longer to answer a health check is of no use."""
_MAX_LISTED = 5
"""Packages that a line lists by name; it counts the others."""


def preflight_check(recipe: Recipe, execution: Execution) -> None:
    """Find errors that would otherwise stop a flow of several steps after hours.

    `Recipe` validates what depends on the recipe alone.

    Raises:
        ConfigError: the gate has no requirements for a stage, a stage's batch cannot be divided
            over the processes, or DeepSpeed options cannot be used.
        EvaluationError: the file of a benchmark is missing, has another SHA-256, or has an invalid
            line.
    """
    from components.registry.gate import require_rules

    check_benchmarks(recipe, execution)
    gate = recipe.gate
    for stage in recipe.training.trained:
        require_rules(gate, stage)
    check_training(recipe, execution, recipe.training.trained)


def check_benchmarks(recipe: Recipe, execution: Execution) -> None:
    """Check that every benchmark of the recipe can be searched for and evaluated.

    Raises:
        ConfigError: a selected problem of MTPB does not exist, the gate of a stage requires a
            benchmark that is skipped, or `benchmark_files` names a benchmark that the recipe does
            not have.
        EvaluationError: the file of a benchmark is missing, has another SHA-256, or has an invalid
            line.
    """
    from components.evaluation.benchmarks.benchmark_files import load_protocol
    from components.evaluation.benchmarks.custom_benchmark import read_search_texts

    # CODEGEN_MTPB sets the path of MTPB for all recipes.
    if unknown := execution.benchmark_files.keys() - recipe.benchmarks.keys() - {"mtpb"}:
        raise ConfigError(
            f"benchmark_files has {', '.join(sorted(unknown))}",
            expected="benchmarks of the recipe: "
            f"{', '.join(sorted(recipe.benchmarks)) or 'it has none'}",
            fix="correct the name, or add the benchmark to the recipe: --set benchmarks.NAME=...",
        )
    searched, evaluated = recipe.searched_benchmarks(), recipe.evaluated_benchmarks
    files = execution.find_benchmarks({**searched, **evaluated})
    for stage, gate in recipe.stage_gates.items():
        for metric in gate.metrics:
            benchmark = benchmark_of(metric)
            if reason := files.skipped.get(benchmark):
                raise ConfigError(
                    f"stage_gates.{stage} requires {metric}, and the optional benchmark "
                    f"{benchmark} is skipped: {reason}",
                    expected=f"the file of {benchmark}",
                    fix="provide the file, or remove the requirement",
                )
    for name, path in files.paths.items():
        if name in searched:
            read_search_texts(path)
        if name in evaluated:
            load_protocol(name, path, recipe.evaluation)


def check_training(recipe: Recipe, execution: Execution, stages: Iterable[str]) -> None:
    """Check that stages can be trained with the processes and DeepSpeed options.

    Raises:
        ConfigError: a stage's batch cannot be divided over the processes, or DeepSpeed options
            cannot be used.
    """
    from components.training.deepspeed_config import check_batch_division, check_deepspeed_options

    context_length = recipe.model.context_length
    for stage in stages:
        settings = recipe.training.stages[stage]
        check_batch_division(settings, execution.training, context_length)
        check_deepspeed_options(settings, execution.training, context_length)


class CheckResult(NamedTuple):
    """The result of one check of this machine."""

    name: str
    ok: bool
    detail: str
    impact: str = ""
    """Consequence if the check fails."""
    fix: str = ""
    required: bool = True
    """Whether runs fail if the check fails."""


def run_checks(execution: Execution) -> Iterator[CheckResult]:
    """Yield the result of every check."""
    yield CheckResult(
        "python",
        sys.version_info >= (3, 11),
        platform.python_version(),
        "nothing runs with Python below 3.11",
        "install Python 3.11 or newer, then make PYTHON=python3.11 run",
    )
    yield _check_packages()
    yield _check_versions(execution.project_path / "requirements")
    git = shutil.which("git")
    yield CheckResult(
        "git",
        git is not None,
        git or "not found",
        "DVC cannot read commits, and runs record no commit",
        "apt-get install git",
    )
    yield _check_prefect()
    yield _check_mlflow(execution)
    yield _check_sandbox(execution)
    yield from _check_hardware(execution.workspace_path)
    yield _check_gpu()


def _check_packages() -> CheckResult:
    """Check that all declared dependencies are installed; optional extras do not count."""
    requirements = metadata.requires("codegen-platform") or []
    names = [
        re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        for requirement in requirements
        if "extra ==" not in requirement
    ]
    missing = [name for name in names if _installed_version(name) is None]
    return CheckResult(
        "packages",
        not missing,
        f"{_shorten(missing)} not installed" if missing else f"{len(names)} are installed",
        "commands that import them fail",
        "make install",
    )


def _check_versions(locks: Path) -> CheckResult:
    """Check that installed packages have the versions that were tested together."""
    if not locks.is_dir():
        detail = f"not compared: {locks} does not exist"
        return CheckResult("versions", True, detail, required=False)
    num_equal = 0
    differences: list[str] = []
    for name, pinned in sorted(_read_pins(locks)):
        installed = _installed_version(name)
        if installed == pinned:
            num_equal += 1
        elif installed is not None:
            differences.append(f"{name} {installed} instead of {pinned}")
    return CheckResult(
        "versions",
        not differences,
        _shorten(differences) or f"{num_equal} packages as in {locks}",
        "these versions were not tested together",
        "make install",
        required=False,
    )


def _read_pins(folder: Path) -> set[tuple[str, str]]:
    """Return name and version of every package that the lock files have for this environment."""
    pins: set[tuple[str, str]] = set()
    for lock in folder.glob("*.lock"):
        for line in lock.read_text(encoding="utf-8").splitlines():
            if re.match(r"[A-Za-z0-9._-]+==", line):
                requirement = Requirement(line.removesuffix("\\"))
                if requirement.marker is None or requirement.marker.evaluate():
                    version = str(requirement.specifier).removeprefix("==")
                    pins.add((requirement.name, _public_version(version)))
    return pins


def _installed_version(name: str) -> str | None:
    try:
        return _public_version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _public_version(version: str) -> str:
    """Remove the build from a version: 2.13.0+cpu is a build of 2.13.0."""
    return version.partition("+")[0]


def _shorten(items: list[str]) -> str:
    num_more = len(items) - _MAX_LISTED
    return ", ".join(items[:_MAX_LISTED]) + (f" and {num_more} more" if num_more > 0 else "")


def _check_prefect() -> CheckResult:
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        detail = "no server is configured: every run starts a temporary server on loopback"
        return CheckResult("Prefect", True, detail)
    error = health_error(f"{url}/health", _HEALTH_TIMEOUT_S)
    safe_url = redact_credentials(url)
    return CheckResult(
        "Prefect",
        error is None,
        f"{safe_url} is healthy" if error is None else f"{safe_url} does not answer: {error}",
        "no flow starts",
        "start it (`codegen ui`, `prefect server start`), or unset PREFECT_API_URL",
    )


def _check_mlflow(execution: Execution) -> CheckResult:
    uri = execution.resolved_tracking_uri
    database = sqlite_path(uri)
    if database and not database.exists():
        detail = f"no server is configured: the first run creates {uri}"
        return CheckResult("MLflow", True, detail)
    try:
        execution.open_tracking().check()
    except TrackingError as error:
        return CheckResult("MLflow", False, error.got, "no run starts", error.fix)
    return CheckResult("MLflow", True, f"{redact_credentials(uri)} is healthy")


def _check_sandbox(execution: Execution) -> CheckResult:
    from components.evaluation.sandbox import probe

    report = probe(kind=execution.sandbox)
    if report.restriction:
        impact = "results differ from those in namespaces, so scores belong to a separate protocol"
        fix = "install bubblewrap (sudo apt-get install bubblewrap) and allow user namespaces"
        return CheckResult("sandbox", False, report.summary, impact, fix, required=False)
    return CheckResult(
        "sandbox",
        report.available,
        report.summary,
        "generated programs are not executed: results have no pass@k and no MTPB pass rate",
        report.fix,
        required=False,
    )


def _check_hardware(workspace: Path) -> Iterator[CheckResult]:
    free_bytes = shutil.disk_usage(workspace).free
    yield CheckResult(
        "disk",
        free_bytes > _RUN_DISK_BYTES,
        f"{free_bytes / 1e9:,.1f} GB free at {workspace}",
        "a starter run may stop before its end; it resumes once there is space",
        f"free {_RUN_DISK_BYTES / 1e9:.0f} GB, or set CODEGEN_WORKSPACE to a larger disk",
        required=False,
    )
    memory_bytes = psutil.virtual_memory().available
    yield CheckResult(
        "memory",
        memory_bytes > _RUN_MEMORY_BYTES,
        f"{memory_bytes / 1e9:,.1f} GB available",
        "the system may kill a starter run",
        "close other programs, or --exec training.world_size=1",
        required=False,
    )
    num_cores = os.cpu_count() or 1
    yield CheckResult(
        "processors",
        num_cores >= 2,
        f"{num_cores}",
        "a starter run takes twice as long",
        "use a machine with two cores",
        required=False,
    )


def _check_gpu() -> CheckResult:
    """Check that the driver lists a GPU and that PyTorch can use it."""
    gpus = ""
    if nvidia_smi := shutil.which("nvidia-smi"):
        command = [nvidia_smi, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        gpus = "; ".join(result.stdout.strip().splitlines()) if result.returncode == 0 else ""
    if not gpus:
        return CheckResult(
            "GPU",
            False,
            "none",
            "training runs on the CPU: fine for starter and tiny, weeks for the paper's recipes",
            "a machine with GPUs; `codegen plan` estimates how many (docs/training.md)",
            required=False,
        )
    import torch

    return CheckResult(
        "GPU",
        torch.cuda.is_available(),
        gpus,
        f"PyTorch {torch.__version__} cannot use it, so training runs on the CPU",
        f"install the CUDA build of PyTorch {torch.__version__.split('+', maxsplit=1)[0]}",
        required=False,
    )
