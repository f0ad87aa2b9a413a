"""Restrictions that a process puts on itself before it executes a program.

A process can only narrow its rights. If a step fails, it raises and the process ends without a
verdict, which counts as a failure. The namespaces exist before the process starts. Everything that
can be prepared is prepared once, in the server that the process is forked from.
"""

from __future__ import annotations

import binascii
import ctypes
import os
import resource
import signal
import struct
import time
from collections.abc import Iterable

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 24, 47, 2
_CAPABILITY_VERSION_3 = 0x20080522

_CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN, _NUM_CAPABILITIES = 5, 6, 7, 21, 64
USER_CAPABILITIES = (_CAP_KILL, _CAP_SETGID, _CAP_SETUID)
"""Root's servers keep them to run every program as another user and to kill it."""
NAMESPACE_CAPABILITIES = (_CAP_SYS_ADMIN,)
"""Servers within namespaces keep it to give every program a pid namespace and an empty /tmp."""

_COMMON_LIMITS = {
    resource.RLIMIT_FSIZE: 16 << 20,
    resource.RLIMIT_NOFILE: 128,
    resource.RLIMIT_NPROC: 128,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_MSGQUEUE: 0,
}
"""File size in bytes, open files, threads, and unused resources (assumption: benchmark programs
stay below; the stacks of 110 threads already take a GiB)."""

libc = ctypes.CDLL(None, use_errno=True)
_THIS_PROCESS = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()
"""The kernel's `cap_user_header_t`, and two `cap_user_data_t`: effective, permitted,
inheritable."""


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


PID_PLACEHOLDER = 0x7F5EC0DE
"""Stands in filters for the process that loads them. No process has this number: Linux assigns at
most 2 ** 22."""


class SeccompFilter:
    """A compiled filter of system calls, given as BPF in base 64."""

    def __init__(self, encoded: str) -> None:
        self._code = binascii.a2b_base64(encoded)

    def load(self) -> None:
        """Apply the filter to this process permanently."""
        placeholder, pid = struct.pack("=I", PID_PLACEHOLDER), struct.pack("=I", os.getpid())
        code = self._code.replace(placeholder, pid)
        program = ctypes.byref(_SockFprog(len(code) // 8, code))
        check(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0))


def forbid_new_privileges() -> None:
    """Prevent children from gaining rights. The kernel requires this before a filter is loaded."""
    check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def die_with_parent() -> None:
    """Kill this process when its parent ends. A change of user resets it."""
    check(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def check(result: int) -> int:
    """Return the result of a C function; raise `OSError` if it is -1."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def set_common_limits(*, has_own_user: bool) -> None:
    """Set the limits that are equal for all programs; forked processes inherit them.

    A lower present limit stays.

    Args:
        has_own_user: whether the programs' user has no other processes. If not, threads are not
            limited, because the limit counts all processes of a user.
    """
    for resource_id, maximum in _COMMON_LIMITS.items():
        if resource_id == resource.RLIMIT_NPROC and not has_own_user:
            continue
        present = resource.getrlimit(resource_id)[1]
        limit = maximum if present == resource.RLIM_INFINITY else min(maximum, present)
        resource.setrlimit(resource_id, (limit, limit))


def resolve_limits(limits: dict[str, list[int]]) -> list[tuple[int, tuple[int, int]]]:
    """Convert limits by name, each [soft, hard], to arguments of `setrlimit`."""
    return [(getattr(resource, name), (soft, hard)) for name, (soft, hard) in limits.items()]


def limited_cpu_s(pid: int) -> float:
    """Return the CPU time of a process that the kernel compares with RLIMIT_CPU.

    The kernel counts it in ticks, unlike the time that `wait4` returns. On a busy machine the two
    differ.
    """
    process_cpu_clock = ~pid << 3  # the kernel's CPUCLOCK_PROF of a process
    return time.clock_gettime(process_cpu_clock)


def switch_user(uid: int) -> None:
    """Turn root into another user and group permanently."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (uid, uid, uid):
        raise PermissionError("the user was not changed")


def drop_capabilities() -> None:
    """Give up every capability, including permitted and inheritable capabilities."""
    check(libc.capset(_THIS_PROCESS, _NO_CAPABILITIES))


def keep_capabilities(capabilities: Iterable[int], *, inheritable: bool = False) -> None:
    """Give up every capability except `capabilities`."""
    bits = sum(1 << capability for capability in capabilities)
    data = (ctypes.c_uint32 * 6)(bits, bits, bits if inheritable else 0)
    check(libc.capset(_THIS_PROCESS, data))


def keep_capabilities_across_exec(capabilities: Iterable[int]) -> None:
    """Give up every capability except `capabilities`, which also survive `execve`."""
    for capability in set(range(_NUM_CAPABILITIES)).difference(capabilities):
        # Fails for numbers that this kernel does not know.
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    keep_capabilities(capabilities, inheritable=os.geteuid() != 0)
    if os.geteuid() != 0:  # root keeps its bounding set, without ambient capabilities
        for capability in capabilities:
            check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0))
