"""What a process does to itself before it runs anything that it was given: limits, another user, a system-call filter.

One decision: the process narrows itself, in this order, and cannot widen again; if a single step fails it raises, the
process ends without a verdict, and that counts as a failure. The namespaces around it were made before it started. All
that can be prepared is prepared once, in the server that the process is forked from.
"""

from __future__ import annotations

import binascii
import ctypes
import os
import resource
import signal
from collections.abc import Iterable

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 24, 47, 2
_CAPABILITY_VERSION_3 = 0x20080522

_CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN, _NUM_CAPABILITIES = 5, 6, 7, 21, 64
CHANGE_USER = (_CAP_KILL, _CAP_SETGID, _CAP_SETUID)
"""What root's servers keep: every program becomes another user, and is ended."""
NEW_NAMESPACES = (_CAP_SYS_ADMIN,)
"""What servers keep within namespaces: every program gets a pid namespace and an empty /tmp."""

_LIMITS = {
    resource.RLIMIT_FSIZE: 16 << 20,
    resource.RLIMIT_NOFILE: 128,
    resource.RLIMIT_NPROC: 64,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_MSGQUEUE: 0,
}
"""Bytes of a file, open files, threads, and what nobody needs (assumption: benchmark programs stay far below)."""

libc = ctypes.CDLL(None, use_errno=True)
_THIS_PROCESS = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()
"""The kernel's `cap_user_header_t` and twice its `cap_user_data_t`: effective, permitted, inheritable."""


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Filter:
    """A compiled seccomp program, given in base 64."""

    def __init__(self, program: str) -> None:
        code = binascii.a2b_base64(program)
        self._fprog = _SockFprog(len(code) // 8, code)

        self._arguments = (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(self._fprog), 0, 0)

    def load(self) -> None:
        """Bind this process to it, for ever."""
        check(libc.prctl(*self._arguments))


def no_new_privileges() -> None:
    """What this process starts or forks gets no more rights than it has. The kernel asks for this before a filter."""
    check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def die_with_parent() -> None:
    """When the parent of this process ends, so does this one. A change of user undoes it."""
    check(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def check(result: int) -> int:
    """A C function's result; raises what -1 stands for."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def limit_for_all(*, alone: bool) -> None:
    """The limits that are the same for every program; processes inherit them from their server.

    Where a lower one is in force already, it stays.

    Args:
        alone: whether the user that programs run as has no processes but theirs.
    """
    for which, most in _LIMITS.items():
        if which == resource.RLIMIT_NPROC and not alone:
            continue  # it counts whatever this user runs
        present = resource.getrlimit(which)[1]
        limit = most if present == resource.RLIM_INFINITY else min(most, present)
        resource.setrlimit(which, (limit, limit))


def numbered(limits: dict[str, list[int]]) -> list[tuple[int, tuple[int, int]]]:
    """Resource limits by name, each [soft, hard], as `setrlimit` takes them."""
    return [(getattr(resource, name), (soft, hard)) for name, (soft, hard) in limits.items()]


def become(uid: int) -> None:
    """Root turns into another user and group, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (uid, uid, uid):
        raise PermissionError("the user was not changed")


def drop_capabilities() -> None:
    """Give up every capability, those that could be taken up again included."""
    check(libc.capset(_THIS_PROCESS, _NO_CAPABILITIES))


def keep_capabilities(kept: Iterable[int], *, inheritable: bool = False) -> None:
    """Give up every capability but `kept`."""
    bits = sum(1 << one for one in kept)
    check(libc.capset(_THIS_PROCESS, (ctypes.c_uint32 * 6)(bits, bits, bits if inheritable else 0)))


def keep_for_the_next_program(kept: Iterable[int]) -> None:
    """Give up every capability but `kept`, which the program that this process becomes has, too."""
    for one in set(range(_NUM_CAPABILITIES)).difference(kept):
        libc.prctl(
            _PR_CAPBSET_DROP, one, 0, 0, 0
        )  # fails for numbers that this kernel does not know
    keep_capabilities(kept, inheritable=os.geteuid() != 0)
    if os.geteuid() != 0:  # what root keeps is decided by what was dropped
        for one in kept:
            check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, one, 0, 0))
