"""Limits of a server on loopback, which every program of this machine can reach.

uvicorn bounds the size of a header, but neither the size of a body nor the time in which a client
sends its request. Every response closes its connection, so that a connection is one request and the
same timeout covers all headers.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from components.core.config import Config
from components.core.http_guard import App, Receive, Scope, Send


class RequestLimits(Config):
    """Limits of a server; the defaults are assumptions."""

    max_body_bytes: int = 8_000_000
    """Twice the longest prompt."""
    receive_timeout_s: float = 30.0
    """For the header, and again for the body."""
    max_requests: int = 16
    """Requests that are processed or wait; further requests are refused."""
    timeout_s: float = 300.0
    """From the complete request to the response."""
    max_connections: int = 64
    """Further connections are refused."""


class BodyLimit:
    """ASGI middleware that receives the whole body before `app`, within the limits."""

    def __init__(self, app: App, *, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = self._limits
        body = None
        try:
            if _content_length(scope) <= limits.max_body_bytes:
                async with asyncio.timeout(limits.receive_timeout_s):
                    body = await _receive_body(receive, limits.max_body_bytes)
        except TimeoutError:
            await _refuse(send, 408, f"no complete body within {limits.receive_timeout_s:.0f} s")
            return
        if body is None:
            await _refuse(send, 413, f"the body has more than {limits.max_body_bytes:,} bytes")
            return
        await self._app(scope, _replay(body, receive), send)


def _content_length(scope: Scope) -> int:
    """Return the announced size of the body, 0 if none is; uvicorn checks that it is a number."""
    return int(dict(scope["headers"]).get(b"content-length", 0))


async def _receive_body(receive: Receive, max_bytes: int) -> bytes | None:
    """Return the body; None if it is too large, without its rest. Empty if the client leaves."""
    chunks: list[bytes] = []
    num_bytes = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            return None
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a channel with the body first, and then the messages of `receive`."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def next_message() -> Any:
        for message in messages:
            return message
        return await receive()

    return next_message


async def _refuse(send: Send, status: int, message: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    body = json.dumps(error_document(message, "RequestLimit"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


def error_document(message: str, error_type: str) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": error_type}}


def server_config(app: App, limits: RequestLimits) -> uvicorn.Config:
    """Return the configuration of a server with limits for connections and headers."""

    class Connection(H11Protocol):
        """Is closed if it has sent no complete header in time."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.loop.call_later(limits.receive_timeout_s, self._close_without_request)

        def _close_without_request(self) -> None:
            if self.cycle is None:
                self.transport.close()

    return uvicorn.Config(
        app,
        log_level="warning",
        http=Connection,
        ws="none",
        headers=[("connection", "close")],
        limit_concurrency=limits.max_connections,
    )
