"""`python -m components.registry.mlflow_server PORT`: the MLflow server behind
`core.http_guard`.

This process serves MLflow's application itself: `mlflow server` imports MLflow a second time in a
process of its own, which doubles the time until it responds. The guard wraps the whole application,
so it covers every route. docs/decisions/0011 explains why MLflow's basic-auth app is not used.
"""

from __future__ import annotations

import gc
import os
import sys

import uvicorn  # Before MLflow, which then knows that it is imported by a server.

from components.core.errors import ConfigError
from components.core.http_guard import LOOPBACK_NAMES, HttpGuard

CREDENTIALS = "CODEGEN_MLFLOW_CREDENTIALS"
"""Environment variable with the `USER:PASSWORD` that every request must send."""
STORE_URI = "MLFLOW_BACKEND_STORE_URI"
"""Environment variable with the URI of the database."""
_HOST = "127.0.0.1"
_UPLOADS = "./mlartifacts"
"""The default of `mlflow server`. Used by experiments that a user creates on the page; flows name
the folder of the workspace."""


def main(port: int) -> None:
    """Serve until a signal arrives.

    Raises:
        ConfigError: the credentials are not set.
        MlflowException: the database cannot be used.
    """
    credentials = os.environ.get(CREDENTIALS, "")
    if ":" not in credentials:
        raise ConfigError(
            f"{CREDENTIALS} is not set",
            expected="USER:PASSWORD, which every request to the MLflow server must send",
            fix="start the server with `codegen ui` or `codegen serve`, which generate it",
        )
    from mlflow.server import constants, handlers
    from mlflow.server.fastapi_app import app
    from mlflow.store.tracking import DEFAULT_ARTIFACTS_URI

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: os.environ[STORE_URI],
        constants.ARTIFACT_ROOT_ENV_VAR: DEFAULT_ARTIFACTS_URI,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: _UPLOADS,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    handlers.initialize_backend_stores()
    guarded = HttpGuard(app, names=LOOPBACK_NAMES, credentials=credentials)
    gc.freeze()
    gc.enable()
    uvicorn.run(guarded, host=_HOST, port=port)


if __name__ == "__main__":
    main(int(sys.argv[1]))
