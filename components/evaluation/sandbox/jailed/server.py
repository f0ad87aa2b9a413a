"""The servers of a jail: processes with warm imports that fork a process for each program.

A server never reads a program or its output. A request names limits and brings two open files: the
source and the channel to the requester. The fork reads the first and writes to the second; the
server only waits until it ends. So the memory that a program is forked from never holds another
program's source, result or test. Each set of preimported packages has a server of its own, since a
fork costs more with more memory, and a separate server forks test runners (`test_runner.serve`).
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
import site
import socket
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, NamedTuple

from . import candidate, landlock_rules, lockdown, test_runner

_CLONE_NEWPID = 0x20000000
_MNT_DETACH = 2
_CHANNEL = 3
_NOSUID_NODEV_NOATIME = 2 | 4 | 1024
_RDONLY_REMOUNT_BIND = 1 | 32 | 4096
SCRATCH_OPTIONS = "size=16m,nr_inodes=4096,mode=1777"
"""Mount options of the only writable folder (assumption: MTPB and HumanEval write nothing of
size)."""

_MAX_ERROR_CHARS = 300
"""Longest import error in a reply, which must fit the launcher's buffer."""
PREIMPORTED = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "enum", "functools", "hashlib",
    "heapq", "itertools", "json", "math", "operator", "random", "re", "string", "sys", "time",
    "typing",
)  # fmt: skip
"""The modules that benchmark programs import most."""


class _Setup(NamedTuple):
    """Settings of all programs of this jail. Without isolation `seccomp_filters` may be empty."""

    namespaces: bool
    """Whether every program gets a pid namespace and an empty folder."""
    scratch: str
    """Working directory of programs; with namespaces the only writable folder."""
    accounts: str
    """The folder of the names of users; written by the server if there are namespaces."""
    seccomp_filters: dict[str, str]
    uids: tuple[int, int] | None
    """The users of programs and of test runners; None if users cannot be changed."""
    landlock_rules: dict[str, Any] | None
    """Arguments of `landlock_rules.restrict_files` if there are no namespaces."""

    @property
    def has_own_user(self) -> bool:
        """Whether programs have a user, or a user namespace, of their own."""
        return self.namespaces or self.uids is not None


def main(test_runners: int, *servers: tuple[int, list[str]]) -> None:
    """Fork the servers of a jail.

    Ends when any of them ends: the launcher is gone or must notice.

    Args:
        test_runners: the open socket for requests to the test runners.
        servers: the open socket and the preimported packages of each server.
    """
    # The launcher may have thousands of open files and pass high numbers; `select` and `closerange`
    # require low numbers.
    test_runners = _move_to_lowest(test_runners)
    servers = tuple((_move_to_lowest(control), packages) for control, packages in servers)
    setup = _Setup(**json.loads(os.pread(0, os.fstat(0).st_size, 0)))
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    # Libraries register hooks that repair locks and seeds after a fork. Servers are
    # single-threaded, and programs are seeded and cannot fork, so the hooks waste 0.6 ms for every
    # program that has NumPy (measured).
    os.register_at_fork = lambda **_: None
    for name in PREIMPORTED:
        importlib.import_module(name)
    site.setquit()  # names that every interpreter defines if it imports site at its start
    site.sethelper()
    sys.meta_path.insert(0, _ResourceTrackerFinder())
    if setup.namespaces:
        _write_account(setup)
    _restrict(setup)
    controls = [control for control, _ in servers]
    runner_filter = setup.seccomp_filters.get("test_runner")
    runner_uid = setup.uids[1] if setup.uids else None
    _fork_server(
        controls,
        lambda: test_runner.serve(
            test_runners, runner_uid, runner_filter, has_own_user=setup.has_own_user
        ),
    )
    for control, packages in servers:
        others = [test_runners, *(other for other in controls if other != control)]
        _fork_server(others, lambda c=control, p=packages: _Server(c, p, setup).serve())
    for control in (test_runners, *controls):
        os.close(control)
    os.wait()


def _move_to_lowest(fd: int) -> int:
    lowest = os.dup(fd)
    os.close(fd)
    return lowest


