"""Faults during a whole run: a full disk, a Prefect server that restarts, a machine that dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from fixtures.prefect_stack import WAIT_S, Stack, request, start_codegen, wait_until
from fixtures.processes import kill_process_tree_when
from fixtures.projects import new_project
from fixtures.tmpfs import limited_disk, resize_disk

from components.core.network import free_port, health_error
from components.core.store import Store

if TYPE_CHECKING:
    from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1200)]

TOO_SMALL_KB = 5 * 1024
"""Large enough for the corpora, not for a checkpoint."""
BEFORE_TRAINING = {"validation", "tokenizer", "prepared-corpus"}


def test_a_full_store_ends_the_run_with_one_error_and_damages_nothing(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    folder = new_project(tmp_path / "project")

    def run(disk: Path) -> tuple[int, str]:
        process = start_codegen(
            folder, fixture_archives, "run", "-r", "tiny", "--exec", f"store={disk}"
        )
        output, _ = process.communicate(timeout=WAIT_S)
        return process.returncode, output

    with limited_disk(tmp_path / "disk", size_kb=TOO_SMALL_KB) as disk:
        for _ in range(2):  # The second attempt without more space fails in the same way.
            status, output = run(disk)
            assert status == 1, output
            assert output.count("✗") == 1, output
            assert re.search(r"disk filled up|no room left|are free at", output), output
            assert "Traceback" not in output
        before_digests = {
            artifact.label: artifact.digest for artifact in Store(disk).list_artifacts()
        }
        assert (
            {"tokenizer", "prepared-corpus"}
            <= {label.split("/")[0] for label in before_digests}
            <= BEFORE_TRAINING
        )
        for artifact in Store(disk).list_artifacts():
            Store(disk).fetch_verified(artifact)

        resize_disk(disk, size_kb=1024 * 1024)
        status, output = run(disk)
        assert status == 0, output
        digests = {artifact.label: artifact.digest for artifact in Store(disk).list_artifacts()}
        assert before_digests.items() <= digests.items()
        assert {"checkpoint", "evaluation"} <= {label.split("/")[0] for label in digests}


class Prefect:
    """A Prefect server as `prefect server start` runs it; it can be killed."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.start()

    def start(self) -> None:
        """Start the server on its database; wait until it is healthy."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
        command += ["--port", str(self.port)]
        log = self._folder / "prefect.log"
        with log.open("a") as output:
            self.process = subprocess.Popen(
                command,
                env=environment | {"PREFECT_HOME": str(self._folder / "home")},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(lambda: health_error(f"{self.api}/health", 5) is None, self.process, log)

    def kill(self) -> None:
        """Kill the server."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def states(self) -> dict[str, str]:
        """Return the state of every flow run by its name."""
        return {
            run["name"]: run["state_name"] for run in request(self.api, "/flow_runs/filter", {})
        }


def test_a_run_completes_although_prefect_restarts_during_training(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    folder, log = new_project(tmp_path / "project"), tmp_path / "run.log"
    server, run = Prefect(tmp_path), None
    try:
        options = ["-r", "tiny", "--set", "training.stages.nl.steps=120"]
        options += ["--set", "training.stages.nl.decay_steps=110"]
        with log.open("w") as output:
            run = start_codegen(
                folder,
                fixture_archives,
                "run",
                *options,
                output=output,
                PREFECT_API_URL=server.api,
            )
        metrics = folder / "var/store/.building/checkpoint"
        wait_until(lambda: any(metrics.glob("codegen-tiny-nl-*/observed/metrics.jsonl")), run, log)
        server.kill()
        trained = folder / "var/store/checkpoint"
        wait_until(
            lambda: any(trained.glob("codegen-tiny-nl-*/manifest.json")), run, log
        )  # The stage completes while Prefect is down.
        server.start()
        assert run.wait(timeout=WAIT_S) == 0, log.read_text()
        assert set(server.states().values()) == {"Completed"}
    finally:
        if run is not None and run.poll() is None:
            kill_process_tree_when(run, lambda: True)
        server.kill()


def test_a_run_of_a_dead_machine_is_marked_crashed_and_restarts_by_itself(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    """Automations of the server mark it after minutes without a heartbeat, and schedule it again
    for another machine."""
    folder, server = new_project(tmp_path / "project"), Prefect(tmp_path)
    stacks: list[Stack] = []
    try:
        stacks.append(Stack(folder, fixture_archives, api=server.api))
        recipe = stacks[0].parameters("train-stage/tiny")["recipe"]
        recipe["training"]["stages"]["nl"] |= {"steps": 400, "decay_steps": 390}
        run = stacks[0].run("train-stage/tiny", recipe=recipe, stage="nl")
        metrics = folder / "var/store/.building/checkpoint"
        stacks[0].until(lambda: any(metrics.glob("codegen-tiny-nl-*/observed/metrics.jsonl")))
        kill_process_tree_when(stacks[0].process, lambda: True)
        wait_until(
            lambda: stacks[0].state(run)["type"] in ("CRASHED", "SCHEDULED"),
            server.process,
            tmp_path / "prefect.log",
        )

        stacks.append(Stack(folder, fixture_archives, api=server.api))
        stacks[1].until(lambda: stacks[1].state(run)["type"] == "COMPLETED")
        (checkpoint,) = (
            artifact
            for artifact in Store(folder / "var/store").list_artifacts()
            if artifact.kind == "checkpoint"
        )
        assert len(cast(list[object], checkpoint.provenance["attempts"])) == 2
    finally:
        for stack in stacks:
            if stack.process.poll() is None:
                kill_process_tree_when(stack.process, lambda: True)
        server.kill()
