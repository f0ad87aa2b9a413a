"""A change of the champion, killed before each of its writes: the old state or the new one, and the truth about it."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fixtures.crash_injection import killed_before_write, tracking_in
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

OLD, NEW = {"champion": 1}, {"champion": 2, "previous": 1}


@pytest.fixture(scope="module")
def with_champion(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A registry whose version 1 is champion; version 2 was not judged yet."""
    folder = tmp_path_factory.mktemp("champion")
    _copy_database(empty_database, folder / "mlflow.db")
    tracking = tracking_in(folder)
    promote_version(tracking, add_version(tracking), make_evidence(2.0))
    add_version(tracking)
    return folder


def _copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as copy:
        one.backup(copy)


def _copy(folder: Path, into: Path) -> Tracking:
    """The same registry in another folder, its runs' files included."""
    into.mkdir()
    _copy_database(folder / "mlflow.db", into / "mlflow.db")
    shutil.copytree(folder / "artifacts", into / "artifacts")
    with closing(sqlite3.connect(into / "mlflow.db")) as database, database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (str(folder), str(into)),  # noqa: S608
            )
    return tracking_in(into)


def _shown(tracking: Tracking) -> dict[str, int]:
    """The aliases as `codegen models list` shows them, but for the candidate."""
    found = {alias: one.version for one in list_versions(tracking, NAME) for alias in one.aliases}
    return {alias: version for alias, version in found.items() if alias != "candidate"}


def _kept(tracking: Tracking) -> dict[str, int]:
    """The aliases as MLflow keeps them."""
    return {
        alias: int(version)
        for alias, version in tracking.client.get_registered_model(NAME).aliases.items()
    }


def _last(tracking: Tracking, num_before: int) -> DecisionRecord | None:
    """The record of a change that was killed; none where it left none."""
    recorded = history(tracking, NAME)[num_before:]
    assert len(recorded) <= 1
    return recorded[0] if recorded else None


def _kill_everywhere(start: Path, into: Path, action: str) -> Iterator[Tracking]:
    """The registry after each kill in turn, and at last after the whole action."""
    status, number = -signal.SIGKILL, 0
    while status == -signal.SIGKILL:
        number += 1
        tracking = _copy(start, into / str(number))
        status = killed_before_write(number, action, into / str(number))
        yield tracking
    assert status == 0


def test_a_promotion(with_champion: Path, tmp_path: Path) -> None:
    states = []
    for tracking in _kill_everywhere(with_champion, tmp_path, "promote_second"):
        second, record = list_versions(tracking, NAME)[1], _last(tracking, 1)
        if _shown(tracking) == NEW:
            assert (second.decision, record and record.outcome) == ("promoted", "promoted")
            states.append("new")
        else:
            assert _shown(tracking) == OLD
            assert second.decision in ("", f"promoted, {INTERRUPTED}")
            assert record is None or record.outcome == f"promoted, {INTERRUPTED}"
            states.append("old, recorded" if record else "old")
        promote_version(tracking, 2, make_evidence(1.5))  # The same command again.
        assert _kept(tracking) == NEW
        assert [one.decision for one in list_versions(tracking, NAME)] == ["promoted", "promoted"]
        assert [one.metrics[PYTHON] for one in list_versions(tracking, NAME)] == [2.0, 1.5]
        assert rollback(tracking, NAME, "grace", "").champion_after == 1
    order = ["old", "old, recorded", "new"]
    assert states == sorted(states, key=order.index)
    assert all(states.count(state) > 1 for state in order)


def test_a_rollback(with_champion: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    promote_version(_copy(with_champion, start), 2, make_evidence(1.5))
    states = []
    for tracking in _kill_everywhere(start, tmp_path, "roll_back"):
        record = _last(tracking, 2)
        went_back = _shown(tracking) == {"champion": 1, "previous": 2}
        assert went_back or _shown(tracking) == NEW
        assert went_back == (record is not None and record.outcome == "rolled back")
        assert record is None or went_back or record.outcome == f"rolled back, {INTERRUPTED}"
        states.append(went_back)
        other = rollback(
            tracking, NAME, "grace", ""
        ).champion_after  # The next one finds what was left to do.
        assert _kept(tracking) == {"champion": other, "previous": 3 - (other or 0)}
    assert states == sorted(states)
    assert set(states) == {False, True}


def test_a_proposal_changes_no_champion(with_champion: Path, tmp_path: Path) -> None:
    for tracking in _kill_everywhere(with_champion, tmp_path, "propose_second"):
        assert _shown(tracking) == OLD
        assert _last(tracking, 1) is None
