"""Executes generated code, either provably isolated or not at all. No other package executes it.

    with open_sandbox(workers=2) as sandbox:  # raises SandboxUnavailableError; runs the self-test
        verdicts = sandbox.run_tests([FunctionTest(...)], ResourceLimits(cpu_s=3))
        printed = sandbox.last_printed_values(["print(1)"], ResourceLimits(cpu_s=20))

`open_sandbox(unsafe=True)` runs programs without isolation if no sandbox is available, and its
report states it. `probe` returns the report without raising.
"""

from components.evaluation.config import SandboxKind
from components.evaluation.sandbox.job import (
    NOTHING_PRINTED,
    VERDICT_KINDS,
    ExecutionMode,
    FunctionTest,
    PrintedValue,
    ResourceLimits,
    Verdict,
    as_record,
    from_record,
)
from components.evaluation.sandbox.pool import (
    Sandbox,
    SandboxReport,
    open_sandbox,
    probe,
    unavailable_report,
)

__all__ = [
    "NOTHING_PRINTED",
    "VERDICT_KINDS",
    "ExecutionMode",
    "FunctionTest",
    "PrintedValue",
    "ResourceLimits",
    "Sandbox",
    "SandboxKind",
    "SandboxReport",
    "Verdict",
    "as_record",
    "from_record",
    "open_sandbox",
    "probe",
    "unavailable_report",
]
