"""Where what a model wrote is executed, and the only place. It either isolates, provably, or refuses.

    with open_sandbox(workers=2) as sandbox:     # raises SandboxUnavailable; the self-test has passed when it returns
        verdicts = sandbox.test([Trial(...)], Limits(cpu_s=3))
        printed = sandbox.last_prints(["print(1)"], Limits(cpu_s=20))

There is no switch to run without isolation. `probe` tells `codegen doctor` the same without raising.
"""

from components.evaluation.sandbox.execution import Trial
from components.evaluation.sandbox.limits import Limits
from components.evaluation.sandbox.pool import Sandbox, SandboxReport, open_sandbox, probe, unavailable
from components.evaluation.sandbox.verdict import KINDS, NOTHING_PRINTED, Printed, Verdict

__all__ = [
    "KINDS",
    "NOTHING_PRINTED",
    "Limits",
    "Printed",
    "Sandbox",
    "SandboxReport",
    "Trial",
    "Verdict",
    "open_sandbox",
    "probe",
    "unavailable",
]
