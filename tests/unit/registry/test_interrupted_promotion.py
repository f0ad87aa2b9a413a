"""A change of the champion, killed before each of its writes: old or new state, true record."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fixtures.crash_injection import open_tracking, run_and_kill_before_write
from fixtures.tracking_server import copy_database
from fixtures.versions import NAME, PYTHON, add_version, make_evidence, promote_version

from components.registry.queries import (
    INTERRUPTED,
    DecisionRecord,
    history,
    list_versions,
    rollback,
)
from components.registry.tracking import Tracking

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

OLD = {"champion": 1}
NEW = {"champion": 2, "previous": 1}


@pytest.fixture(scope="module")
def registry_folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A registry in which version 1 is champion and version 2 was not evaluated yet."""
    folder = tmp_path_factory.mktemp("champion")
    copy_database(empty_database, folder / "mlflow.db")
    tracking = open_tracking(folder)
    promote_version(tracking, add_version(tracking), make_evidence(2.0))
    add_version(tracking)
    return folder


def _copy_registry(source: Path, target: Path) -> Tracking:
    """Copy a registry with the files of its runs to another folder."""
    target.mkdir()
    copy_database(source / "mlflow.db", target / "mlflow.db")
    shutil.copytree(source / "artifacts", target / "artifacts")
    with closing(sqlite3.connect(target / "mlflow.db")) as database, database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",  # noqa: S608
                (str(source), str(target)),
            )
    return open_tracking(target)


def _listed_aliases(tracking: Tracking) -> dict[str, int]:
    """The aliases that `codegen models list` shows, without the candidate."""
    return {
        alias: version.version
        for version in list_versions(tracking, NAME)
        for alias in version.aliases
        if alias != "candidate"
    }


def _stored_aliases(tracking: Tracking) -> dict[str, int]:
    aliases = tracking.client.get_registered_model(NAME).aliases
    return {alias: int(version) for alias, version in aliases.items()}


def _last_record(tracking: Tracking, num_earlier: int) -> DecisionRecord | None:
    """The record of the killed change, if it was written."""
    records = history(tracking, NAME)[num_earlier:]
    assert len(records) <= 1
    return records[0] if records else None


def _kill_before_each_write(start: Path, folder: Path, action: str) -> Iterator[Tracking]:
    """The registry after a kill before each write of an action, then after the whole action."""
    status = -signal.SIGKILL
    number = 0
    while status == -signal.SIGKILL:
        number += 1
        tracking = _copy_registry(start, folder / str(number))
        status = run_and_kill_before_write(number, action, folder / str(number))
        yield tracking
    assert status == 0


def test_an_interrupted_promotion_leaves_the_old_or_the_new_champion(
    registry_folder: Path, tmp_path: Path
) -> None:
    states = []
    for tracking in _kill_before_each_write(registry_folder, tmp_path, "promote_second"):
        second = list_versions(tracking, NAME)[1]
        record = _last_record(tracking, 1)
        if _listed_aliases(tracking) == NEW:
            assert (second.decision, record and record.outcome) == ("promoted", "promoted")
            states.append("new")
        else:
            assert _listed_aliases(tracking) == OLD
            assert second.decision in ("", f"promoted, {INTERRUPTED}")
            assert record is None or record.outcome == f"promoted, {INTERRUPTED}"
            states.append("old, recorded" if record else "old")
        promote_version(tracking, 2, make_evidence(1.5))  # The same command again.
        assert _stored_aliases(tracking) == NEW
        versions = list_versions(tracking, NAME)
        assert [version.decision for version in versions] == ["promoted", "promoted"]
        assert [version.metrics[PYTHON] for version in versions] == [2.0, 1.5]
        assert rollback(tracking, NAME, "grace", "").champion_after == 1
    order = ["old", "old, recorded", "new"]
    assert states == sorted(states, key=order.index)
    assert all(states.count(state) > 1 for state in order)


def test_an_interrupted_rollback_leaves_the_old_or_the_new_champion(
    registry_folder: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    promote_version(_copy_registry(registry_folder, start), 2, make_evidence(1.5))
    states = []
    for tracking in _kill_before_each_write(start, tmp_path, "roll_back"):
        record = _last_record(tracking, 2)
        is_rolled_back = _listed_aliases(tracking) == {"champion": 1, "previous": 2}
        assert is_rolled_back or _listed_aliases(tracking) == NEW
        assert is_rolled_back == (record is not None and record.outcome == "rolled_back")
        interrupted = f"rolled_back, {INTERRUPTED}"
        assert record is None or is_rolled_back or record.outcome == interrupted
        states.append(is_rolled_back)
        # The next rollback first completes the interrupted one.
        champion = rollback(tracking, NAME, "grace", "").champion_after
        assert _stored_aliases(tracking) == {"champion": champion, "previous": 3 - (champion or 0)}
    assert states == sorted(states)
    assert set(states) == {False, True}


def test_an_interrupted_proposal_changes_no_champion(registry_folder: Path, tmp_path: Path) -> None:
    for tracking in _kill_before_each_write(registry_folder, tmp_path, "propose_second"):
        assert _listed_aliases(tracking) == OLD
        assert _last_record(tracking, 1) is None
