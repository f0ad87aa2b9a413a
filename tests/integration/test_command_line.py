"""The command line in real processes: errors have three lines, and a killed command leaves no
process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from fixtures.models import lively_model, write_tokenizer
from fixtures.projects import FixtureArchives, new_project

from components.core.network import free_port, require_free_port
from components.data.archives.pins import Pins
from components.model.huggingface import save_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]


def environment(**variables: str) -> dict[str, str]:
    """Return the environment without Prefect, MLflow and codegen settings of the tests."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PREFECT_", "MLFLOW_", "CODEGEN_"))
    }
    return inherited | {"COLUMNS": "200"} | variables


def codegen(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli.main", *arguments]
    return subprocess.run(
        command,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def assert_three_lines(result: subprocess.CompletedProcess[str], got: str) -> None:
    """Assert that stderr has a single error of three lines and no traceback."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    assert result.stderr.count("✗") == 1, result.stderr
    lines = result.stderr[result.stderr.index("✗") :].strip().splitlines()
    assert got in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["expected", "fix"]


def test_an_unreachable_tracking_server_is_an_error_of_three_lines(tmp_path: Path) -> None:
    project = new_project(tmp_path / "project")
    result = codegen(
        "run",
        "-r",
        "tiny",
        "--exec",
        f"project={project}",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
    )
    assert_three_lines(result, "http://127.0.0.1:9")


def test_an_error_in_a_task_of_a_subflow_has_three_lines(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    archives = tmp_path / "archives"
    project = new_project(tmp_path / "project")
    shutil.copytree(fixture_archives.folder, archives)
    pins = Pins.parse(json.loads((archives / "pins.json").read_text()))
    archive = archives / pins.packages[0].file
    archive.write_bytes(b"no archive" + archive.read_bytes()[10:])
    overrides = (f"project={project}", f"archives={archives}", f"pins={archives / 'pins.json'}")
    result = codegen(
        "run", "-r", "tiny", *(word for override in overrides for word in ("--exec", override))
    )
    assert_three_lines(result, archive.name)


def test_suites_are_copied_and_an_invalid_suite_is_an_error_of_three_lines(tmp_path: Path) -> None:
    project = new_project(tmp_path / "project")
    options = ("--exec", f"project={project}")
    result = codegen("data", "suites", str(project / "rules"), *options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("copied 9 suites; use them with --set validation.suites=rules\n")
    again = codegen("data", "suites", str(project / "rules"), *options)
    assert (
        again.stdout
        == f"{project / 'rules'} has all suites; use them with --set validation.suites=rules\n"
    )
    suite = project / "rules" / "raw-languages.json"
    suite.write_text(
        suite.read_text().replace(
            "expect_column_values_to_be_between", "expect_column_values_between"
        )
    )
    result = codegen("prepare", "-r", "tiny", "--set", "validation.suites=rules", *options)
    assert_three_lines(result, "raw-languages.json")
    assert "did you mean" in result.stderr


def test_an_export_does_not_overwrite_a_folder(tmp_path: Path) -> None:
    model = lively_model(sharpness=1.0)
    save_checkpoint(model, write_tokenizer(tmp_path / "tokenizer"), tmp_path / "checkpoint")
    command = (
        "export",
        str(tmp_path / "checkpoint"),
        str(tmp_path / "out"),
        "--format",
        "gptj",
        "--dtype",
        "bf16",
    )
    result = codegen(*command, "--exec", f"workspace={tmp_path / 'var'}")
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path / 'out'}: gptj in bf16, 0.1 MB" in result.stdout
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "GPTJForCausalLM"
    ]
    assert_three_lines(
        codegen(*command, "--exec", f"workspace={tmp_path / 'var'}"),
        f"{tmp_path / 'out'} exists",
    )


def test_a_killed_ui_leaves_no_server(tmp_path: Path) -> None:
    project = new_project(tmp_path / "project")
    ports = (free_port(), free_port())
    options = (
        "--prefect-port",
        str(ports[0]),
        "--mlflow-port",
        str(ports[1]),
        "--exec",
        f"project={project}",
    )
    command = [sys.executable, "-m", "flows.cli.main", "ui", *options]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        assert any("Ctrl-C stops both" in line for line in ui.stdout), "the servers did not start"
        children = psutil.Process(ui.pid).children(recursive=True)
        ui.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    for port in ports:
        require_free_port("test", port)


def test_a_killed_run_is_marked_crashed_and_its_server_ends(tmp_path: Path) -> None:
    """SIGKILL inside a flow; the next flow of the workspace marks the run."""
    project = new_project(tmp_path / "project")
    result = subprocess.run(
        [sys.executable, "-c", _KILL_IN_FLOW, str(project)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL
    servers = [int(pid) for pid in result.stdout.split()]
    assert servers
    psutil.wait_procs(
        [psutil.Process(pid) for pid in servers if psutil.pid_exists(pid)], timeout=60
    )
    assert not [pid for pid in servers if psutil.pid_exists(pid)]
    listing = subprocess.run(
        [sys.executable, "-c", _LIST_RUNS, str(project)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    flows, tasks = listing.stdout.strip().splitlines()[-2:]
    assert flows == "[('killed', 'CRASHED'), ('look', 'RUNNING')]", listing.stderr
    assert tasks == "[('a step', 'CRASHED')]"


_KILL_IN_FLOW = """
import os, signal, sys
import psutil
from flows.cli.options import load_execution
execution = load_execution([f"project={sys.argv[1]}"])
from prefect import flow, get_client, task
from flows.runtime.stale_runs import record_owner

@task(name="a step", task_run_name="a step")
def step():
    with get_client(sync_client=True) as client:
        # The server receives the state of a task later; the time limit of the test ends the loop.
        while not [run for run in client.read_task_runs() if run.state and run.state.is_running()]:
            pass
    children = psutil.Process().children(recursive=True)
    print(*[child.pid for child in children if "uvicorn" in child.cmdline()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

@flow(name="killed", flow_run_name="killed")
def killed():
    with record_owner(execution):
        step()

killed()
"""

_LIST_RUNS = """
import sys
from flows.cli.options import load_execution
execution = load_execution([f"project={sys.argv[1]}"])
from prefect import flow, get_client
from flows.runtime.stale_runs import mark_stale_runs_crashed, record_owner

@flow(name="look", flow_run_name="look")
def look():
    with record_owner(execution), get_client(sync_client=True) as client:
        mark_stale_runs_crashed(execution)
        assert mark_stale_runs_crashed(execution) == []
        runs = sorted(client.read_flow_runs(), key=lambda run: run.name)
        print([(run.name, run.state.type.value) for run in runs])
        print([(run.name, run.state.type.value) for run in client.read_task_runs()])

look()
"""


_BUG = """
import sys
from flows.cli import main, options
load_execution = options.load_execution

def broken(recipe, execution):
    raise ZeroDivisionError("a bug of ours")

def load_and_break(*arguments, **keywords):
    execution = load_execution(*arguments, **keywords)
    # After the setup, because Prefect reads its settings when it is imported.
    import flows.evaluate
    flows.evaluate.preflight_check = broken
    return execution

options.load_execution = load_and_break
sys.argv = ["codegen", "evaluate", "-r", "tiny", "--exec", f"project={sys.argv[1]}", *sys.argv[2:]]
main.main()
"""


@pytest.mark.parametrize(("options", "num_tracebacks"), [((), 0), (("--debug",), 1)])
def test_a_bug_inside_a_flow_is_printed_once(
    tmp_path: Path, options: tuple[str, ...], num_tracebacks: int
) -> None:
    project = new_project(tmp_path / "project")
    result = subprocess.run(
        [sys.executable, "-c", _BUG, str(project), *options],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert result.returncode == 70
    assert result.stderr.count("Traceback (most recent call last)") == num_tracebacks, result.stderr
    assert result.stderr.count("✗ ZeroDivisionError: a bug of ours") == 1, result.stderr
