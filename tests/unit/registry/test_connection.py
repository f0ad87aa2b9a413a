"""A tracking server that does not answer is said before anything expensive, and a broken database is said in words."""

import base64
import errno
import os
import shutil
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fixtures.sinks import serving
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine, text

from components.core.errors import DiskFullError, TrackingError
from components.core.network import free_port
from components.registry.client import connection
from components.registry.client.connection import absolute, is_healthy, wrap_mlflow_errors
from components.registry.tracking import Tracking


class _Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>another service</html>")

    def log_message(self, *arguments: object) -> None:
        pass


class _Guarded(BaseHTTPRequestHandler):
    """As a server with a password: only who names it is answered."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == f"Basic {base64.b64encode(b'ada:secret').decode()}"
        self.send_response(200 if known else 500)
        self.end_headers()
        self.wfile.write(b"OK" if known else b"who are you?")

    def log_message(self, *arguments: object) -> None:
        pass


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def other_service() -> Iterator[int]:
    with serving(HTTPServer(("127.0.0.1", 0), _Elsewhere)) as port:
        yield port


@pytest.fixture
def private_server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of a server whose certificate only its own authority signed, and that of the authority."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")]),
    )
    today = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(
            name,
            name,
            key.public_key(),
            x509.random_serial_number(),
            today,
            today + timedelta(days=1),
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    certificate, secret = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    server = HTTPServer(("127.0.0.1", 0), _Healthy)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server) as port:
        yield port, certificate


def test_a_server_with_a_private_certificate_is_reached_as_mlflow_reaches_it(
    tmp_path: Path, private_server: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, certificate = private_server
    uri = f"https://127.0.0.1:{port}"
    assert not is_healthy(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    assert is_healthy(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "none.pem"))
    with pytest.raises(TrackingError, match=r"none\.pem"):
        Tracking(uri, tmp_path).check()


@pytest.mark.timeout(10)
def test_a_refused_connection_is_said(tmp_path: Path) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(
            ("127.0.0.1", 0)
        )  # Bound but not listening: connections are refused, and nobody else gets the port.
        with pytest.raises(TrackingError, match="does not answer") as caught:
            Tracking(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path).check()
    assert "start the server" in caught.value.fix


@pytest.mark.timeout(10)
def test_a_silent_server_is_said(tmp_path: Path) -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as silent,
        pytest.raises(TrackingError, match="timed out"),
    ):
        Tracking(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path).check()


def test_another_service_is_not_taken_for_mlflow(tmp_path: Path, other_service: int) -> None:
    with pytest.raises(TrackingError, match="another service"):
        Tracking(f"http://127.0.0.1:{other_service}", tmp_path).check()


def test_a_server_with_a_password_answers_who_names_it() -> None:
    with serving(HTTPServer(("127.0.0.1", 0), _Guarded)) as port:
        assert is_healthy(f"http://ada:secret@127.0.0.1:{port}")
        assert not is_healthy(f"http://ada:wrong@127.0.0.1:{port}")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "127.0.0.1:{free}", "127.0.0.1:port", "..:1", "a" * 70]
)
def test_no_message_shows_a_password(tmp_path: Path, other_service: int, host: str) -> None:
    uri = f"http://ada:secret@{host.format(port=other_service, free=free_port())}"
    with pytest.raises(TrackingError, match="//USER:PASSWORD@") as caught:
        Tracking(uri, tmp_path).check()
    assert "secret" not in str(caught.value)


def test_what_mlflow_says_of_an_address_shows_no_password() -> None:
    with (
        pytest.raises(TrackingError, match="//USER:PASSWORD@host/api failed") as caught,
        wrap_mlflow_errors("looking"),
    ):
        raise MlflowException("API request to http://ada:p@ss@host/api failed")
    assert "p@ss" not in str(caught.value)
    assert "ss@" not in str(caught.value)


def test_a_database_that_others_keep_busy_is_said(tmp_path: Path) -> None:
    path = tmp_path / "busy.db"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with (
            pytest.raises(TrackingError, match="database is locked") as caught,
            wrap_mlflow_errors("making tables"),
            engine.connect() as connection,
        ):
            connection.execute(text("CREATE TABLE t (x)"))
    engine.dispose()
    assert "PostgreSQL: docs/scheduling.md" in caught.value.fix
    assert "codegen upgrade" not in caught.value.fix


def test_a_database_that_others_keep_busy_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_BUSY_TIMEOUT_S", 0.0)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="database is locked") as caught:
            Tracking(f"sqlite:///{tmp_path}/mlflow.db", tmp_path).check()
    assert "PostgreSQL" in caught.value.fix


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
    assert "codegen upgrade" in caught.value.fix


def test_the_database_lets_readers_read_while_it_is_written(tracking: Tracking) -> None:
    tracking.check()
    with closing(sqlite3.connect(tracking.uri.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_relative_database_means_one_file_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///var/mlflow.db") == f"sqlite:///{tmp_path}/var/mlflow.db"
    assert absolute("http://tracking:5000") == "http://tracking:5000"


def test_a_disk_that_fills_while_a_folder_is_copied_is_said() -> None:
    failed = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")
    with pytest.raises(DiskFullError, match="registering"), wrap_mlflow_errors("registering"):
        raise shutil.Error(
            [("from", "to", str(failed))]
        )  # As copytree does: the number survives only as text.


def test_a_disk_that_fills_while_tables_are_made_is_said(tmp_path: Path) -> None:
    """A page limit makes SQLite say what it says on a full disk; MLflow does not wrap it where it makes its tables."""
    engine = create_engine(f"sqlite:///{tmp_path / 'full.db'}")
    with (
        pytest.raises(DiskFullError, match="making tables"),
        wrap_mlflow_errors("making tables"),
        engine.connect() as connection,
    ):
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
