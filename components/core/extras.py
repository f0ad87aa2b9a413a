"""Packages that a single optional feature needs: the extras of pyproject.toml.

`require_extra` is the only place that raises the error of a missing package. Call it where a
feature is first requested, before other work, and import the packages inside the function that uses
them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from components.core.errors import ConfigError

Extra = Literal["avro", "comet", "ray", "redaction", "s3", "tensorboard", "wandb"]

EXTRA_MODULES: dict[Extra, tuple[str, ...]] = {
    "avro": ("cramjam", "fastavro"),
    "comet": ("comet_ml",),
    "ray": ("ray",),
    "redaction": ("email_validator", "kingfisher_sdk"),
    "s3": ("dvc_s3", "s3fs"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
"""Modules of the packages of each extra."""


def require_extra(extra: Extra, feature: str) -> None:
    """Check that the packages of an extra are installed.

    Args:
        extra: name of the extra.
        feature: what needs it, as the subject of "requires".

    Raises:
        ConfigError: a package is not installed.
    """
    missing = [module for module in EXTRA_MODULES[extra] if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"{feature} requires {' and '.join(missing)}, not installed in this environment",
            expected=f"the extra `{extra}` of codegen-platform",
            fix=f"run `pip install '.[{extra}]'` in the checkout of codegen-platform",
        )
