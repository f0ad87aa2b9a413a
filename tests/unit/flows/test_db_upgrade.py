"""First starts that are killed, and upgrades of old databases, which the tools' own migrations
create up to an old revision."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fixtures.processes import environment_without_settings

from components.core.errors import ConfigError, TrackingError
from components.core.network import free_port
from components.registry.tracking import Tracking
from flows.servers.db_upgrade import DatabaseUpgrade, require_current_schema, upgrade
from flows.servers.local_servers import local_servers
from flows.servers.prefect_server import create_database
from flows.settings.execution import Execution

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]

OLD_MLFLOW_REVISION = "1971f2d9a75b"
OLD_PREFECT_REVISION = "f416ea180ae1"

_CREATE_OLD_MLFLOW = """
import sys, sqlalchemy
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
engine = sqlalchemy.create_engine(sys.argv[1])
Base.metadata.create_all(engine)
config = _get_alembic_config(sys.argv[1])
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, sys.argv[2])
"""


@pytest.fixture
def execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execution:
    """A workspace without databases."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for folder in ("prefect", "mlflow"):
        (tmp_path / folder).mkdir()
    return Execution(project=str(tmp_path), workspace=".")


def create_old_databases(execution: Execution) -> None:
    """Create both databases of old versions, with an experiment and a flow."""
    environment = {
        **os.environ,
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{prefect(execution)}",
    }
    for arguments in (
        ["-c", _CREATE_OLD_MLFLOW, execution.resolved_tracking_uri, OLD_MLFLOW_REVISION],
        f"-m prefect server database upgrade --yes --revision {OLD_PREFECT_REVISION}".split(),
    ):
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            env=environment,
            capture_output=True,
            timeout=240,
        )
    with closing(sqlite3.connect(mlflow(execution))) as connection, connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
            " VALUES (7, 'old', '/a', 'active')"
        )
    with closing(sqlite3.connect(prefect(execution))) as connection, connection:
        connection.execute(
            "INSERT INTO flow (id, name) VALUES ('0f0f0f0f-0f0f-0f0f-0f0f-0f0f0f0f0f0f', 'old')"
        )


def mlflow(execution: Execution) -> Path:
    return execution.workspace_path / "mlflow" / "mlflow.db"


def prefect(execution: Execution) -> Path:
    return execution.workspace_path / "prefect" / "prefect.db"


def names(database: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute(f"SELECT name FROM {table} ORDER BY name")]  # noqa: S608


