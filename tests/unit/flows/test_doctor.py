"""`codegen doctor` on machines that lack something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
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
    command = [sys.executable, "-m", "flows.cli.main", *options]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_"))
    }
    process = subprocess.run(
        command,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
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


def test_a_disk_with_3_gb_is_ok(tmp_path: Path) -> None:
    free = psutil.disk_usage(str(tmp_path)).free
    assert check_results(tmp_path)["disk"].ok == (free > 3_000_000_000)


def test_versions_are_compared_with_the_lock(tmp_path: Path) -> None:
    assert "not compared" in check_results(tmp_path)["versions"].detail
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


def test_all_declared_packages_are_installed(tmp_path: Path) -> None:
    result = check_results(tmp_path)["packages"]
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


def test_the_checks_create_no_database(tmp_path: Path) -> None:
    result = check_results(tmp_path)["MLflow"]
    assert result.ok
    assert f"sqlite:///{tmp_path}/var/mlflow/mlflow.db" in result.detail
    assert not (tmp_path / "var" / "mlflow").exists()
