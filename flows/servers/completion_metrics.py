"""Prometheus metrics of the completions server: requests by status, their duration, tokens."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any

from fastapi import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from components.core.http_guard import App, Receive, Scope, Send

_DURATION_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Up to the longest time that a request may take."""


class CompletionMetrics:
    """The metrics of a server, in a registry of their own."""

    def __init__(self, model: str, digest: str) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "codegen_requests", "Requests by HTTP status.", ["status"], registry=self._registry
        )
        self._duration = Histogram(
            "codegen_request_duration_seconds",
            "Time from the header of a request to the end of its response.",
            buckets=_DURATION_BUCKETS_S,
            registry=self._registry,
        )
        self._active = Gauge(
            "codegen_active_requests",
            "Requests that are processed or wait.",
            registry=self._registry,
        )
        self.tokens = Counter(
            "codegen_completion_tokens", "Tokens of all completions.", registry=self._registry
        )
        info = Gauge(
            "codegen_model_info",
            "The model that is served.",
            ["model", "digest"],
            registry=self._registry,
        )
        info.labels(model, digest).set(1)

    def response(self) -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def measure(self, app: App, path: str) -> App:
        """Return an application that counts its requests to a path."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] != path:
                await app(scope, receive, send)
                return
            status = "none"  # The client left before a response.

            async def send_measured(message: MutableMapping[str, Any]) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                await send(message)

            started = time.monotonic()
            self._active.inc()
            try:
                await app(scope, receive, send_measured)
            except Exception:
                status = "500"  # The outermost middleware answers.
                raise
            finally:
                self._active.dec()
                self._requests.labels(status).inc()
                self._duration.observe(time.monotonic() - started)

        return call
