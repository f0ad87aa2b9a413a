"""A tracking server that does not answer is said before anything expensive, and a broken database is said in words."""

import errno
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from components.core.errors import StorageFull, TrackingError
from components.registry.connection import absolute, explained
from components.registry.tracking import Tracking


class _Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>another service</html>")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def other_service() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.timeout(10)
def test_a_refused_connection_is_said(tmp_path: Path) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))  # Bound but not listening: connections are refused, and nobody else gets the port.
        with pytest.raises(TrackingError, match="does not answer") as caught:
            Tracking(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path).check()
    assert "start the server" in caught.value.do


@pytest.mark.timeout(10)
def test_a_silent_server_is_said(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, pytest.raises(TrackingError, match="timed out"):
        Tracking(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path).check()


def test_another_service_is_not_taken_for_mlflow(tmp_path: Path, other_service: int) -> None:
    with pytest.raises(TrackingError, match="another service"):
        Tracking(f"http://127.0.0.1:{other_service}", tmp_path).check()


def test_a_file_that_is_no_database_is_said_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("not a database" * 100)
    with pytest.raises(TrackingError, match="not a database"):
        Tracking(f"sqlite:///{path}", tmp_path).check()
    assert path.read_text() == "not a database" * 100


def test_a_database_of_another_version_is_said(tracking: Tracking) -> None:
    with closing(sqlite3.connect(tracking.uri.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        connection.commit()
    with pytest.raises(TrackingError, match="schema") as caught:
        tracking.check()
    assert "codegen upgrade" in caught.value.do


def test_the_database_lets_readers_read_while_it_is_written(tracking: Tracking) -> None:
    tracking.check()
    with closing(sqlite3.connect(tracking.uri.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_relative_database_means_one_file_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///var/mlflow.db") == f"sqlite:///{tmp_path}/var/mlflow.db"
    assert absolute("http://tracking:5000") == "http://tracking:5000"


def test_a_disk_that_fills_while_a_folder_is_copied_is_said() -> None:
    failed = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")
    with pytest.raises(StorageFull, match="registering"), explained("registering"):
        raise shutil.Error([("from", "to", str(failed))])  # As copytree does: the number survives only as text.


def test_a_disk_that_fills_while_tables_are_made_is_said(tmp_path: Path) -> None:
    """A page limit makes SQLite say what it says on a full disk; MLflow does not wrap it where it makes its tables."""
    engine = create_engine(f"sqlite:///{tmp_path / 'full.db'}")
    with pytest.raises(StorageFull, match="making tables"), explained("making tables"), engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 2"))
        connection.execute(text("CREATE TABLE t (x)"))
        connection.execute(text("INSERT INTO t VALUES (zeroblob(100000))"))
    engine.dispose()


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("mysql://me:secret@foo/bar", "mysql://USER:PASSWORD@foo/bar needs the package"),
        ("nosuchdb://foo/bar", "MLflow refused"),
    ],
)
def test_a_database_without_its_driver_is_said(tmp_path: Path, uri: str, named: str) -> None:
    with pytest.raises(TrackingError, match=named) as caught:
        Tracking(uri, tmp_path).check()
    assert "secret" not in str(caught.value)
