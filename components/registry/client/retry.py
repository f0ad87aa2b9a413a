"""A tracking server that goes away for a while: what is asked of it waits, within a bound and aloud, and is asked again.

Design decision: the waiting is done here, around every call of the client, and MLflow's own retries are switched off where
flows run (`flows.settings.execution`): those wait in silence, some four minutes in every thread and for every call, and then fail.
After the bound was reached once, nothing waits again until the server has answered: a run that cannot be saved ends at once.
A call whose answer was lost is made again; MLflow keeps the same figures, tags and files once, and `Tracking` looks before
it makes a second run. Not covered: a database without a server before it, whose driver has retries of its own.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import RequestException

from components.core.errors import TrackingError
from components.core.network import redact_credentials

T = TypeVar("T")

logger = logging.getLogger(__name__)

RETRY_TIMEOUT_S = 600.0
"""How long an outage is waited for. Assumption: a server restarts in seconds, a machine in minutes; people are slower."""

POLL_INTERVAL_S = 1.0
"""Between two looks whether the server is back."""

_MAX_RETRIES_WHEN_HEALTHY = 4
"""How often a call is made again though the server says that it is well: it may have come back between the two."""


def is_connection_error(error: Exception) -> bool:
    """Whether a call failed because nobody answered, or only a gateway in the server's place; then it can be made again.

    MLflow wraps what `requests` raises, and keeps it as the context of its own error.
    """
    return isinstance(error, RequestException) or isinstance(error.__context__, RequestException)


class RetryPolicy:
    """How an outage of one server is waited for."""

    def __init__(self, uri: str, answers: Callable[[], bool], patience_s: float) -> None:
        """
        Args:
            uri: the server's, for people.
            answers: whether the server is well, told within seconds.
            patience_s: how long it is waited for.
        """
        self.answers = answers
        self._uri, self._patience_s, self._given_up = redact_credentials(uri), patience_s, False

    def call_with_retry(self, call: Callable[[], T]) -> T:
        """What a call gives, after an outage where there is one; the call is made again, so it must be one that may be.

        Raises:
            TrackingError: the server stayed away for longer than the patience lasts.
            MlflowException: the server answered, and refused.
        """
        for failures in itertools.count(1):
            try:
                result = call()
            except (MlflowException, RequestException) as error:
                if not is_connection_error(error) or failures > _MAX_RETRIES_WHEN_HEALTHY:
                    raise
                self.wait()
            else:
                self._given_up = False
                return result
        raise AssertionError  # The loop has no end.

    def wait(self) -> None:
        """Until the server is well.

        Raises:
            TrackingError: it is not within the patience.
        """
        if self.answers():
            time.sleep(POLL_INTERVAL_S)  # It may be just about to end, or have begun a moment ago.
            return
        began = time.monotonic()
        if not self._given_up and self._patience_s:
            logger.warning(
                "%s does not answer; waiting for it, at most %.0f s", self._uri, self._patience_s
            )
        while not self.answers():
            if self._given_up or time.monotonic() - began >= self._patience_s:
                self._given_up = True
                raise TrackingError(
                    f"the tracking server {self._uri} went away, and did not answer again within {self._patience_s:.0f} s",
                    expected="an MLflow server that is back within tracking_retry_timeout_s",
                    fix="start the server and run the same command again: what is finished is reused, and training goes on",
                )
            time.sleep(POLL_INTERVAL_S)
        logger.warning("%s answers again, after %.0f s", self._uri, time.monotonic() - began)


class RetryingMlflowClient:
    """An `MlflowClient`, with the same methods, whose calls call_with_retry an outage of their server."""

    def __init__(self, client: MlflowClient, patience: RetryPolicy) -> None:
        self.raw_client, self.patience = client, patience

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.raw_client, name)
        return lambda *arguments, **named: self.patience.call_with_retry(
            lambda: method(*arguments, **named)
        )
