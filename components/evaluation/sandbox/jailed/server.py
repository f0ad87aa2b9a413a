"""The warm processes of a jail, which every program is forked from: imports done, one fork for each program.

One decision: a server reads nothing that a program wrote and nothing that is meant for one. A request names limits and
brings two open files, what to run and the channel to who asked; the fork reads the first and speaks on the second, and the
server only waits until one of them is gone. So no program finds another one's source, answer or test in the memory that it
was forked from. There is a server for every set of warm packages, since what a fork costs grows with memory, and one
whose forks are judges (`judge.serve`); none of them ever sees what another one runs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
from typing import Any, NamedTuple

from . import candidate, landlock_rules, lockdown, test_runner

_CLONE_NEWPID = 0x20000000
_MNT_DETACH = 2
_CHANNEL = 3
_NOSUID_NODEV_NOATIME = 2 | 4 | 1024
SCRATCH_OPTIONS = "size=16m,nr_inodes=4096,mode=1777"
"""Of the only writable place (assumption: MTPB and HumanEval write nothing of size)."""

PREIMPORTED = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "enum", "functools", "hashlib", "heapq", "itertools", "json",
    "math", "operator", "random", "re", "string", "sys", "time", "typing",
)  # fmt: skip
"""What benchmark programs import most."""


class _Setup(NamedTuple):
    """What holds for all programs of this jail. Without isolation `filters` may be empty."""

    namespaces: bool
    """Whether a pid namespace and a new, empty folder can be made for every program."""
    scratch: str
    """Where programs begin; where there are namespaces, the only folder that they may write to."""
    filters: dict[str, str]
    judge_uid: int | None
    """The user that judges become; none where nobody can be another one."""
    shown: dict[str, Any] | None
    """What `landlock_rules.confine` is to leave, where no namespace hides the rest."""

    @property
    def alone(self) -> bool:
        """Whether programs have a user, or a user namespace, to themselves."""
        return self.namespaces or self.judge_uid is not None


def main(judges: int, *servers: tuple[int, list[str]]) -> None:
    """Fork the servers of one jail; `judges` and each of `servers` bring the open file that requests come through.

    Ends when one of them does: then whoever asks has gone, or must notice.
    """
    # Whoever asks may have thousands of open files, and the numbers of these are as high: `select`, and what closes all
    # files of a program, take low ones.
    judges, servers = (
        _lowest(judges),
        tuple((_lowest(control), packages) for control, packages in servers),
    )
    setup = _Setup(**json.loads(os.pread(0, os.fstat(0).st_size, 0)))
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    # Libraries ask to mend locks and seeds after a fork. Servers have one thread, programs are seeded and cannot fork: it is
    # work for nothing, 0.6 ms for every program that has NumPy (measured).
    os.register_at_fork = lambda **_: None
    for name in PREIMPORTED:
        importlib.import_module(name)
    _narrow(setup)
    _fork_server(
        [control for control, _ in servers],
        lambda: test_runner.serve(
            judges, setup.judge_uid, setup.filters.get("judge"), alone=setup.alone
        ),
    )
    for control, packages in servers:
        others = [judges, *(other for other, _ in servers if other != control)]
        _fork_server(others, lambda c=control, p=packages: _Server(c, p, setup).serve())
    for control in (judges, *(control for control, _ in servers)):
        os.close(control)
    os.wait()


def _lowest(file: int) -> int:
    lower = os.dup(file)
    os.close(file)
    return lower


def _narrow(setup: _Setup) -> None:
    """What servers give up before the first request."""
    lockdown.die_with_parent()
    lockdown.no_new_privileges()
    if setup.shown:
        landlock_rules.confine(**setup.shown)
        lockdown.keep_capabilities(lockdown.CHANGE_USER if setup.judge_uid is not None else ())
    if setup.filters:
        lockdown.Filter(setup.filters["server"]).load()


def _fork_server(others: list[int], serve: Any) -> None:
    if os.fork() == 0:
        try:
            lockdown.die_with_parent()
            for other in others:
                os.close(other)
            serve()
        finally:
            os._exit(0)


class _Server:
    """Forks a process for every request on `control`, where it can in a new pid namespace, and tells how it ended."""

    def __init__(self, control: int, packages: list[str], setup: _Setup) -> None:
        self._control, self._packages, self._setup = socket.socket(fileno=control), packages, setup
        self._filter = lockdown.Filter(setup.filters["program"]) if setup.filters else None
        self._self, self._poll = os.pidfd_open(os.getpid()), select.poll()

    def serve(self) -> None:
        """Until the socket closes. The packages take their memory when the first request comes, and not before."""
        lockdown.limit_for_all(alone=self._setup.alone)
        candidate.handle_signals()
        select.select([self._control], [], [])
        for name in self._packages:
            importlib.import_module(name)
        if self._setup.namespaces:
            self._renew_scratch()  # the jail's first one has no bound on the number of files
        gc.collect()
        gc.freeze()
        while True:
            message, files, _, _ = socket.recv_fds(self._control, 1 << 12, 2)
            if not message:
                return
            ended = self._run(json.loads(message), *files)
            os.write(self._control.fileno(), json.dumps(ended).encode())

    def _run(self, request: dict[str, Any], work: int, channel: int) -> dict[str, Any]:
        """One program. As long as it lives, every page of memory that is written to here is copied: little is done then."""
        before, size = self._scratch_state(), os.fstat(work).st_size
        limits = lockdown.numbered(request["limits"])
        self._poll.register(channel, 0)  # a hang-up is told unasked
        if (
            self._setup.namespaces
        ):  # the last program's namespace takes no other one: back to our own, and on to a new one
            lockdown.check(lockdown.libc.setns(self._self, _CLONE_NEWPID))
            lockdown.check(lockdown.libc.unshare(_CLONE_NEWPID))
        pid = os.fork()
        if pid == 0:
            self._become_program(request, limits, work, size, channel)
        process = os.pidfd_open(pid)
        self._poll.register(process, select.POLLIN)
        late = not self._poll.poll(request["wall_s"] * 1000)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        for file in (process, channel):
            self._poll.unregister(file)
        for file in (process, channel, work):
            os.close(file)
        if self._setup.namespaces and self._scratch_state() != before:
            self._renew_scratch()
        status, cpu_s = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        return {"number": request["number"], "late": late, "status": status, "cpu_s": cpu_s}

    def _become_program(
        self,
        request: dict[str, Any],
        limits: list[tuple[int, tuple[int, int]]],
        work: int,
        size: int,
        channel: int,
    ) -> None:
        """The fork's life. Nothing of the program is looked at before the locks are on."""
        try:
            source = os.pread(work, size, 0)
            os.dup2(channel, _CHANNEL)
            os.closerange(_CHANNEL + 1, 1 << 10)
            os.chdir(self._setup.scratch)
            for which, limit in limits:
                resource.setrlimit(which, limit)
            if request["uid"] is not None:
                lockdown.become(request["uid"])  # which leaves no capability
            else:
                lockdown.drop_capabilities()
            lockdown.die_with_parent()
            if self._filter:
                self._filter.load()
            candidate.run(
                _CHANNEL,
                request["ask"],
                source.decode("utf-8", "surrogatepass"),
                request["entry_point"],
            )
        finally:
            os._exit(0)

    def _scratch_state(self) -> tuple[Any, ...]:
        """Changes whenever something was written: what is left lies there, and what was removed left its time."""
        folder, left = os.stat(self._setup.scratch), list[str]()
        with contextlib.suppress(
            PermissionError
        ):  # an ordinary user's program owns the folder, and can close it
            left = os.listdir(self._setup.scratch)
        return folder.st_mode, folder.st_uid, folder.st_ino, folder.st_ctime_ns, left

    def _renew_scratch(self) -> None:
        place = self._setup.scratch.encode()
        lockdown.check(lockdown.libc.umount2(place, _MNT_DETACH))
        lockdown.check(
            lockdown.libc.mount(
                b"tmpfs", place, b"tmpfs", _NOSUID_NODEV_NOATIME, SCRATCH_OPTIONS.encode()
            )
        )