class _ResourceTrackerFinder:
    """Finds a resource tracker of multiprocessing that tracks nothing.

    The tracker is a process, and programs cannot start processes. All that it would remove ends
    with the program.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, _target: object = None
    ) -> ModuleSpec | None:
        if name != "multiprocessing.resource_tracker":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        exec_module = spec.loader.exec_module

        def exec_without_tracking(module: Any) -> None:
            exec_module(module)
            module.ResourceTracker._send = lambda *_: None

        spec.loader.exec_module = exec_without_tracking  # type: ignore[method-assign]
        return spec


def _write_account(setup: _Setup) -> None:
    """Give the user of programs a name in a folder that shows no other user of the machine."""
    uid = setup.uids[0] if setup.uids else os.getuid()
    _mount_tmpfs(setup.accounts, "size=16k,nr_inodes=8,mode=755")
    account = f"program:x:{uid}:{uid}:program:{setup.scratch}:/usr/sbin/nologin\n"
    for name, content in (("passwd", account), ("group", f"program:x:{uid}:\n")):
        with open(f"{setup.accounts}/{name}", "w") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
    path, flags = setup.accounts.encode(), _RDONLY_REMOUNT_BIND | _NOSUID_NODEV_NOATIME
    lockdown.check(lockdown.libc.mount(None, path, None, flags, None))


def _mount_tmpfs(path: str, options: str) -> None:
    target, flags = path.encode(), _NOSUID_NODEV_NOATIME
    lockdown.check(lockdown.libc.mount(b"tmpfs", target, b"tmpfs", flags, options.encode()))


def _restrict(setup: _Setup) -> None:
    """Reduce the rights of all servers before the first request."""
    lockdown.die_with_parent()
    lockdown.forbid_new_privileges()
    if setup.landlock_rules:
        landlock_rules.restrict_files(**setup.landlock_rules)
        lockdown.keep_capabilities(lockdown.USER_CAPABILITIES if setup.uids else ())
    if setup.seccomp_filters:
        lockdown.SeccompFilter(setup.seccomp_filters["server"]).load()


def _fork_server(other_controls: list[int], serve: Any) -> None:
    if os.fork() == 0:
        try:
            lockdown.die_with_parent()
            for control in other_controls:
                os.close(control)
            serve()
        finally:
            os._exit(0)


class _Server:
    """Forks a process for every request on `control` and reports how it ended."""

    def __init__(self, control: int, packages: list[str], setup: _Setup) -> None:
        self._control = socket.socket(fileno=control)
        self._packages = packages
        self._setup = setup
        self._filter = (
            lockdown.SeccompFilter(setup.seccomp_filters["program"])
            if setup.seccomp_filters
            else None
        )
        self._pidfd = os.pidfd_open(os.getpid())
        self._poll = select.poll()
        self._import_error = ""
        """Why a package could not be imported; then no program runs."""

    def serve(self) -> None:
        """Answer requests until the socket closes.

        The packages are imported when the first request comes.
        """
        lockdown.set_common_limits(has_own_user=self._setup.has_own_user)
        candidate.handle_signals()
        select.select([self._control], [], [])
        try:
            for name in self._packages:
                importlib.import_module(name)
        except Exception as error:
            self._import_error = f"import {name}: {type(error).__name__}: {error}"[
                :_MAX_ERROR_CHARS
            ]
        if self._setup.namespaces:
            self._renew_scratch()  # the first tmpfs of the jail does not limit the number of files
        gc.collect()
        gc.freeze()
        while True:
            message, files, _, _ = socket.recv_fds(self._control, 1 << 12, 2)
            if not message:
                return
            reply = self._run(json.loads(message), *files)
            os.write(self._control.fileno(), json.dumps(reply).encode())

    def _run(self, request: dict[str, Any], source_fd: int, channel: int) -> dict[str, Any]:
        """Run a program.

        While it lives, every written memory page is copied, so this method does little.
        """
        if self._import_error:
            for fd in (source_fd, channel):
                os.close(fd)
            return {"number": request["number"], "import_error": self._import_error}
        scratch_before, source_size = self._scratch_state(), os.fstat(source_fd).st_size
        limits = lockdown.resolve_limits(request["limits"])
        self._poll.register(channel, 0)  # a hang-up is always reported
        if self._setup.namespaces:  # the last program's namespace accepts no other process
            lockdown.check(lockdown.libc.setns(self._pidfd, _CLONE_NEWPID))
            lockdown.check(lockdown.libc.unshare(_CLONE_NEWPID))
        pid = os.fork()
        if pid == 0:
            self._become_program(request, limits, source_fd, source_size, channel)
        process = os.pidfd_open(pid)
        self._poll.register(process, select.POLLIN)
        timed_out = not self._poll.poll(request["wall_s"] * 1000)
        limited_cpu_s = lockdown.limited_cpu_s(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, _, usage = os.wait4(pid, 0)
        for fd in (process, channel):
            self._poll.unregister(fd)
        for fd in (process, channel, source_fd):
            os.close(fd)
        if self._setup.namespaces and self._scratch_state() != scratch_before:
            self._renew_scratch()
        return {
            "number": request["number"],
            "timed_out": timed_out or limited_cpu_s >= request["limits"]["RLIMIT_CPU"][0],
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }

    def _become_program(
        self,
        request: dict[str, Any],
        limits: list[tuple[int, tuple[int, int]]],
        source_fd: int,
        source_size: int,
        channel: int,
    ) -> None:
        """Run a program in the fork. All restrictions are in force before the source is decoded."""
        try:
            source = os.pread(source_fd, source_size, 0)
            os.dup2(channel, _CHANNEL)
            os.closerange(_CHANNEL + 1, 1 << 10)
            os.chdir(self._setup.scratch)
            for resource_id, limit in limits:
                resource.setrlimit(resource_id, limit)
            if self._setup.uids:
                lockdown.switch_user(self._setup.uids[0])  # drops all capabilities
            else:
                lockdown.drop_capabilities()
            lockdown.die_with_parent()
            if self._filter:
                self._filter.load()
            text = source.decode("utf-8", "surrogatepass")
            candidate.run(_CHANNEL, request["action"], text, request["entry_point"])
        finally:
            os._exit(0)

    def _scratch_state(self) -> tuple[int, ...]:
        """Return numbers that change with every write. No name of a file enters this process."""
        folder, usage = os.stat(self._setup.scratch), os.statvfs(self._setup.scratch)
        return (
            folder.st_mode,
            folder.st_uid,
            folder.st_ino,
            folder.st_ctime_ns,
            usage.f_ffree,
            usage.f_bfree,
        )

    def _renew_scratch(self) -> None:
        lockdown.check(lockdown.libc.umount2(self._setup.scratch.encode(), _MNT_DETACH))
        _mount_tmpfs(self._setup.scratch, SCRATCH_OPTIONS)
