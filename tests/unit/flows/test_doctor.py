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
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "doctor",
        "--json",
        "--exec",
        f"project={project}",
        *arguments,
    ]
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


def test_a_disk_that_is_too_small_for_a_run_is_said_and_fails_nothing(tmp_path: Path) -> None:
    with limited_disk(tmp_path / "small", size_kb=4096) as disk:
        status, found, _ = doctor(tmp_path, "--exec", f"workspace={disk}")
    assert status == 0
    assert not found["disk"]["ok"]
    assert found["disk"]["detail"] == f"0.0 GB free at {disk}"
    assert "free 3 GB, or set CODEGEN_WORKSPACE" in found["disk"]["fix"]


def test_a_disk_with_3_gb_is_ok(tmp_path: Path) -> None:
    free = psutil.disk_usage(str(tmp_path)).free
    assert findings(tmp_path)["disk"].ok == (free > 3_000_000_000)


def test_versions_are_compared_with_those_that_were_tested_together(tmp_path: Path) -> None:
    assert "not compared" in findings(tmp_path)["versions"].detail
    torch, numpy = (metadata.version(name).partition("+")[0] for name in ("torch", "numpy"))
    (tmp_path / "constraints.txt").write_text(f"# tested\ntorch=={torch}\nnobody-has-this==1.0\n")
    same = findings(tmp_path)["versions"]
    assert (same.ok, same.detail) == (True, f"1 packages as in {tmp_path / 'constraints.txt'}")
    (tmp_path / "constraints.txt").write_text(f"torch=={torch}\nnumpy==0.9\n")
    other = findings(tmp_path)["versions"]
    assert (other.ok, other.required, other.detail) == (
        False,
        False,
        f"numpy {numpy} instead of 0.9",
    )


def test_every_package_that_is_declared_is_installed(tmp_path: Path) -> None:
    found = findings(tmp_path)["packages"]
    assert found.ok
    assert int(found.detail.split()[0]) > 20


@pytest.mark.slow
def test_unreachable_configured_servers_exit_with_3(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    secret = url.replace("//", "//ada:lovelace@")
    status, results, errors = run_doctor(
        tmp_path, PREFECT_API_URL=f"{secret}/api", MLFLOW_TRACKING_URI=url
    )
    assert status == 3
    assert "lovelace" not in f"{found}{errors}"
    assert found["Prefect"]["detail"].startswith(
        f"{url.replace('//', '//USER:PASSWORD@')}/api does not answer"
    )
    assert "unset PREFECT_API_URL" in found["Prefect"]["fix"]
    assert url in found["MLflow"]["detail"]
    assert not found["MLflow"]["ok"]


def test_without_servers_nothing_is_started_or_made(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert (
        found["MLflow"].detail
        == f"no server is configured: the first run creates sqlite:///{tmp_path}/var/mlflow/mlflow.db"
    )
    assert not (tmp_path / "var" / "mlflow").exists()
