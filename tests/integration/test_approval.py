"""Approval through the API of a real Prefect server, as its UI uses it; flows run in processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.versions import NAME, add_version, make_evidence, promote_version, propose_version

from components.core.network import free_port, health_error
from components.registry.promotion import Promotion
from components.registry.queries import history, list_versions, rollback
from components.registry.tracking import Tracking

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

FLOW = """
import sys
from flows.settings.execution import Execution, setup_environment
execution = Execution(workspace=sys.argv[1], tracking_uri=sys.argv[2])
setup_environment(execution)
from flows.promote import promote_version
from flows.settings.recipes import tiny
gate = tiny().promotion.replace(approval="manual", approval_timeout_s=int(sys.argv[4]))
print(promote_version(sys.argv[3], tiny().replace(promotion=gate), execution).summary)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the API of a running Prefect server."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")
    }
    environment |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/api"
    try:
        _wait_until(lambda: health_error(f"{address}/health", 5) is None, process)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait_until(
    condition: Callable[[], Any], process: subprocess.Popen[Any], limit_s: int = 600
) -> Any:
    """Return the first true value of `condition`; fail if the process ends before."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    raise TimeoutError


class Registry:
    """A model registry with a champion and a better candidate, and flows that promote."""

    def __init__(self, server: str, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.tracking = Tracking(
            f"sqlite:///{folder}/mlflow/mlflow.db", folder / "mlflow" / "artifacts"
        )
        promote_version(self.tracking, add_version(self.tracking), make_evidence(2.0))
        propose_version(self.tracking, add_version(self.tracking), make_evidence(1.5))

    def start(self, timeout_s: int = 600, *, server_runs: bool = True) -> subprocess.Popen[str]:
        """Start a flow that promotes the candidate after an approval."""
        arguments = [str(self.folder), self.tracking.uri, f"{NAME}@candidate", str(timeout_s)]
        environment = os.environ | {"PREFECT_HOME": str(self.folder / "prefect")}
        environment |= {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600"}
        environment |= {"PREFECT_API_URL": self.server} if server_runs else {}
        return subprocess.Popen(
            [sys.executable, "-c", FLOW, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def find_paused_run(self, *, exclude: str = "") -> str | None:
        """Return the id of a flow run that waits for its form, which is in the UI."""
        run_filter = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
        for run in httpx.post(f"{self.server}/flow_runs/filter", json=run_filter).json():
            keys = run["state"]["state_details"]["run_input_keyset"]
            form = httpx.get(f"{self.server}/flow_runs/{run['id']}/input/{keys['description']}")
            if run["id"] != exclude and form.is_success:
                return str(run["id"])
        return None

    def answer(self, run_id: str, **values: object) -> dict[str, Any]:
        """Submit the form as the UI does."""
        return httpx.post(
            f"{self.server}/flow_runs/{run_id}/resume", json={"run_input": values}
        ).json()

    def last(self) -> Promotion:
        return history(self.tracking, NAME)[-1]

    def labels(self) -> list[str]:
        return [version.label for version in list_versions(self.tracking)]


UNCHANGED = [f"{NAME}/1 @champion", f"{NAME}/2 @candidate"]


@pytest.fixture
def registry(server: str, tmp_path: Path) -> Registry:
    return Registry(server, tmp_path)


def test_an_approval_in_the_ui_promotes_the_candidate(registry: Registry) -> None:
    process = registry.start()
    run_id = _wait_until(registry.find_paused_run, process)
    assert registry.labels() == UNCHANGED
    description = _form_description(registry, run_id)
    assert f"{NAME}: version 2, promoted" in description
    assert "| bits_per_byte/mono/Python | 2 | 1.5 | -0.5 |" in description
    incomplete = registry.answer(run_id, approve=True)
    assert incomplete["status"] == "REJECT"
    assert "name" in incomplete["details"]["reason"]
    assert registry.answer(run_id, **_answer_in_docs())["status"] == "ACCEPT"
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert registry.labels() == [f"{NAME}/1 @previous", f"{NAME}/2 @champion"]
    last = registry.last()
    assert (last.decision.outcome, last.decided_by) == ("promoted", "grace (flow promote-version)")
    approval = last.decision.checks[-1]
    assert (approval.rule, approval.detail) == ("approved by a reviewer", "grace: reads well")
    artifacts = httpx.post(f"{registry.server}/artifacts/filter", json={}).json()
    assert "codegen-tiny-mono-promotion" in {artifact["key"] for artifact in artifacts}


def _answer_in_docs() -> dict[str, object]:
    """Return the answer that docs/promoting.md sends with curl."""
    page = (Path(__file__).parents[2] / "docs" / "promoting.md").read_text()
    return dict(json.loads(page.split("-d '")[1].split("'")[0])["run_input"])


def _form_description(registry: Registry, run_id: str) -> str:
    state = httpx.get(f"{registry.server}/flow_runs/{run_id}").json()["state"]
    key = state["state_details"]["run_input_keyset"]["description"]
    return str(httpx.get(f"{registry.server}/flow_runs/{run_id}/input/{key}").json())


def test_a_rejection_stands_until_a_user_promotes_the_version(registry: Registry) -> None:
    process = registry.start()
    run_id = _wait_until(registry.find_paused_run, process)
    registry.answer(run_id, approve=False, name="grace", reason="worse at comments")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert registry.labels() == UNCHANGED
    assert registry.last().decision.reasons == ("approved by a reviewer: grace: worse at comments",)
    assert httpx.get(f"{registry.server}/flow_runs/{run_id}").json()["state_type"] == "COMPLETED"
    scheduled = registry.start()  # A later scheduled run requests no approval.
    output, _ = scheduled.communicate(timeout=600)
    assert scheduled.returncode == 0, output
    assert "nothing has changed since" in output
    assert len(history(registry.tracking, NAME)) == 2
    (arguments,) = set(re.findall(r"To approve it nevertheless, run: codegen (.*)", output))
    options = ["--exec", f"project={registry.folder}", "--exec", f"workspace={registry.folder}"]
    options += ["--exec", f"tracking_uri={registry.tracking.uri}"]
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        *arguments.split(),
        *options,
    ]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert registry.last().decision.outcome == "promoted"


def test_the_form_mentions_an_earlier_rollback(registry: Registry) -> None:
    promote_version(registry.tracking, 2, make_evidence(1.5))
    rollback(registry.tracking, NAME, "grace", "worse at comments")
    propose_version(registry.tracking, 2, make_evidence(1.5))
    process = registry.start()
    run_id = _wait_until(registry.find_paused_run, process)
    description = _form_description(registry, run_id)
    assert "rolled back by grace" in description
    assert "worse at comments" in description
    registry.answer(run_id, approve=False, name="ada", reason="still so")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


@pytest.mark.parametrize("server_runs", [True, False])
def test_a_timeout_rejects_the_candidate(registry: Registry, server_runs: bool) -> None:
    """Also with the temporary server of a flow, as in `codegen run` on one machine."""
    process = registry.start(timeout_s=1, server_runs=server_runs)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert registry.labels() == UNCHANGED
    assert registry.last().decision.reasons == (
        "approved by a reviewer: timeout: no answer within 1 s",
    )


def test_a_flow_killed_while_it_waits_decides_nothing(registry: Registry) -> None:
    first = registry.start()
    killed = _wait_until(registry.find_paused_run, first)
    first.kill()
    first.communicate(timeout=60)
    assert registry.labels() == UNCHANGED
    assert len(history(registry.tracking, NAME)) == 1  # Of the first champion.
    second = registry.start()
    run_id = _wait_until(lambda: registry.find_paused_run(exclude=killed), second)
    registry.answer(run_id, approve=True, name="grace", reason="")
    output, _ = second.communicate(timeout=600)
    assert "version 2: promoted" in output
    # The killed flow stays paused in the UI; an answer to it changes nothing.
    registry.answer(killed, approve=True, name="mallory", reason="")
    assert registry.last().decided_by == "grace (flow promote-version)"


def test_an_approval_of_another_comparison_does_not_count(registry: Registry) -> None:
    process = registry.start()
    run_id = _wait_until(registry.find_paused_run, process)
    # Another version becomes champion meanwhile.
    promote_version(registry.tracking, add_version(registry.tracking), make_evidence(1.75))
    registry.answer(run_id, approve=True, name="grace", reason="")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "the champion is version 3 by now" in registry.last().decision.reasons[0]
    assert f"{NAME}/3 @champion" in registry.labels()