def content(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


_FIRST_START = """
import sys
from pathlib import Path
from flows.servers.prefect_server import create_database
from flows.settings.execution import Execution
if sys.argv[2] == "prefect":
    create_database(Path(sys.argv[1], "prefect", "prefect.db"))
else:
    Execution(project=sys.argv[1], workspace=".").open_tracking().check()
"""
_KILL_TIMEOUT_S = 240


def kill_first_start(execution: Execution, name: str, moment: Callable[[], bool]) -> None:
    """Start the creation of a database, and kill the process and its children at a moment."""
    process = subprocess.Popen(
        [sys.executable, "-c", _FIRST_START, execution.project, name], start_new_session=True
    )
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while not moment():
        assert process.poll() is None, "the creation ended before the kill"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def num_tables(folder: Path) -> int:
    """Return the number of tables of the largest database below a folder."""
    numbers = [0]
    for path in folder.rglob("*.db"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            query = "SELECT count(*) FROM sqlite_master WHERE type = 'table'"
            try:
                numbers.append(int(connection.execute(query).fetchone()[0]))
            except sqlite3.OperationalError:  # Its writer has a lock.
                continue
    return max(numbers)


@pytest.mark.parametrize("min_tables", [0, 1, 20])
def test_a_killed_creation_of_prefects_database_is_repeated(
    execution: Execution, min_tables: int
) -> None:
    folder = prefect(execution).parent

    def is_reached() -> bool:
        return any(folder.glob(".creating-*")) and num_tables(folder) >= min_tables

    kill_first_start(execution, "prefect", is_reached)
    assert not prefect(execution).exists()
    create_database(prefect(execution))
    assert names(prefect(execution), "flow") == []
    assert sorted(path.name for path in folder.iterdir()) == ["prefect.db", "prefect.db.lock"]
    require_current_schema()


def test_a_killed_creation_of_mlflows_database_is_repeated(execution: Execution) -> None:
    lock = mlflow(execution).with_name("mlflow.db.lock")
    kill_first_start(execution, "mlflow", lock.exists)
    assert not mlflow(execution).exists()
    execution.open_tracking().check()
    assert names(mlflow(execution), "experiments") == ["Default"]


_FIRST_RUN = """
import sys
from flows.servers.db_upgrade import upgrade, workspace_database
from flows.settings.execution import Execution, setup_environment
execution = Execution(project=sys.argv[1], workspace=sys.argv[2])
setup_environment(execution, runs=False)
from flows.servers.prefect_server import create_database
create_database(workspace_database())
with execution.open_tracking().run("first", experiment="tiny") as run:
    run.log_json("note.json", {})
assert {result.name for result in upgrade(execution)} == {"Prefect", "MLflow"}
"""


def test_databases_are_created_in_a_workspace_with_special_characters(tmp_path: Path) -> None:
    execution = Execution(project=str(tmp_path), workspace="w?a #%20é&uri=false")
    subprocess.run(
        [sys.executable, "-c", _FIRST_RUN, execution.project, execution.workspace],
        env=environment_without_settings(),
        cwd=tmp_path,
        check=True,
    )
    assert names(prefect(execution), "flow") == []
    assert names(mlflow(execution), "experiments") == ["Default", "tiny"]
    assert len(list(execution.workspace_path.rglob("note.json"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [execution.workspace]


def test_old_databases_are_rejected_backed_up_and_upgraded_with_their_content(
    execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_old_databases(execution)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")  # As `codegen serve` does.
    tracking = Tracking(execution.resolved_tracking_uri, execution.workspace_path / "artifacts")
    with pytest.raises(TrackingError, match=r"codegen (db )?upgrade"):
        tracking.check()
    with (
        pytest.raises(
            ConfigError,
            match=f"(?s)Prefect's database .*{OLD_PREFECT_REVISION}.*codegen db upgrade",
        ),
        local_servers(execution, prefect_port=free_port(), mlflow_port=free_port()),
    ):
        pytest.fail("the servers started")

    results = {result.name: result for result in upgrade(execution)}
    assert results["MLflow"].old_revision == OLD_MLFLOW_REVISION
    assert results["Prefect"].old_revision == OLD_PREFECT_REVISION
    assert all(result.new_revision not in ("", result.old_revision) for result in results.values())
    experiments = tracking.client.search_experiments()
    assert "old" in {experiment.name for experiment in experiments}
    assert names(prefect(execution), "flow") == ["old"]
    for name, table in (("MLflow", "experiments"), ("Prefect", "flow")):
        backup = results[name].backup
        assert backup is not None
        assert "old" in names(backup, table)

    require_current_schema()
    again = list(upgrade(execution))
    assert all(result.old_revision == result.new_revision for result in again)
    assert [result.backup for result in again] == [None, None]
    assert len(list(execution.workspace_path.rglob("*.before-*"))) == 2


def test_a_failed_upgrade_restores_the_database(execution: Execution) -> None:
    create_old_databases(execution)
    with closing(sqlite3.connect(mlflow(execution))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'unknown-revision'")
    content_before = content(mlflow(execution))
    with pytest.raises(
        ConfigError, match=r"(?s)MLflow's database failed.*unknown-revision.*before-"
    ):
        list(upgrade(execution))
    assert content(mlflow(execution)) == content_before


def test_missing_databases_are_not_upgraded(execution: Execution) -> None:
    assert list(upgrade(execution)) == list[DatabaseUpgrade]()


def test_a_file_that_is_not_a_database_is_an_error(execution: Execution) -> None:
    mlflow(execution).write_text("plain text" * 300)
    with pytest.raises(ConfigError, match="is not a database"):
        list(upgrade(execution))


def test_a_database_other_than_sqlite_is_an_error(execution: Execution) -> None:
    with pytest.raises(ConfigError, match="postgresql, not SQLite"):
        list(upgrade(execution.replace(tracking_uri="postgresql://localhost/mlflow")))
