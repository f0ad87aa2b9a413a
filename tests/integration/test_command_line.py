"""What a person sees on the terminal: an error that can be mended is three lines, once; nothing is left behind a kill."""

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

pytestmark = [pytest.mark.slow, pytest.mark.apart]


def environment(**given: str) -> dict[str, str]:
    """This process's environment, without what settled Prefect's home for the tests."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PREFECT_", "MLFLOW_", "CODEGEN_"))
    }
    return kept | {"COLUMNS": "200"} | given


def codegen(*arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli.main", *arguments]
    return subprocess.run(
        command, env=environment(**given), capture_output=True, text=True, check=False, timeout=280
    )


def assert_three_lines(done: subprocess.CompletedProcess[str], got: str) -> None:
    """One error in three lines, and no traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("✗") == 1, done.stderr
    lines = done.stderr[done.stderr.index("✗") :].strip().splitlines()
    assert got in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["expected", "fix"]


def test_a_tracking_server_that_does_not_answer_is_three_lines(tmp_path: Path) -> None:
    project = new_project(tmp_path / "project")
    done = codegen(
        "run",
        "-r",
        "tiny",
        "--exec",
        f"project={project}",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
    )
    assert_three_lines(done, "http://127.0.0.1:9 does not answer")


def test_an_error_in_a_task_of_a_sub_flow_is_three_lines(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    archives, project = tmp_path / "archives", new_project(tmp_path / "project")
    shutil.copytree(fixture_archives.folder, archives)
    victim = (
        archives / Pins.parse(json.loads((archives / "pins.json").read_text())).packages[0].file
    )
    victim.write_bytes(b"no archive" + victim.read_bytes()[10:])
    places = (f"project={project}", f"archives={archives}", f"pins={archives / 'pins.json'}")
    done = codegen("run", "-r", "tiny", *(item for place in places for item in ("--exec", place)))
    assert_three_lines(done, victim.name)


def test_suites_are_copied_and_a_mistake_in_one_is_three_lines(tmp_path: Path) -> None:
    project = new_project(tmp_path / "project")
    at = ("--exec", f"project={project}")
    done = codegen("data", "suites", str(project / "rules"), *at)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(
        "9 suites were copied; apply them with --set validation.suites=rules\n"
    )
    again = codegen("data", "suites", str(project / "rules"), *at)
    assert (
        again.stdout
        == f"{project / 'rules'} has every suite; apply them with --set validation.suites=rules\n"
    )
    suite = project / "rules" / "raw-languages.json"
    suite.write_text(
        suite.read_text().replace(
            "expect_column_values_to_be_between", "expect_column_values_between"
        )
    )
    done = codegen("prepare", "-r", "tiny", "--set", "validation.suites=rules", *at)
    assert_three_lines(done, "the suite raw-languages.json has a rule (Every language has at least")
    assert "did you mean" in done.stderr


def test_a_checkpoint_is_exported_once(tmp_path: Path) -> None:
    model = lively_model(sharpness=1.0)
    save_checkpoint(model, write_tokenizer(tmp_path / "tokenizer"), tmp_path / "ours")
    command = (
        "export",
        str(tmp_path / "ours"),
        str(tmp_path / "out"),
        "--format",
        "gptj",
        "--dtype",
        "bf16",
    )
    done = codegen(*command, "--exec", f"workspace={tmp_path / 'var'}")
    assert done.returncode == 0, done.stderr
    assert (
        f"{tmp_path / 'out'}: gptj in bf16, 0.1 MB; the logits of transformers differ from ours by"
        in done.stdout
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "GPTJForCausalLM"
    ]
    assert_three_lines(
        codegen(*command, "--exec", f"workspace={tmp_path / 'var'}"), f"{tmp_path / 'out'} exists"
    )


def test_a_killed_ui_leaves_nothing_that_listens(tmp_path: Path) -> None:
    project, ports = new_project(tmp_path / "project"), (free_port(), free_port())
    options = (
        "--prefect-port",
        str(ports[0]),
        "--mlflow-port",
        str(ports[1]),
        "--exec",
        f"project={project}",
    )
    command = [sys.executable, "-m", "flows.cli.main", "ui", *options]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert any("Ctrl-C ends both." in line for line in started.stdout), (
            "the servers did not start"
        )
        family = psutil.Process(started.pid).children(recursive=True)
        started.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    for port in ports:
        require_free_port("nobody", port)


def test_a_killed_run_is_said_to_have_crashed_and_its_server_ends(tmp_path: Path) -> None:
    """Killed inside a flow, the command alone; the next flow of the workspace closes its runs."""
    project = new_project(tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(project)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    servers = [int(pid) for pid in done.stdout.split()]
    assert servers
    psutil.wait_procs(
        [psutil.Process(pid) for pid in servers if psutil.pid_exists(pid)], timeout=60
    )
    assert not [pid for pid in servers if psutil.pid_exists(pid)]
    looked = subprocess.run(
        [sys.executable, "-c", _LOOK, str(project)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    flows, tasks = looked.stdout.strip().splitlines()[-2:]
    assert (
        flows == "[('killed', 'CRASHED', 'Its process was killed.'), ('look', 'RUNNING', None)]"
    ), looked.stderr
    assert tasks == "[('a step', 'CRASHED')]"


_KILLED = """
import os, signal, sys
import psutil
from flows.cli.options import load_execution
execution = load_execution([f"project={sys.argv[1]}"])
from prefect import flow, get_client, task
from flows.runtime.stale_runs import record_owner

@task(name="a step", task_run_name="a step")
def step():
    with get_client(sync_client=True) as client:
        while not [one for one in client.read_task_runs() if one.state and one.state.is_running()]:
            pass  # Prefect's server learns of a task a little later; the test's time limit ends this.
    print(*[one.pid for one in psutil.Process().children(recursive=True) if "uvicorn" in one.cmdline()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

@flow(name="killed", flow_run_name="killed")
def killed():
    with record_owner(execution):
        step()

killed()
"""

_LOOK = """
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
        print([(run.name, run.state.type.value, run.state.message) for run in runs])
        print([(run.name, run.state.type.value) for run in client.read_task_runs()])

look()
"""


_BUG = """
import sys
from flows.cli import main, run
settled = run.chosen_execution

def broken(recipe, execution):
    raise ZeroDivisionError("a bug of ours")

def execution(*arguments, **options):
    place = settled(*arguments, **options)
    import flows.inputs  # Imports Prefect, which has to find its settings; flows.evaluate takes the function after this.
    flows.inputs.check_inputs = broken
    return place

run.chosen_execution = execution
sys.argv = ["codegen", "evaluate", "-r", "tiny", "--exec", f"project={sys.argv[1]}", *sys.argv[2:]]
main.main()
"""


@pytest.mark.parametrize(("options", "num_tracebacks"), [((), 0), (("--debug",), 1)])
def test_a_bug_inside_a_flow_is_said_once(
    tmp_path: Path, options: tuple[str, ...], num_tracebacks: int
) -> None:
    project = new_project(tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-c", _BUG, str(project), *options],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 70
    assert done.stderr.count("Traceback (most recent call last)") == num_tracebacks, done.stderr
    assert done.stderr.count("✗ ZeroDivisionError: a bug of ours") == 1, done.stderr
