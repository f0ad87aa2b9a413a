"""Makes a jail out of namespaces, as bubblewrap would, and becomes an interpreter in it: for machines without bubblewrap.

One decision: it is always a new user namespace, so whatever power there is ends at its border: root gives its servers the
capabilities to change users within it and nothing on this machine. An ordinary user is nobody there. The jail is built in
an empty file system that then becomes the root; sources are opened before it covers anything. Needs Linux 5.12
(`mount_setattr`, which makes a whole tree read-only at once). This runs before there is anything hostile.
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
_BASE = "/tmp"  # noqa: S108  where the new root is built; only this process' namespace has anything mounted there
_SMALL = b"size=64k,nr_inodes=512,mode=755"
"""Of the root, which holds folders to mount on, and of what covers folders; both are read-only when a program runs."""


def enter(plan: str, command: Sequence[str]) -> NoReturn:
    """Run `command` as the first process of a new jail, and end as it ends.

    Args:
        plan: JSON with `uids` and `gids` (the maps of the user namespace), `as_root`, `mounts`, `links`, `emptied`,
            `devices`, `scratch`, `scratch_options`.
    """
    wanted = json.loads(plan)
    with _named("making namespaces"):
        _separate(wanted["uids"], wanted["gids"], as_root=wanted["as_root"])
        lockdown.die_with_parent()
    with _named("showing files"):
        _build(wanted)
    with _named("starting the first process"):
        maker = os.pidfd_open(os.getpid())
        first = os.fork()
        if first == 0:
            _become(command, maker, as_root=wanted["as_root"])
    os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)


@contextlib.contextmanager
def _named(step: str) -> Iterator[None]:
    """The border of this process: what fails is said in one line, with the step that it failed in."""
    try:
        yield
    except OSError as error:
        sys.exit(f"{step}: {error.strerror}" + (f" ({error.filename})" if error.filename else ""))


def _separate(uids: str, gids: str, *, as_root: bool) -> None:
    """New namespaces. A child that stays outside writes who is who in them, since root's map takes rights out there."""
    parted, told = os.pipe()
    outer = os.getpid()
    mapper = os.fork()
    if mapper == 0:
        os.close(told)
        with _named("mapping users"):
            if os.read(parted, 1):
                _map(outer, "setgroups", "allow" if as_root else "deny")
                _map(outer, "gid_map", gids)
                _map(outer, "uid_map", uids)
        os._exit(0)
    check(libc.unshare(_NAMESPACES))
    os.write(told, b".")
    if os.waitpid(mapper, 0)[1] != 0:
        raise PermissionError(1, "users could not be mapped")
    os.close(parted)
    os.close(told)
    socket.sethostname("jail")


def _map(pid: int, name: str, content: str) -> None:
    with open(f"/proc/{pid}/{name}", "w") as file:
        file.write(content)


def _build(wanted: dict[str, Any]) -> None:
    """Everything that the jail shows, then its root in place of this machine's."""
    _mount(b"none", "/", b"", _REC | _PRIVATE)
    shown, devices = _opened(wanted["mounts"]), _opened([(one, one) for one in wanted["devices"]])
    os.umask(0o022)
    _mount(b"tmpfs", _BASE, b"tmpfs", 0, _SMALL)
    os.chdir(_BASE)
    for fd, target in (*shown, *devices):
        _make_place(fd, target)
    os.makedirs(f".{wanted['scratch']}", exist_ok=True)
    for fd, target in shown:
        _bind(fd, target)
    for target, place in wanted["links"]:
        os.symlink(target, f".{place}")
    for folder in wanted["emptied"]:
        _mount(b"tmpfs", f".{folder}", b"tmpfs", 0, _SMALL)
    attributes = struct.pack("=QQQQ", _RDONLY_NOSUID_NODEV, 0, 0, 0)
    check(
        libc.syscall(
            _MOUNT_SETATTR,
            _AT_FDCWD,
            b".",
            _AT_RECURSIVE,
            attributes,
            ctypes.c_size_t(len(attributes)),
        )
    )
    for fd, target in devices:
        _bind(fd, target)
    _mount(b"tmpfs", f".{wanted['scratch']}", b"tmpfs", 2 | 4, wanted["scratch_options"].encode())
    check(libc.pivot_root(b".", b"."))
    check(libc.umount2(b".", _DETACH))
    os.chdir(wanted["scratch"])


def _opened(places: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    return [(os.open(source, os.O_PATH), target) for source, target in places]


def _make_place(fd: int, target: str) -> None:
    place = f".{target}"
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _bind(fd: int, target: str) -> None:
    _mount(f"/proc/self/fd/{fd}".encode(), f".{target}", b"", _BIND | _REC)
    os.close(fd)


def _mount(source: bytes, target: str, kind: bytes, flags: int, options: bytes = b"") -> None:
    if libc.mount(source, target.encode(), kind, flags, options) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _become(command: Sequence[str], maker: int, *, as_root: bool) -> NoReturn:
    """The first process of the jail: what servers may do, and the interpreter."""
    with _named("starting the first process"):
        lockdown.die_with_parent()
        if select.select([maker], [], [], 0)[
            0
        ]:  # it died before it could be said to whom this process belongs
            os._exit(1)
        os.setsid()
        lockdown.keep_for_the_next_program(
            (*(lockdown.CHANGE_USER if as_root else ()), *lockdown.NEW_NAMESPACES)
        )
        os.execve(command[0], list(command), dict(os.environ))  # noqa: S606  what this is for
