"""A person's word, given to a real Prefect server by the API that its page uses; flows run in processes of their own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.versions import NAME, add_version, evidence, judge, suggest

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
gate = tiny().promotion.replace(approval="person", approval_timeout_s=int(sys.argv[4]))
print(promote_version(sys.argv[3], tiny().replace(promotion=gate), execution).summary)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the API of a Prefect server."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
        _until(lambda: _answers(address), process)
        yield address
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def _until(holds: Callable[[], Any], process: subprocess.Popen[Any], limit_s: int = 600) -> Any:
    """What `holds` gives as soon as it gives something, as long as a process lives."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if found := holds():
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    raise TimeoutError


class Desk:
    """A registry with a champion and a better candidate, and flows that promote."""

    def __init__(self, server: str, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.tracking = Tracking(
            f"sqlite:///{folder}/mlflow/mlflow.db", folder / "mlflow" / "artifacts"
        )
        judge(self.tracking, add_version(self.tracking), evidence(2.0))
        suggest(self.tracking, add_version(self.tracking), evidence(1.5))

    def start(self, timeout_s: int = 600, *, server_runs: bool = True) -> subprocess.Popen[str]:
        """Start a flow that promotes the candidate where a person approves."""
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

    def waiting(self, *, but: str = "") -> str | None:
        """The id of the flow run that waits for an answer to a question that is on the page."""
        wanted = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
        for run in httpx.post(f"{self.server}/flow_runs/filter", json=wanted).json():
            keys = run["state"]["state_details"]["run_input_keyset"]
            asked = httpx.get(f"{self.server}/flow_runs/{run['id']}/input/{keys['description']}")
            if run["id"] != but and asked.is_success:
                return str(run["id"])
        return None

    def answer(self, run_id: str, **values: object) -> dict[str, Any]:
        """As the page does when a person fills in the form."""
        return httpx.post(
            f"{self.server}/flow_runs/{run_id}/resume", json={"run_input": values}
        ).json()

    def last(self) -> Promotion:
        return history(self.tracking, NAME)[-1]

    def labels(self) -> list[str]:
        return [one.label for one in list_versions(self.tracking)]


UNCHANGED = [f"{NAME}/1 @champion", f"{NAME}/2 @candidate"]


@pytest.fixture
def desk(server: str, tmp_path: Path) -> Desk:
    return Desk(server, tmp_path)


def test_a_person_approves_on_the_page(desk: Desk) -> None:
    process = desk.start()
    run_id = _until(desk.waiting, process)
    assert desk.labels() == UNCHANGED
    question = httpx.get(
        f"{desk.server}/flow_runs/{run_id}/input/{_key(desk, run_id, 'description')}"
    ).json()
    assert f"{NAME}: version 2, promoted" in question
    assert "| bits_per_byte/mono/Python | 2 | 1.5 | -0.5 |" in question
    incomplete = desk.answer(run_id, approve=True)
    assert incomplete["status"] == "REJECT"
    assert "name" in incomplete["details"]["reason"]
    assert desk.answer(run_id, **_answer_of_the_docs())["status"] == "ACCEPT"
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert desk.labels() == [f"{NAME}/1 @previous", f"{NAME}/2 @champion"]
    last = desk.last()
    assert (last.decision.outcome, last.decided_by) == ("promoted", "grace (flow promote-version)")
    word = last.decision.checks[-1]
    assert (word.rule, word.found) == ("a person approves of it", "grace: reads well")
    shown = httpx.post(f"{desk.server}/artifacts/filter", json={}).json()
    assert "codegen-tiny-mono-promotion" in {one["key"] for one in shown}


def _answer_of_the_docs() -> dict[str, object]:
    """What docs/promoting.md sends with curl."""
    page = (Path(__file__).parents[2] / "docs" / "promoting.md").read_text()
    return dict(json.loads(page.split("-d '")[1].split("'")[0])["run_input"])


def _key(desk: Desk, run_id: str, part: str) -> str:
    state = httpx.get(f"{desk.server}/flow_runs/{run_id}").json()["state"]
    return str(state["state_details"]["run_input_keyset"][part])


def test_a_person_refuses(desk: Desk) -> None:
    process = desk.start()
    run_id = _until(desk.waiting, process)
    desk.answer(run_id, approve=False, name="grace", reason="worse at comments")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert desk.labels() == UNCHANGED
    assert desk.last().decision.reasons == ("a person approves of it: grace: worse at comments",)
    assert httpx.get(f"{desk.server}/flow_runs/{run_id}").json()["state_type"] == "COMPLETED"
    again = desk.start()  # As a schedule does the next day: nobody is asked the same again.
    output, _ = again.communicate(timeout=600)
    assert (again.returncode, "which stands: nothing has changed since" in output) == (0, True), (
        output
    )
    assert len(history(desk.tracking, NAME)) == 2
    (said,) = set(re.findall(r"Whoever approves of it all the same says so: codegen (.*)", output))
    places = ["--exec", f"project={desk.folder}", "--exec", f"workspace={desk.folder}"]
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        *said.split(),
        *places,
        "--exec",
        f"tracking_uri={desk.tracking.uri}",
    ]
    typed = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert typed.returncode == 0, typed.stdout + typed.stderr
    assert desk.last().decision.outcome == "promoted"


def test_who_is_asked_about_what_was_rolled_back_is_told_so(desk: Desk) -> None:
    judge(desk.tracking, 2, evidence(1.5))
    rollback(desk.tracking, NAME, "grace", "worse at comments")
    suggest(desk.tracking, 2, evidence(1.5))
    process = desk.start()
    run_id = _until(desk.waiting, process)
    question = httpx.get(
        f"{desk.server}/flow_runs/{run_id}/input/{_key(desk, run_id, 'description')}"
    ).json()
    assert "rolled back by grace" in question
    assert "worse at comments" in question
    desk.answer(run_id, approve=False, name="ada", reason="still so")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


@pytest.mark.parametrize("server_runs", [True, False])
def test_nobody_answers(desk: Desk, server_runs: bool) -> None:
    """Also where Prefect has no server but the one that it starts for the flow, as in `codegen run` on one machine."""
    process = desk.start(timeout_s=1, server_runs=server_runs)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert desk.labels() == UNCHANGED
    assert desk.last().decision.reasons == (
        "a person approves of it: nobody: no answer within 1 s",
    )


def test_killed_while_it_waits_and_asked_again(desk: Desk) -> None:
    first = desk.start()
    killed = _until(desk.waiting, first)
    first.kill()
    first.communicate(timeout=60)
    assert desk.labels() == UNCHANGED
    assert (
        len(history(desk.tracking, NAME)) == 1
    )  # The first champion's: nothing was decided since.
    second = desk.start()
    run_id = _until(lambda: desk.waiting(but=killed), second)
    desk.answer(run_id, approve=True, name="grace", reason="")
    output, _ = second.communicate(timeout=600)
    assert "version 2: promoted" in output
    # The killed one waits for ever on the page; an answer to it changes nothing.
    desk.answer(killed, approve=True, name="mallory", reason="")
    assert desk.last().decided_by == "grace (flow promote-version)"


def test_an_approval_of_another_comparison_does_not_count(desk: Desk) -> None:
    process = desk.start()
    run_id = _until(desk.waiting, process)
    judge(
        desk.tracking, add_version(desk.tracking), evidence(1.75)
    )  # Another one becomes champion meanwhile.
    desk.answer(run_id, approve=True, name="grace", reason="")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "the champion is version 3 by now" in desk.last().decision.reasons[0]
    assert f"{NAME}/3 @champion" in desk.labels()
