from __future__ import annotations

import socket

import pytest

from components.core.errors import CodegenError, ConfigError
from components.core.network import (
    free_port,
    redact_credentials,
    require_free_port,
    require_no_password,
)

SECRET_URIS = [
    "http://ada:lovelace@host:5000/x",
    "postgresql+psycopg2://ada:love/lovelace@host/db",
    "postgresql://host/db?user=ada&password=lovelace&sslmode=require",
    "mysql://host/db?sslPassword=lovelace",
    "failed: http://ada:lovelace@host and http://ada:lovelace@other/y",
]
PUBLIC_URIS = [
    "http://host:5000/path",
    "s3://bucket/a:b@c",
    "file:///tmp/x@y",
    "sqlite:////work/a@b/mlflow.db",
    "data/*.jsonl",
]


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_a_password_in_a_uri_is_redacted(uri: str) -> None:
    assert "lovelace" not in redact_credentials(uri)
    assert redact_credentials(redact_credentials(uri)) == redact_credentials(uri)


@pytest.mark.parametrize("uri", PUBLIC_URIS)
def test_a_uri_without_a_password_is_accepted(uri: str) -> None:
    assert require_no_password(uri) == uri


@pytest.mark.parametrize("uri", SECRET_URIS[:2])
def test_the_error_about_a_password_does_not_contain_it(uri: str) -> None:
    with pytest.raises(ConfigError) as error:
        require_no_password(uri)
    assert "lovelace" not in str(error.value)


def test_a_port_in_use_is_an_error_that_names_the_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            CodegenError, match=rf"{port} of 127\.0\.0\.1 is in use(.|\n)*--prefect-port"
        ):
            require_free_port("Prefect", port)


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    require_free_port("MLflow", port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
