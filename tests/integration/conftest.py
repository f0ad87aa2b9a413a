"""Prefect reads its home when it is first imported, so it is settled here, before any test module
is."""

from __future__ import annotations

import tempfile

from flows.settings.execution import Execution, setup_environment

setup_environment(Execution(project=tempfile.mkdtemp(prefix="codegen-tests-")))
