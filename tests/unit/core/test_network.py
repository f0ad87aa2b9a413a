"""Free ports, and proxies that must not catch requests to loopback servers."""

from __future__ import annotations

import http.server
import os
import socket
import urllib.request
from collections.abc import Iterator
from typing import ClassVar

import pytest
import requests
from fixtures.sinks import serving
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from components.core.errors import CodegenError, ConfigError
from components.core.network import (
    bypass_proxies_for_loopback,
    free_port,
    health_error,
    redact_credentials,
    require_free_port,
    require_public_uri,
)

SECRET_URIS = [
    "http://ada:lovelace@host:5000/x",
    "postgresql+psycopg2://ada:love/lovelace@host/db",
    "postgresql://host/db?user=ada&password=lovelace&sslmode=require",
    "mysql://host/db?sslPassword=lovelace",
    "failed: http://ada:lovelace@host and http://ada:lovelace@other/y",
    "https://lovelace@host/data.jsonl",
    "https://b.s3.amazonaws.com/a.jsonl?X-Amz-Date=1&X-Amz-Signature=lovelace&X-Amz-Expires=9",
    "https://b.s3.amazonaws.com/a.jsonl?AWSAccessKeyId=lovelace&Signature=lovelace",
    "https://storage.googleapis.com/b/a.jsonl?X-Goog-Signature=lovelace",
    "https://x.blob.core.windows.net/c/a.jsonl?sv=2024-11-04&se=2027&sig=lovelace%3D",
    "https://host/a.jsonl?token=lovelace",
    "https://host/a.jsonl?access_token=lovelace#page",
    "https://host/a.jsonl?x=1;private-token=lovelace",
    "simplecache::https://host/a.jsonl?api_key=lovelace",
]
PUBLIC_URIS = [
    "http://host:5000/path",
    "s3://bucket/a:b@c",
    "file:///tmp/x@y",
    "sqlite:////data/a@b/mlflow.db",
    "data/*.jsonl",
    "data/what?token=1.jsonl",
    "ssh://ada@host/data.jsonl",
    "https://host/data.jsonl?version=3&tokenizer=gpt2&signed=no",
]


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_a_secret_in_a_uri_is_redacted(uri: str) -> None:
    assert "lovelace" not in redact_credentials(uri)
    assert redact_credentials(redact_credentials(uri)) == redact_credentials(uri)


@pytest.mark.parametrize("uri", PUBLIC_URIS)
def test_a_uri_without_a_secret_is_accepted(uri: str) -> None:
    assert require_public_uri(uri) == uri


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_a_uri_with_a_secret_is_refused_without_quoting_it(uri: str) -> None:
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY") as error:
        require_public_uri(uri)
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


class _Recorder(http.server.BaseHTTPRequestHandler):
    """Answers every request with 200 and records its target."""

    targets: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.targets.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A proxy that the environment names; yields the URLs that it is asked for."""
    for variable in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)

    class Proxy(_Recorder):
        targets: ClassVar[list[str]] = []

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        yield Proxy.targets


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("no_proxy", [None, "internal.example", "*"])
def test_loopback_servers_are_not_reached_through_a_proxy(
    proxy: list[str], monkeypatch: pytest.MonkeyPatch, host: str, no_proxy: str | None
) -> None:
    if no_proxy:
        monkeypatch.setenv("NO_PROXY", no_proxy)
    bypass_proxies_for_loopback()
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Recorder)) as port:
        url = f"http://{host}:{port}/health"
        assert health_error(url, 60) is None  # httpx, as in Prefect.
        assert requests.get(url, timeout=60).ok  # As in MLflow.
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.status == 200
        assert get_proxy(parse_uri(f"ws://{host}:{port}/events")) is None  # Prefect's events.
    assert not proxy


def test_other_hosts_are_reached_through_the_proxy(
    proxy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "internal.example")
    bypass_proxies_for_loopback()
    assert health_error("http://public.example/health", 60) is None
    assert requests.get("http://public.example/data", timeout=60).ok
    assert proxy == ["http://public.example/health", "http://public.example/data"]
    assert os.environ["NO_PROXY"].startswith("internal.example,")
