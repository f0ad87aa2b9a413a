"""ASGI middleware that admits requests by Host, Origin and credentials; for servers that listen on
loopback.

A loopback port is open to every user of the machine, and to every web page that a browser on it
shows: a page can send requests to 127.0.0.1, and after DNS rebinding it can read the responses,
too. The Host check stops rebinding, the Origin check stops requests from pages of other origins,
and the credentials stop everyone else. Limit: HTTP without TLS, so whoever can capture loopback
traffic (root) reads the credentials.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""The names of this machine that no DNS server decides about."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@]+)(?::\d+)?")
_POLICY_VIOLATION = 1008
"""Close code of a web socket: RFC 6455, section 7.4.1."""


class HttpGuard:
    """Refuses requests whose Host, Origin or credentials are not allowed; passes all others to
    `app` unchanged.

    Args:
        app: the ASGI application behind the guard.
        names: host names under which the server may be addressed. Ports are not compared: a web
            page cannot choose the port of its Host without also having its name, and an SSH tunnel
            may use another port.
        origins: origins that may send requests besides the server's own (the one that equals the
            request's Host).
        credentials: `USER:PASSWORD` that each request must carry (HTTP basic authentication); None
            asks for none.
    """

    def __init__(
        self,
        app: App,
        *,
        names: Collection[str],
        origins: Collection[str] = (),
        credentials: str | None = None,
    ) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)
        self._origins = frozenset(origins)
        self._credentials = None if credentials is None else credentials.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] in ("http", "websocket") and (refusal := self._refusal(scope["headers"])):
            await _refuse(scope, send, *refusal)
            return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Collection[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """The status and the reason with which a request is refused; None if it is admitted."""
        hosts = _values(headers, b"host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        matched = _HOST.fullmatch(host)
        if matched is None or matched[1] not in self._names:
            return 403, f"the Host header is not one of {', '.join(sorted(self._names))}"
        for origin in _values(headers, b"origin"):
            if origin.lower() not in {f"http://{host}", f"https://{host}", *self._origins}:
                return 403, "the Origin header names another site"
        if self._credentials is not None and not self._is_signed_in(headers):
            return 401, "this server requires a user name and a password"
        return None

    def _is_signed_in(self, headers: Collection[tuple[bytes, bytes]]) -> bool:
        sent = _values(headers, b"authorization")
        scheme, _, encoded = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
        if scheme.lower() != "basic":
            return False
        try:
            decoded = base64.b64decode(encoded.strip(), validate=True)
        except ValueError:  # Not base64.
            return False
        return hmac.compare_digest(decoded, self._credentials or b"")


def _values(headers: Collection[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    if (
        scope["type"] == "websocket"
    ):  # Closed before it is accepted: the server answers the handshake with status 403.
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="codegen", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
