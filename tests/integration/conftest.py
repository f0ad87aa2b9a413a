"""Prefect reads its home when it is first imported, so it is settled here, before any test module is."""

from __future__ import annotations

import tempfile

from flows.execution import Execution, prepare_environment

prepare_environment(Execution(project=tempfile.mkdtemp(prefix="codegen-tests-")))
