"""Where what a model wrote is executed, and the only place. It either isolates, provably, or refuses.

    with open_sandbox(workers=2) as sandbox:     # raises SandboxUnavailable; the self-test has passed when it returns
        verdicts = sandbox.test([Trial(...)], Limits(cpu_s=3))
        printed = sandbox.last_prints(["print(1)"], Limits(cpu_s=20))

`open_sandbox(unsafe=True)` runs programs without isolation where there is none, and says so in its report. `probe` tells
`codegen doctor` the same without raising.
"""

from components.evaluation.config import SandboxKind
from components.evaluation.sandbox.limits import Limits
from components.evaluation.sandbox.pool import (
    Sandbox,
    SandboxReport,
    open_sandbox,
    probe,
    unavailable,
)
from components.evaluation.sandbox.verdict import (
    KINDS,
    NOTHING_PRINTED,
    PrintedValue,
    Verdict,
    as_record,
    from_record,
)
from components.evaluation.sandbox.worker import FunctionTest, Mode

__all__ = [
    "KINDS",
    "NOTHING_PRINTED",
    "FunctionTest",
    "Limits",
    "Mode",
    "PrintedValue",
    "Sandbox",
    "SandboxKind",
    "SandboxReport",
    "Verdict",
    "as_record",
    "from_record",
    "open_sandbox",
    "probe",
    "unavailable",
]
