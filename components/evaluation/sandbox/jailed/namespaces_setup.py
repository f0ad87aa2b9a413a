"""Builds a jail from namespaces and becomes an interpreter in it, for machines without bubblewrap.

The jail always has a new user namespace: root's servers can change users within it and nothing
outside; an ordinary user is `nobody` in it. The jail is built in an empty file system that becomes
the root. Sources are opened before any mount covers them. Requires Linux 5.12 (`mount_setattr`
makes a whole tree read-only at once). No hostile code runs here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from . import lockdown
from .lockdown import check, libc

_NAMESPACES = (
    0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
)
"""CLONE_NEW* of user, ns (mounts), pid, net, ipc, uts, cgroup."""
_REC, _PRIVATE, _BIND, _DETACH = 16384, 1 << 18, 4096, 2
_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_RDONLY_NOSUID_NODEV = 1 | 2 | 4
_NOSUID_NODEV = 2 | 4
_BASE = "/tmp"  # noqa: S108  the new root is built here; the mounts are visible in this mount namespace only
_SMALL = b"size=64k,nr_inodes=512,mode=755"
"""Options of the root, which holds mount points, and of hidden folders; both are read-only when a
program runs."""


def enter(plan_json: str, command: Sequence[str]) -> NoReturn:
    """Run `command` as the first process of a new jail and exit with its status.

    Args:
        plan_json: JSON with `uids` and `gids` (maps of the user namespace), `as_root`, `mounts`,
            `links`, `hidden`, `devices`, `accounts`, `scratch`, `scratch_options`.
    """
    plan = json.loads(plan_json)
    with _exit_on_error("making namespaces"):
        _unshare(plan["uids"], plan["gids"], as_root=plan["as_root"])
        lockdown.die_with_parent()
    with _exit_on_error("mounting files"):
        _build(plan)
    with _exit_on_error("starting the first process"):
        parent = os.pidfd_open(os.getpid())
        first = os.fork()
        if first == 0:
            _exec(command, parent, as_root=plan["as_root"])
    os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)


@contextlib.contextmanager
def _exit_on_error(step: str) -> Iterator[None]:
    """Exit with a line that names the failed step."""
    try:
        yield
    except OSError as error:
        sys.exit(f"{step}: {error.strerror}" + (f" ({error.filename})" if error.filename else ""))


def _unshare(uids: str, gids: str, *, as_root: bool) -> None:
    """Make the namespaces.

    A child outside writes the user maps, because root's map requires rights out there.
    """
    reader, writer = os.pipe()
    parent = os.getpid()
    mapper = os.fork()
    if mapper == 0:
        os.close(writer)
        with _exit_on_error("mapping users"):
            if os.read(reader, 1):
                _write_map(parent, "setgroups", "allow" if as_root else "deny")
                _write_map(parent, "gid_map", gids)
                _write_map(parent, "uid_map", uids)
        os._exit(0)
    check(libc.unshare(_NAMESPACES))
    os.write(writer, b".")
    if os.waitpid(mapper, 0)[1] != 0:
        raise PermissionError(1, "users could not be mapped")
    os.close(reader)
    os.close(writer)
    socket.sethostname("jail")


def _write_map(pid: int, name: str, content: str) -> None:
    with open(f"/proc/{pid}/{name}", "w") as file:
        file.write(content)


def _build(plan: dict[str, Any]) -> None:
    """Mount everything that the jail shows, then replace the machine's root."""
    _mount(b"none", "/", b"", _REC | _PRIVATE)
    mounts = _open_sources(plan["mounts"])
    devices = _open_sources([(device, device) for device in plan["devices"]])
    os.umask(0o022)
    _mount(b"tmpfs", _BASE, b"tmpfs", 0, _SMALL)
    os.chdir(_BASE)
    for fd, target in (*mounts, *devices):
        _make_mount_point(fd, target)
    for folder in (plan["accounts"], plan["scratch"]):
        os.makedirs(f".{folder}", exist_ok=True)
    for fd, target in mounts:
        _bind(fd, target)
    for target, link in plan["links"]:
        os.symlink(target, f".{link}")
    for folder in plan["hidden"]:
        _mount(b"tmpfs", f".{folder}", b"tmpfs", 0, _SMALL)
    _make_read_only()
    for fd, target in devices:
        _bind(fd, target)
    options = plan["scratch_options"].encode()
    _mount(b"tmpfs", f".{plan['scratch']}", b"tmpfs", _NOSUID_NODEV, options)
    check(libc.pivot_root(b".", b"."))
    check(libc.umount2(b".", _DETACH))
    os.chdir(plan["scratch"])


def _make_read_only() -> None:
    attributes = struct.pack("=QQQQ", _RDONLY_NOSUID_NODEV, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    check(libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, b".", _AT_RECURSIVE, attributes, size))


def _open_sources(mounts: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    return [(os.open(source, os.O_PATH), target) for source, target in mounts]


def _make_mount_point(fd: int, target: str) -> None:
    path = f".{target}"
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _bind(fd: int, target: str) -> None:
    _mount(f"/proc/self/fd/{fd}".encode(), f".{target}", b"", _BIND | _REC)
    os.close(fd)


def _mount(source: bytes, target: str, kind: bytes, flags: int, options: bytes = b"") -> None:
    if libc.mount(source, target.encode(), kind, flags, options) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _exec(command: Sequence[str], parent: int, *, as_root: bool) -> NoReturn:
    """Become the first process of the jail: reduce capabilities, then execute the interpreter."""
    with _exit_on_error("starting the first process"):
        lockdown.die_with_parent()
        parent_has_ended = bool(select.select([parent], [], [], 0)[0])
        if parent_has_ended:  # it died before `die_with_parent` took effect
            os._exit(1)
        os.setsid()
        user_capabilities = lockdown.USER_CAPABILITIES if as_root else ()
        lockdown.keep_capabilities_across_exec(
            (*user_capabilities, *lockdown.NAMESPACE_CAPABILITIES)
        )
        os.execve(command[0], list(command), dict(os.environ))  # noqa: S606  the purpose of this process
