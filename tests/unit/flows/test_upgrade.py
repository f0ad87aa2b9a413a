"""Databases of earlier versions, made by their own migrations up to a revision of that time."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from components.core.errors import ConfigError, TrackingError
from components.registry.tracking import Tracking
from flows.servers.db_upgrade import DatabaseUpgrade, require_current_schema, upgrade
from flows.settings.execution import Execution

pytestmark = [pytest.mark.slow, pytest.mark.apart]

MLFLOW_THEN, PREFECT_THEN = "1971f2d9a75b", "f416ea180ae1"
"""Revisions of schemas that are older than the installed ones."""

_OLD_MLFLOW = """
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
    """A workspace whose MLflow and Prefect have not been started yet."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for folder in ("prefect", "mlflow"):
        (tmp_path / folder).mkdir()
    return Execution(project=str(tmp_path), workspace=".")


def make_old(execution: Execution) -> None:
    """Both databases as earlier versions left them, with a run and a flow in them."""
    environment = {
        **os.environ,
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{prefect(execution)}",
    }
    for arguments in (
        ["-c", _OLD_MLFLOW, execution.resolved_tracking_uri, MLFLOW_THEN],
        ["-m", "prefect", "server", "database", "upgrade", "--yes", "--revision", PREFECT_THEN],
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


def test_old_databases_are_refused_then_upgraded_with_what_is_in_them_and_copied_first(
    execution: Execution,
) -> None:
    make_old(execution)
    tracking = Tracking(execution.resolved_tracking_uri, execution.workspace_path / "artifacts")
    with pytest.raises(TrackingError, match="codegen upgrade"):
        tracking.check()
    with pytest.raises(
        ConfigError, match=f"(?s)Prefect's database .*{PREFECT_THEN}.*codegen upgrade"
    ):
        require_current_schema()

    done = {one.name: one for one in upgrade(execution)}
    assert (done["MLflow"].before, done["Prefect"].before) == (MLFLOW_THEN, PREFECT_THEN)
    assert all(one.after not in ("", one.before) for one in done.values())
    assert "old" in {one.name for one in tracking.client.search_experiments()}
    assert names(prefect(execution), "flow") == ["old"]
    for one, table, expected in (
        (done["MLflow"], "experiments", ["old"]),
        (done["Prefect"], "flow", ["old"]),
    ):
        assert one.backup is not None
        assert set(expected) <= set(names(one.backup, table))

    require_current_schema()
    again = list(upgrade(execution))
    assert [(one.before == one.after, one.backup) for one in again] == [(True, None)] * 2
    assert len(list(execution.workspace_path.rglob("*.before-*"))) == 2


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(execution: Execution) -> None:
    make_old(execution)
    with closing(sqlite3.connect(mlflow(execution))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of-the-future'")
    before = content(mlflow(execution))
    with pytest.raises(ConfigError, match=r"(?s)MLflow's database failed.*of-the-future.*before-"):
        list(upgrade(execution))
    assert content(mlflow(execution)) == before


def test_what_is_not_there_needs_nothing(execution: Execution) -> None:
    assert list(upgrade(execution)) == list[DatabaseUpgrade]()


def test_a_file_that_is_no_database_is_said_to_be_none(execution: Execution) -> None:
    mlflow(execution).write_text("a letter, and no database at all" * 100)
    with pytest.raises(ConfigError, match="is no database"):
        list(upgrade(execution))


def test_a_database_elsewhere_is_its_administrators(execution: Execution) -> None:
    with pytest.raises(ConfigError, match="not SQLite but postgresql"):
        list(upgrade(execution.replace(tracking_uri="postgresql://localhost/mlflow")))
