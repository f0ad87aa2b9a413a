"""What fails under a whole run: the disk below the store fills up, or Prefect's server is killed and comes back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from fixtures.prefect_stack import WAIT_S, Served, ask, start_codegen, until
from fixtures.processes import kill_when
from fixtures.projects import new_project
from fixtures.tmpfs import grow, small_disk

from components.core.network import free_port, health_error
from components.core.store import Store

if TYPE_CHECKING:
    from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1200)]

TOO_SMALL_KB = 5 * 1024
"""Holds the corpora, and no checkpoint."""
BEFORE_TRAINING = {"validation", "tokenizer", "prepared-corpus"}


def test_a_store_that_is_full_ends_the_run_with_one_error_and_harms_nothing(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    folder = new_project(tmp_path / "project")

    def run(disk: Path) -> tuple[int, str]:
        process = start_codegen(
            folder, fixture_archives, "run", "-r", "tiny", "--exec", f"store={disk}"
        )
        printed, _ = process.communicate(timeout=WAIT_S)
        return process.returncode, printed

    with small_disk(tmp_path / "disk", size_kb=TOO_SMALL_KB) as disk:
        for _ in range(2):  # Before and after somebody has read the error, and made no room.
            status, printed = run(disk)
            assert status == 1, printed
            assert printed.count("✗") == 1, printed
            assert re.search(r"disk filled up|no room left|are free at", printed), printed
            assert "Traceback" not in printed
        before = {one.label: one.digest for one in Store(disk).list_artifacts()}
        assert (
            {"tokenizer", "prepared-corpus"}
            <= {label.split("/")[0] for label in before}
            <= BEFORE_TRAINING
        )
        for one in Store(disk).list_artifacts():
            Store(disk).fetch_verified(one)  # Compares every byte with what was published.

        grow(disk, size_kb=1024 * 1024)
        status, printed = run(disk)
        assert status == 0, printed
        after = {one.label: one.digest for one in Store(disk).list_artifacts()}
        assert before.items() <= after.items()
        assert {"checkpoint", "evaluation"} <= {label.split("/")[0] for label in after}


class Prefect:
    """Prefect's own server, as a team starts it, that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.start()

    def start(self) -> None:
        """Start it over what it knew, and wait for it."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
        }
        command = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--no-ui",
            "--port",
            str(self.port),
        ]
        log = self._folder / "prefect.log"
        with log.open("a") as output:
            self.process = subprocess.Popen(
                command,
                env=kept | {"PREFECT_HOME": str(self._folder / "home")},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(lambda: health_error(f"{self.api}/health", 5) is None, self.process, log)

    def kill(self) -> None:
        """End it without a word."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def states(self) -> dict[str, str]:
        """Of every flow run, by its name."""
        return {one["name"]: one["state_name"] for one in ask(self.api, "/flow_runs/filter", {})}


def test_prefect_is_killed_in_training_and_comes_back(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    folder, log = new_project(tmp_path / "project"), tmp_path / "run.log"
    server, run = Prefect(tmp_path), None
    try:
        steps = (
            "--set",
            "training.stages.nl.steps=120",
            "--set",
            "training.stages.nl.decay_steps=110",
        )
        with log.open("w") as output:
            run = start_codegen(
                folder,
                fixture_archives,
                "run",
                "-r",
                "tiny",
                *steps,
                output=output,
                PREFECT_API_URL=server.api,
            )
        metrics = folder / "var/store/.building/checkpoint"
        until(lambda: any(metrics.glob("codegen-tiny-nl-*/observed/metrics.jsonl")), run, log)
        server.kill()
        trained = folder / "var/store/checkpoint"
        until(
            lambda: any(trained.glob("codegen-tiny-nl-*/manifest.json")), run, log
        )  # Without anybody to tell.
        server.start()
        assert run.wait(timeout=WAIT_S) == 0, log.read_text()
        assert set(server.states().values()) == {"Completed"}
    finally:
        if run is not None and run.poll() is None:
            kill_when(run, lambda: True)
        server.kill()


def test_a_run_whose_machine_died_is_marked_and_another_goes_on(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    """Nothing is left that could say it: the automation of Prefect's server does, after minutes without a heartbeat."""
    folder, server = new_project(tmp_path / "project"), Prefect(tmp_path)
    served: list[Served] = []
    try:
        served.append(Served(folder, fixture_archives, api=server.api))
        recipe = served[0].parameters("train-stage/tiny")["recipe"]
        recipe["training"]["stages"]["nl"] |= {"steps": 400, "decay_steps": 390}
        run = served[0].run("train-stage/tiny", recipe=recipe, stage="nl")
        metrics = folder / "var/store/.building/checkpoint"
        served[0].until(lambda: any(metrics.glob("codegen-tiny-nl-*/observed/metrics.jsonl")))
        kill_when(served[0].process, lambda: True)
        until(
            lambda: served[0].state(run)["type"] == "CRASHED",
            server.process,
            tmp_path / "prefect.log",
        )

        served.append(Served(folder, fixture_archives, api=server.api))
        again = served[1].run("train-stage/tiny", recipe=recipe, stage="nl")
        assert served[1].end_of(again)["type"] == "COMPLETED"
        (made,) = (
            one for one in Store(folder / "var/store").list_artifacts() if one.kind == "checkpoint"
        )
        assert len(cast(list[object], made.provenance["attempts"])) == 2
    finally:
        for one in served:
            if one.process.poll() is None:
                kill_when(one.process, lambda: True)
        server.kill()
