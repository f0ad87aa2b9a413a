"""`codegen doctor` on machines that lack something."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
from fixtures.codegen_command import HEAVY, run_codegen
from fixtures.tmpfs import limited_disk

from components.core.network import free_port
from flows.runtime.health_checks import CheckResult, run_checks
from flows.settings.execution import Execution


def check_results(project: Path, **settings: Any) -> dict[str, CheckResult]:
    (project / "var").mkdir(exist_ok=True)
    execution = Execution(project=str(project), **settings)
    return {result.name: result for result in run_checks(execution)}


def run_doctor(
    project: Path, *arguments: str, **environment: str
) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Return the exit code, the results by name, and standard error."""
    options = ["doctor", "--json", "--exec", f"project={project}", *arguments]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_"))
    }
    process = run_codegen(*options, preload=HEAVY, environment=inherited | environment)
    results = {result["name"]: result for result in json.loads(process.stdout)["checks"]}
    return process.returncode, results, process.stderr


def test_a_limited_disk_is_reported_but_not_required(tmp_path: Path) -> None:
    with limited_disk(tmp_path / "small", size_kb=4096) as disk:
        status, results, _ = run_doctor(tmp_path, "--exec", f"workspace={disk}")
    assert status == 0
    assert not results["disk"]["ok"]
    assert results["disk"]["detail"] == f"0.0 GB free at {disk}"
    assert "CODEGEN_WORKSPACE" in results["disk"]["fix"]
    assert not results["disk"]["required"]
    assert results["disk"]["impact"]


@pytest.fixture(scope="module")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, CheckResult]]:
    """An empty project and the results of all checks, which take seconds."""
    project = tmp_path_factory.mktemp("project")
    return project, check_results(project)


def test_a_disk_with_3_gb_is_ok(new_project: tuple[Path, dict[str, CheckResult]]) -> None:
    project, results = new_project
    free = psutil.disk_usage(str(project)).free
    assert results["disk"].ok == (free > 3_000_000_000)


def test_versions_are_compared_with_the_lock(
    tmp_path: Path, new_project: tuple[Path, dict[str, CheckResult]]
) -> None:
    assert "not compared" in new_project[1]["versions"].detail
    torch, numpy = (metadata.version(name).partition("+")[0] for name in ("torch", "numpy"))
    lock = tmp_path / "requirements" / "main.lock"
    lock.parent.mkdir()
    hashed = f"{{}} \\\n    --hash=sha256:{'0' * 64}\n"
    lines = (f"torch=={torch}", "numpy==0.9 ; sys_platform == 'win32'", "not-installed==1.0")
    (lock.parent / "torch-cpu.lock").write_text(hashed.format(f"torch=={torch}+cpu"))
    lock.write_text("# a comment\n" + "".join(map(hashed.format, lines)))
    same = check_results(tmp_path)["versions"]
    assert (same.ok, same.detail) == (True, f"1 packages as in {lock.parent}")
    lines = (f"torch=={torch}", "numpy==0.9 ; python_version >= '3.11'")
    lock.write_text("".join(map(hashed.format, lines)))
    other = check_results(tmp_path)["versions"]
    assert (other.ok, other.required, other.detail, other.fix) == (
        False,
        False,
        f"numpy {numpy} instead of 0.9",
        "make install",
    )


def test_all_declared_packages_are_installed(
    new_project: tuple[Path, dict[str, CheckResult]],
) -> None:
    result = new_project[1]["packages"]
    assert result.ok
    assert int(result.detail.split()[0]) > 20


@pytest.mark.slow
def test_unreachable_configured_servers_exit_with_3(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    secret = url.replace("//", "//ada:lovelace@")
    status, results, errors = run_doctor(
        tmp_path, PREFECT_API_URL=f"{secret}/api", MLFLOW_TRACKING_URI=url
    )
    assert status == 3
    assert "lovelace" not in f"{results}{errors}"
    assert results["Prefect"]["detail"].startswith(url.replace("//", "//USER:PASSWORD@"))
    assert not results["Prefect"]["ok"]
    assert "unset PREFECT_API_URL" in results["Prefect"]["fix"]
    assert url in results["MLflow"]["detail"]
    assert not results["MLflow"]["ok"]


def test_the_checks_create_no_database(new_project: tuple[Path, dict[str, CheckResult]]) -> None:
    project, results = new_project
    assert results["MLflow"].ok
    assert f"sqlite:///{project}/var/mlflow/mlflow.db" in results["MLflow"].detail
    assert not (project / "var" / "mlflow").exists()
