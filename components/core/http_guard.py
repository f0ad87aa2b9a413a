"""ASGI middleware that checks Host, Origin and credentials of requests to a loopback server.

Every user of a machine can reach a loopback port, and so can every web page in its browsers: a page
can send requests to 127.0.0.1, and after DNS rebinding it can read the responses. The Host check
stops rebinding, the Origin check stops pages of other origins, and the credentials stop other
users. Limit: HTTP without TLS, so root, who can capture loopback traffic, reads the credentials.
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
"""Names of this machine that DNS cannot change."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@]+)(?::\d+)?")
_POLICY_VIOLATION = 1008
"""WebSocket close code: RFC 6455, section 7.4.1."""


class HttpGuard:
    """Refuses requests with a wrong Host, Origin or credentials; passes others to `app` unchanged.

    Args:
        app: the ASGI application.
        names: host names that requests may use. Ports are not compared: a web page cannot choose
            the port of its Host without its name, and an SSH tunnel may use another port.
        origins: origins that may send requests, in addition to the server's own origin.
        credentials: `USER:PASSWORD` of HTTP basic authentication; None requires no credentials.
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
        # Every connection is checked; `lifespan` is the start and the end of the server itself.
        if scope["type"] != "lifespan" and (refusal := self._refusal(scope["headers"])):
            await _refuse(scope, send, *refusal)
            return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Collection[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """Return status and reason of a refusal; None if the request is admitted."""
        hosts = _values(headers, b"host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        matched = _HOST.fullmatch(host)
        if matched is None or matched[1] not in self._names:
            return 403, f"the Host header is not one of {', '.join(sorted(self._names))}"
        for origin in _values(headers, b"origin"):
            if origin.lower() not in {f"http://{host}", f"https://{host}", *self._origins}:
                return 403, "the Origin header names another site"
        if self._credentials is not None and not _has_credentials(headers, self._credentials):
            return 401, "this server requires a user name and a password"
        return None


def _has_credentials(headers: Collection[tuple[bytes, bytes]], credentials: bytes) -> bool:
    values = _values(headers, b"authorization")
    scheme, _, encoded = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "basic":
        return False
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except ValueError:  # Not base64.
        return False
    return hmac.compare_digest(decoded, credentials)


def _values(headers: Collection[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":  # A close before the handshake becomes status 403.
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="codegen", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
