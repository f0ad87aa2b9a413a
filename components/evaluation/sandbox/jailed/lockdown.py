"""What a process does to itself before it runs anything that it was given: limits, another user, a system-call filter.

One decision: the process narrows itself, in this order, and cannot widen again; if a single step fails it raises, the
process ends without a verdict, and that counts as a failure. The namespaces around it were made before it started.
"""

from __future__ import annotations

import binascii
import ctypes
import json
import os
import resource
import sys
from typing import Any

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38


def read_setup(fd: int) -> dict[str, Any]:
    """What this process is to do, from an open file, of which /dev/null takes the place."""
    with open(fd, "rb", closefd=False) as file:
        setup: dict[str, Any] = json.loads(file.read())
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)
    return setup


def lock_down(setup: dict[str, Any]) -> None:
    """Apply `limits`, become `uid` (where one is given) and load the seccomp program `filter`. Raises on any failure."""
    sys.set_int_max_str_digits(0)
    for name, (soft, hard) in setup["limits"].items():
        _limit(getattr(resource, name), soft, hard)
    if setup["uid"] is not None:
        _become(setup["uid"])
    _filter_system_calls(binascii.a2b_base64(setup["filter"]))


def _limit(which: int, soft: int, hard: int) -> None:
    """Lower a limit; where a lower one is in force already, it stays."""
    present = resource.getrlimit(which)[1]
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(which, (soft, hard))


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (uid, uid, uid) or os.getgroups():
        raise PermissionError("the user was not changed")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PermissionError("root could be had back")


def _filter_system_calls(program: bytes) -> None:
    class SockFprog(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    fprog = SockFprog(len(program) // 8, program)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0),
    ):
        if prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the system-call filter was refused")


def seed_random(source: str) -> None:
    """Fix the random numbers of sources that use them, so that the same program has the same verdict twice."""
    if "random" in source:
        import random

        random.seed(0)
        if "numpy" in source:
            import numpy

            numpy.random.seed(0)
