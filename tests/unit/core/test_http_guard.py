"""The guard before a loopback server: which Host, Origin and credentials are admitted."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import MutableMapping
from typing import Any

import pytest

from components.core.http_guard import LOOPBACK_NAMES, HttpGuard

Headers = list[tuple[bytes, bytes]]
ADMITTED, REFUSED, UNAUTHORIZED = 200, 403, 401


async def _admit(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": ADMITTED, "headers": []})


def answer(
    guard: HttpGuard, headers: Headers, kind: str = "http"
) -> list[MutableMapping[str, Any]]:
    """The messages that the guarded application sends."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the request was read")

    asyncio.run(guard({"type": kind, "headers": headers, "path": "/"}, receive, send))
    return sent


def status(
    headers: dict[str, str], *, origins: tuple[str, ...] = (), credentials: str | None = None
) -> int:
    """The status of a request with these headers."""
    guard = HttpGuard(_admit, names=LOOPBACK_NAMES, origins=origins, credentials=credentials)
    sent = answer(guard, [(name.encode(), value.encode()) for name, value in headers.items()])
    return int(sent[0]["status"])


def basic(text: str) -> str:
    """The header that browsers and clients send."""
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "host", ["127.0.0.1:4200", "localhost:4200", "LOCALHOST", "[::1]:4200", "localhost:14200"]
)
def test_the_names_of_loopback_are_admitted(host: str) -> None:
    assert status({"host": host}) == ADMITTED


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:4200",
        "127.0.0.1.evil.example",
        "10.evil.example",
        "localhost.evil.example",
        "evil.example@localhost",
        "localhost/",
        "localhost:4200.evil.example",
        "",
    ],
)
def test_other_hosts_are_refused(host: str) -> None:
    assert status({"host": host}) == REFUSED


def test_a_request_without_or_with_two_hosts_is_refused() -> None:
    guard = HttpGuard(_admit, names=LOOPBACK_NAMES)
    assert status({}) == REFUSED
    assert (
        answer(guard, [(b"host", b"localhost"), (b"host", b"evil.example")])[0]["status"] == REFUSED
    )


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:4200", ADMITTED),
        ("http://127.0.0.1:4200", ADMITTED),
        ("http://localhost:9999", REFUSED),  # Another server of this machine.
        ("http://evil.example", REFUSED),
        ("null", REFUSED),  # A sandboxed frame.
    ],
)
def test_pages_of_other_origins_are_refused(origin: str, expected: int) -> None:
    headers = {"host": "localhost:4200", "origin": origin}
    assert status(headers, origins=("http://127.0.0.1:4200",)) == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, UNAUTHORIZED),
        (basic("codegen:right"), ADMITTED),
        (basic("codegen:wrong"), UNAUTHORIZED),
        (basic("codegen:right").replace("Basic", "Bearer"), UNAUTHORIZED),
        ("Basic", UNAUTHORIZED),
        ("Basic ä", UNAUTHORIZED),
    ],
)
def test_credentials_are_required(sent: str | None, expected: int) -> None:
    headers = {"host": "localhost"} | ({"authorization": sent} if sent else {})
    assert status(headers, credentials="codegen:right") == expected


def test_a_browser_is_asked_for_the_credentials() -> None:
    guard = HttpGuard(_admit, names=LOOPBACK_NAMES, credentials="codegen:right")
    refusal = answer(guard, [(b"host", b"localhost")])[0]
    assert dict(refusal["headers"])[b"www-authenticate"].startswith(b"Basic ")


def test_a_web_socket_is_closed_before_it_is_accepted() -> None:
    guard = HttpGuard(_admit, names=LOOPBACK_NAMES)
    admitted, refused = (
        answer(guard, [(b"host", host)], "websocket") for host in (b"localhost", b"evil.example")
    )
    assert [message["type"] for message in admitted] == ["websocket.accept"]
    assert [message["type"] for message in refused] == ["websocket.close"]
