"""Upgrades of old databases, which the tools' own migrations create up to an old revision."""

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


def test_old_databases_are_rejected_backed_up_and_upgraded_with_their_content(
    execution: Execution,
) -> None:
    create_old_databases(execution)
    tracking = Tracking(execution.resolved_tracking_uri, execution.workspace_path / "artifacts")
    with pytest.raises(TrackingError, match=r"codegen (db )?upgrade"):
        tracking.check()
    with pytest.raises(
        ConfigError, match=f"(?s)Prefect's database .*{OLD_PREFECT_REVISION}.*codegen db upgrade"
    ):
        require_current_schema()

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
