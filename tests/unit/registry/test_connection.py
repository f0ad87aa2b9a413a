"""Connections: an unreachable server or unusable database is one clear error without secrets."""

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
from components.registry.client.connection import absolute_uri, is_healthy, wrap_mlflow_errors
from components.registry.tracking import Tracking


class _OtherService(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>another service</html>")

    def log_message(self, *arguments: object) -> None:
        pass


class _PasswordProtected(BaseHTTPRequestHandler):
    """Answers only requests with the password."""

    def do_GET(self) -> None:
        is_authorized = (
            self.headers["Authorization"] == f"Basic {base64.b64encode(b'ada:secret').decode()}"
        )
        self.send_response(200 if is_authorized else 500)
        self.end_headers()
        self.wfile.write(b"OK" if is_authorized else b"unauthorized")

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
    with serving(HTTPServer(("127.0.0.1", 0), _OtherService)) as port:
        yield port


@pytest.fixture
def private_server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port and the self-signed certificate of an HTTPS server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    today = datetime.now(UTC)
    certificate = (
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
    certificate_path = tmp_path / "certificate.pem"
    certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path = tmp_path / "key.pem"
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_path, key_path)
    server = HTTPServer(("127.0.0.1", 0), _Healthy)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server) as port:
        yield port, certificate_path


def test_a_private_certificate_is_configured_as_for_mlflow(
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
def test_a_refused_connection_is_an_error(tmp_path: Path) -> None:
    with closing(socket.socket()) as unused:
        # Bound but not listening: connections are refused, and no other process gets the port.
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(TrackingError, match="does not answer") as caught:
            Tracking(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path).check()
    assert "start the server" in caught.value.fix


@pytest.mark.timeout(10)
def test_a_server_that_never_responds_is_an_error(tmp_path: Path) -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as silent,
        pytest.raises(TrackingError, match="timed out"),
    ):
        Tracking(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path).check()


def test_another_service_is_not_accepted_as_mlflow(tmp_path: Path, other_service: int) -> None:
    with pytest.raises(TrackingError, match="another service"):
        Tracking(f"http://127.0.0.1:{other_service}", tmp_path).check()


def test_a_password_in_the_uri_is_sent() -> None:
    with serving(HTTPServer(("127.0.0.1", 0), _PasswordProtected)) as port:
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


def test_a_password_in_an_mlflow_message_is_redacted() -> None:
    with (
        pytest.raises(TrackingError, match="//USER:PASSWORD@host/api failed") as caught,
        wrap_mlflow_errors("looking"),
    ):
        raise MlflowException("API request to http://ada:p@ss@host/api failed")
    assert "p@ss" not in str(caught.value)
    assert "ss@" not in str(caught.value)


def test_a_locked_database_is_an_error_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "busy.db"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with (
            pytest.raises(TrackingError, match="database is locked") as caught,
            wrap_mlflow_errors("creating tables"),
            engine.connect() as connection,
        ):
            connection.execute(text("CREATE TABLE t (x)"))
    engine.dispose()
    assert "PostgreSQL: docs/scheduling.md" in caught.value.fix
    assert "codegen db upgrade" not in caught.value.fix


def test_a_locked_database_is_an_error_when_connecting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.0)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="database is locked") as caught:
            Tracking(f"sqlite:///{tmp_path}/mlflow.db", tmp_path).check()
    assert "PostgreSQL" in caught.value.fix


def test_a_file_that_is_not_a_database_is_an_error_and_stays_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("not a database" * 100)
    with pytest.raises(TrackingError, match="not a database"):
        Tracking(f"sqlite:///{path}", tmp_path).check()
    assert path.read_text() == "not a database" * 100


def test_a_database_of_another_mlflow_version_is_an_error(tracking: Tracking) -> None:
    with closing(sqlite3.connect(tracking.uri.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        connection.commit()
    with pytest.raises(TrackingError, match="schema") as caught:
        tracking.check()
    assert "codegen db upgrade" in caught.value.fix


def test_the_database_uses_write_ahead_logging(tracking: Tracking) -> None:
    tracking.check()
    with closing(sqlite3.connect(tracking.uri.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_relative_database_path_becomes_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///var/mlflow.db") == f"sqlite:///{tmp_path}/var/mlflow.db"
    assert absolute_uri("http://tracking:5000") == "http://tracking:5000"


def test_a_full_disk_during_a_copy_is_an_error() -> None:
    disk_full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")
    with pytest.raises(DiskFullError, match="registering"), wrap_mlflow_errors("registering"):
        # As copytree does: the errno is lost, and only the text remains.
        raise shutil.Error([("source", "target", str(disk_full))])


def test_a_full_disk_during_the_creation_of_tables_is_an_error(tmp_path: Path) -> None:
    """A page limit gives SQLite's error of a full disk, which MLflow does not wrap here."""
    engine = create_engine(f"sqlite:///{tmp_path / 'full.db'}")
    with (
        pytest.raises(DiskFullError, match="creating tables"),
        wrap_mlflow_errors("creating tables"),
        engine.connect() as connection,
    ):
        connection.execute(text("PRAGMA max_page_count = 2"))
        connection.execute(text("CREATE TABLE t (x)"))
        connection.execute(text("INSERT INTO t VALUES (zeroblob(100000))"))
    engine.dispose()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mysql://me:secret@foo/bar", "mysql://USER:PASSWORD@foo/bar needs the package"),
        ("nosuchdb://foo/bar", "MLflow failed"),
    ],
)
def test_a_missing_database_driver_is_an_error(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(TrackingError, match=message) as caught:
        Tracking(uri, tmp_path).check()
    assert "secret" not in str(caught.value)
