"""Retries of MLflow calls while the tracking server is unreachable.

MLflow's own retries are disabled in flows (`flows.settings.execution`): they block each call
silently for about four minutes. After a timeout, no further call waits until the server has
answered again, so that a run that cannot be recorded ends quickly. A call whose response was lost
is repeated: MLflow stores equal metrics, tags and files once, and `create_run_once` searches for
the run first. Databases without a server are not covered; their drivers retry.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from requests import RequestException

from components.core.errors import TrackingError
from components.core.network import redact_credentials

T = TypeVar("T")

logger = logging.getLogger(__name__)

RETRY_TIMEOUT_S = 600.0
"""Assumption: a server restarts in seconds and a machine in minutes."""

POLL_INTERVAL_S = 1.0
"""Time between two health checks during an outage."""

_MAX_RETRIES_WHEN_HEALTHY = 4
"""Retries of a failed call although the health check succeeds: the server may have restarted."""


def is_connection_error(error: Exception) -> bool:
    """Whether a call failed in the connection or a gateway, so that it can be repeated.

    MLflow wraps the exceptions of `requests` and keeps them as the context of its own.
    """
    return isinstance(error, RequestException) or isinstance(error.__context__, RequestException)


class RetryPolicy:
    """Waits for a server during an outage, for at most `timeout_s`."""

    def __init__(self, uri: str, is_healthy: Callable[[], bool], timeout_s: float) -> None:
        """
        Args:
            uri: the server, for messages.
            is_healthy: the health check; returns within seconds.
            timeout_s: maximum time to wait during an outage.
        """
        self.is_healthy = is_healthy
        self._uri = redact_credentials(uri)
        self._timeout_s = timeout_s
        self._has_timed_out = False

    def call_with_retry(self, call: Callable[[], T]) -> T:
        """Return the result of an idempotent call; repeat the call after an outage.

        Raises:
            TrackingError: the outage lasted longer than the timeout.
            MlflowException: the server rejected the call.
        """
        for num_failures in itertools.count(1):
            try:
                result = call()
            except (MlflowException, RequestException) as error:
                if not is_connection_error(error) or num_failures > _MAX_RETRIES_WHEN_HEALTHY:
                    raise
                self.wait_until_healthy()
            else:
                self._has_timed_out = False
                return result
        raise AssertionError  # unreachable

    def wait_until_healthy(self) -> None:
        """Wait for the server; log the start and the end of the wait.

        Raises:
            TrackingError: the server did not recover within the timeout.
        """
        if self.is_healthy():
            time.sleep(POLL_INTERVAL_S)  # The server may be stopping, or may have just started.
            return
        start = time.monotonic()
        if not self._has_timed_out and self._timeout_s:
            message = "%s does not answer; retrying for at most %.0f s"
            logger.warning(message, self._uri, self._timeout_s)
        while not self.is_healthy():
            if self._has_timed_out or time.monotonic() - start >= self._timeout_s:
                self._has_timed_out = True
                raise TrackingError(
                    f"the tracking server {self._uri} did not answer for {self._timeout_s:.0f} s",
                    expected="outages shorter than tracking_retry_timeout_s",
                    fix="start the server and run the same command again to resume",
                )
            time.sleep(POLL_INTERVAL_S)
        logger.warning("%s answers again after %.0f s", self._uri, time.monotonic() - start)


class RetryingMlflowClient:
    """An `MlflowClient` whose methods are repeated after an outage of the server."""

    def __init__(self, client: MlflowClient, policy: RetryPolicy) -> None:
        self.raw_client = client
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.raw_client, name)
        return lambda *args, **kwargs: self.policy.call_with_retry(lambda: method(*args, **kwargs))

    def create_run_once(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> Run:
        """Create a run; if a response was lost, return the run that the server had created.

        Args:
            tags: contain the `pid` of this process.
        """
        start_time_ms = int(time.time() * 1000)
        is_retry = False

        def create() -> Run:
            nonlocal is_retry
            if is_retry:
                query = f"attributes.start_time = {start_time_ms} and tags.pid = '{tags['pid']}'"
                for run in self.raw_client.search_runs([experiment_id], query):
                    if run.info.run_name == name:
                        return run
            is_retry = True
            return self.raw_client.create_run(experiment_id, start_time_ms, tags, name)

        return self.policy.call_with_retry(create)
