"""Loopback ports without proxies, and URIs without their credentials."""

from __future__ import annotations

import os
import re
import socket
from typing import Annotated

from pydantic import AfterValidator

from components.core.errors import CodegenError, ConfigError

# Drivers of databases accept `/` in a password. A colon before digits and `/` separates a port.
_PASSWORD = re.compile(r"//[^/@\s]*:(?!\d+/)(?:[^/\s]*|\S*)@")
_USER = re.compile(r"//[^/\s]*@")
_HTTP_USER = re.compile(r"https?:" + _USER.pattern, re.IGNORECASE)
"""Over HTTP, a user name without a password is usually an access token."""
_SECRET_PARAMETER = re.compile(
    r"([?&;#](?:[\w.-]*(?:passw(?:or)?d|secret|signature|token(?!i)|credential|api[_-]?key|"
    r"access[_-]?key)[\w.-]*|sig|key|code|auth|jwt)=)[^&;#\s]*",
    re.IGNORECASE,
)
"""Passwords of databases, tokens, and signatures of S3 (`X-Amz-Signature`), Google
(`X-Goog-Signature`) and Azure (`sig`). Other names are not recognised."""

_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


def bypass_proxies_for_loopback() -> None:
    """Make HTTP clients of this process and its children connect to loopback addresses directly,
    whatever proxy the environment names.

    All of them read NO_PROXY: httpx in Prefect, requests in MLflow and DVC, websockets, botocore.
    """
    # Clients differ in the spelling that they prefer if both are set.
    values = f"{os.environ.get('no_proxy', '')},{os.environ.get('NO_PROXY', '')}".split(",")
    hosts = dict.fromkeys([*filter(None, map(str.strip, values)), *_LOOPBACK_HOSTS])
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = "*" if "*" in hosts else ",".join(hosts)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_http_uri(uri: str) -> bool:
    """Return whether a tracking URI is that of a server, not of a database."""
    return uri.startswith(("http://", "https://"))


def redact_credentials(uri: str) -> str:
    """Replace the user name and password in a URI by USER:PASSWORD, and secret parameters by
    SECRET."""
    uri = _PASSWORD.sub("//USER:PASSWORD@", uri)
    uri = _USER.sub("//USER:PASSWORD@", uri)
    return _SECRET_PARAMETER.sub(r"\1SECRET", uri)


def require_public_uri(uri: str) -> str:
    """Return a URI without a secret, for fields that are stored and shown.

    Raises:
        ConfigError: it contains a password, token or signature; the error does not.
    """
    public = redact_credentials(uri)
    secrets = (_PASSWORD, _HTTP_USER, _SECRET_PARAMETER)
    is_local = "://" not in uri  # A file name may contain any character.
    if is_local or uri == public or not any(secret.search(uri) for secret in secrets):
        return uri
    raise ConfigError(
        f"the URI {public} contains a password, token or signature",
        expected="a URI without secrets, because it is stored with runs and artifacts",
        fix="give the secret to the client of that storage: for s3://BUCKET/KEY in "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for an MLflow server in MLFLOW_TRACKING_URI, "
        "for others in ~/.config/fsspec/*.json; or download the files and name their folder",
    )


PublicUri = Annotated[str, AfterValidator(require_public_uri)]
"""A field of a config with a URI without a secret."""


def require_free_port(name: str, port: int) -> None:
    """Check that a server can listen on a port of 127.0.0.1.

    Raises:
        CodegenError: the port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise CodegenError(
                f"port {port} of 127.0.0.1 is in use, so {name} cannot listen there",
                expected="a free port",
                fix=f"stop the process that uses it, or choose --{name.lower()}-port {port + 1}",
            ) from None


def health_error(
    url: str, timeout_s: float, credentials: tuple[str, str] | None = None
) -> str | None:
    """Return why an HTTP server is not healthy, without credentials; None if it is healthy."""
    import httpx  # Prefect's client uses it too, so both accept the same addresses. Slow to import.

    try:
        response = httpx.get(url, timeout=timeout_s, follow_redirects=True, auth=credentials)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__
    return None if response.is_success else f"{response.status_code} {response.reason_phrase}"
