"""What a command that runs flows begins with: all that they need is imported while Prefect's temporary server starts.

Each takes ten seconds, the server in a process of its own. The collector rests meanwhile, and what was imported is kept out
of its sight for good: it would look through a million objects again and again, here and at the end of the process. Measured
in docs/figures.md, "Start". Not covered: processes that Prefect starts for a deployment's run, which have a server.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING

from prefect.settings import PREFECT_API_URL

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

_NEEDED = (
    "components.data.archives.pull",
    "components.registry.versions",
    "components.preparation.corpus_pipeline",
    "components.validation.raw",
    "flows.pipeline",
)
"""With DVC, MLflow, Daft, Great Expectations and Prefect."""


def import_while_server_starts() -> None:
    """Import what a run needs; when this returns, Prefect has a server."""
    gc.disable()
    try:
        with _server_starting():
            for name in _NEEDED:
                import_module(name)
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _server_starting() -> Iterator[None]:
    """Start the server that Prefect's client would start by itself, and wait for it at the end of the block only."""
    if PREFECT_API_URL.value():
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer

    server = (
        SubprocessASGIServer()
    )  # The one of this process, which Prefect's client takes where it runs already.
    starting = threading.Thread(target=_start, args=(server,), daemon=True)
    starting.start()
    yield
    starting.join()


def _start(server: SubprocessASGIServer) -> None:
    with suppress(Exception):  # The client tries again, and says why it cannot.
        server.start()
