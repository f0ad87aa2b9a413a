"""Start-up of commands that run flows: imports run while Prefect's temporary server starts.

Each takes about ten seconds. The garbage collector is off meanwhile and never traverses the
imported modules, about a million objects (docs/figures.md, "Start"). Flow runs of deployments have
a server and do not use this module.
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

_MODULES = (
    "components.data.archives.pull",
    "components.registry.versions",
    "components.preparation.corpus_pipeline",
    "components.validation.raw",
    "flows.pipeline",
)
"""They import DVC, MLflow, PyArrow, Great Expectations and Prefect."""


def import_while_server_starts() -> None:
    """Import the modules of a run; on return, Prefect has a server."""
    gc.disable()
    try:
        with _starting_server():
            for name in _MODULES:
                import_module(name)
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _starting_server() -> Iterator[None]:
    """Start Prefect's temporary server in a thread; wait for it at the end of the block."""
    if PREFECT_API_URL.value():
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()  # A singleton: Prefect's client uses it once it runs.
    thread = threading.Thread(target=_start_server, args=(server,), daemon=True)
    thread.start()
    yield
    thread.join()


def _start_server(server: SubprocessASGIServer) -> None:
    with suppress(Exception):  # The client starts it again and raises its own error.
        server.start()
