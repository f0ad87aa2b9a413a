"""Daft, as this project uses it: `from components.data.engine import daft` instead of `import daft`.

Two habits of Daft are switched off. It reports its use to its makers as soon as it is imported; whoever runs this platform
has not agreed to that (an environment that already decides it is left alone). And it logs what went wrong in our own
functions beside raising it; a user is to see one error, ours.
"""

from __future__ import annotations

import logging
import os

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
logging.getLogger("daft_local_execution").setLevel(logging.CRITICAL)

import daft  # noqa: E402 - after the switches

__all__ = ["daft"]
