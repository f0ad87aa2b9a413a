"""Commands end after a signal to the process or its group, leave no process, and can be resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fixtures.processes import environment_without_settings
from fixtures.projects import FixtureArchives, new_project
from fixtures.terminal import END_S, Terminal

from components.core.network import free_port

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(1800)]

TRAIN = (
    *("train", "--stage", "nl", "-r", "tiny", "--set", "training.stages.nl.steps=3000"),
    *("--set", "training.stages.nl.decay_steps=2000"),
)
NO_PROXY_LISTENS = "http://127.0.0.1:9"
"""Requests through this proxy fail; those to loopback servers must not use it."""


class Project:
    """A project with the test archives, and a proxy in the environment."""

    def __init__(self, folder: Path, archives: FixtureArchives) -> None:
        self.folder = new_project(folder)
        self._archives = archives
        self.terminals: list[Terminal] = []

    def start(self, *arguments: str) -> Terminal:
        overrides = [f"project={self.folder}", f"pins={self._archives.folder / 'pins.json'}"]
        options = [word for override in overrides for word in ("--exec", override)]
        variables = {
            "CODEGEN_ARCHIVES": str(self._archives.folder),
            "COLUMNS": "200",
            "HTTP_PROXY": NO_PROXY_LISTENS,
            "ALL_PROXY": NO_PROXY_LISTENS,
        }
        terminal = Terminal([*arguments, *options], environment_without_settings() | variables)
        self.terminals.append(terminal)
        return terminal

    def query(self, database: str, statement: str) -> list[tuple[object, ...]]:
        """Return the rows of a query."""
        with closing(sqlite3.connect(self.folder / "var" / database)) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("signals") / "project", fixture_archives)
    yield project
    for terminal in project.terminals:
        terminal.kill()


def check_end(command: Terminal, number: signal.Signals) -> None:
    """Check the end of a command after a signal: status, a single line, no process."""
    assert command.end(END_S) == 128 + number, command.output
    assert command.last_line() == f"stopped by {number.name}; run the same command to resume"
    assert command.output.count("stopped by") == 1
    for text in ("Traceback", "KeyboardInterrupt", "Aborted", "✗"):
        assert text not in command.output


def test_ctrl_c_ends_a_preparation_that_then_resumes(project: Project) -> None:
    command = project.start("prepare", "-r", "tiny")
    command.wait_for("build tokenizer")
    command.type_ctrl_c()
    check_end(command, signal.SIGINT)
    assert set(project.query("prefect/prefect.db", "SELECT name, state_name FROM flow_run")) == {
        ("prepare codegen-tiny", "Crashed")
    }
    statuses = project.query("mlflow/mlflow.db", "SELECT status FROM runs WHERE name LIKE 'prep%'")
    assert ("KILLED",) in statuses
    assert ("RUNNING",) not in statuses
    assert not list((project.folder / "var/active-runs").iterdir())

    timed_out = project.start("prepare", "-r", "tiny", "--exec", "step_timeout_s=0.001")
    assert timed_out.end() == 1
    assert "step_timeout_s" in timed_out.output
    assert timed_out.output.count("✗") == 1
    assert "Traceback" not in timed_out.output

    resumed = project.start("prepare", "-r", "tiny")
    assert resumed.end() == 0, resumed.output
    assert re.search(r"build tokenizer +reused", resumed.output)
    events = dict(
        project.query("prefect/prefect.db", "SELECT event, count(*) FROM events GROUP BY event")
    )
    # A run sends heartbeats to permanent servers only: Prefect waits for their threads.
    assert "prefect.flow-run.heartbeat" not in events
    assert events["prefect.flow-run.Completed"] == 1


def test_signals_to_the_group_end_a_training_that_saves_its_state(project: Project) -> None:
    command = project.start(*TRAIN)
    command.wait_for("gradient norm")
    os.killpg(command.process.pid, signal.SIGTERM)
    check_end(command, signal.SIGTERM)
    (metrics,) = (project.folder / "var/store/.building/checkpoint").glob(
        "*/observed/metrics.jsonl"
    )
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize(
    ("name", "number", "to_group"),
    [
        ("ui", signal.SIGINT, True),
        ("ui", signal.SIGTERM, False),
        ("serve", signal.SIGINT, False),
        ("serve", signal.SIGTERM, True),
    ],
)
def test_signals_end_the_servers(
    project: Project, name: str, number: signal.Signals, to_group: bool
) -> None:
    ports = ("--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
    command = project.start(name, *ports)
    command.wait_for("Ctrl-C stops")
    (os.killpg if to_group else os.kill)(command.process.pid, number)
    check_end(command, number)
    assert not (project.folder / "var/servers.json").exists()
