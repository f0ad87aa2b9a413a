"""`python -m components.registry.mlflow_server --port PORT`: the MLflow server behind
`core.http_guard`.

The guarded application is an app plugin of MLflow (`--app-name`). MLflow finds plugins in the entry
points of installed packages. This process registers its plugin itself, so that it also works in a
checkout that was not installed again. The guard wraps the whole application, so it covers every
route. docs/decisions/0011 explains why MLflow's basic-auth app is not used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path

from components.core.errors import ConfigError
from components.core.http_guard import LOOPBACK_NAMES, HttpGuard

CREDENTIALS = "CODEGEN_MLFLOW_CREDENTIALS"
"""Environment variable with the `USER:PASSWORD` that every request must send."""
_APP_NAME = "codegen"
_HOST = "127.0.0.1"


class _Plugin(Distribution):
    """Metadata of a package whose only entry point is the guarded application."""

    _FILES = {  # noqa: RUF012 - constant
        "METADATA": "Metadata-Version: 2.1\nName: codegen-mlflow-app\nVersion: 0\n",
        "entry_points.txt": "[mlflow.app]\n"
        f"{_APP_NAME} = components.registry.mlflow_server:create_app\n",
    }

    def read_text(self, filename: str) -> str | None:
        """Return the text of a metadata file."""
        return self._FILES.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        """Return the path of a file of the package."""
        return Path(__file__).parents[2] / path


class _Finder(DistributionFinder):
    """Adds the plugin to the installed packages."""

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterator[Distribution]:
        """Yield the plugin if the context matches it."""
        plugin = _Plugin()
        if context is None or context.name in (None, plugin.name):
            yield plugin


def create_app() -> HttpGuard:
    """Return the guarded MLflow application; the web server of `mlflow server` calls it.

    Raises:
        ConfigError: the credentials are not set.
    """
    _require_credentials()
    from mlflow.server.fastapi_app import app

    return HttpGuard(app, names=LOOPBACK_NAMES, credentials=os.environ[CREDENTIALS])


def main() -> None:
    """Run `mlflow server` with the guarded application.

    Raises:
        ConfigError: the credentials are not set.
    """
    _require_credentials()
    sys.meta_path.append(_Finder())
    from mlflow.cli import cli  # Reads the entry points at import.

    cli(["server", "--app-name", _APP_NAME, "--host", _HOST, *sys.argv[1:]], prog_name="mlflow")


def _require_credentials() -> None:
    if ":" not in os.environ.get(CREDENTIALS, ""):
        raise ConfigError(
            f"{CREDENTIALS} is not set",
            expected="USER:PASSWORD, which every request to the MLflow server must send",
            fix="start the server with `codegen ui` or `codegen serve`, which generate it",
        )


if __name__ == "__main__":
    main()
