"""Walls where namespaces cannot be had: what this process and its children may open is narrowed by Landlock, for good.

One decision: nothing may be written, and what may be read is named file by file where a folder holds more than programs
are to see (a standard library with installed packages in it). Such a folder cannot be listed either, so its modules are
found by a table of names instead. Landlock leaves alone what needs no open file: whether a file exists, its size and its
times can be seen, and the calls that change them are for the system-call filter to refuse.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location

from .lockdown import check, libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture (Linux 5.13)."""
_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_NUM_FILE_RIGHTS = {0: 0, 1: 13, 2: 14, 3: 15, 4: 15}
"""Rights that a version can deny; 16 since version 5 (linux/landlock.h). All of them are denied."""
_TCP_SINCE, _BIND_AND_CONNECT = 4, 3
_SCOPES_SINCE, _ABSTRACT_SOCKETS_AND_SIGNALS = 6, 3


def landlock_version() -> int:
    """Of the kernel's Landlock; 0 where it has none, or was told to go without."""
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def confine(
    read: Sequence[str], devices: Sequence[str], modules: Mapping[str, str], extensions: str
) -> None:
    """Bind this process to these files. It must have given up new privileges before.

    Args:
        read: files and folders (with all that is below) that may be read.
        devices: files that may be read and written.
        modules: the file or folder of every module, by name.
        extensions: the folder of the standard library's compiled modules.
    """
    sys.path[:] = [extensions]
    sys.meta_path.insert(-1, _Finder(modules))
    version = landlock_version()
    rights = (1 << _NUM_FILE_RIGHTS.get(version, 16)) - 1
    tcp = _BIND_AND_CONNECT if version >= _TCP_SINCE else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SCOPES_SINCE else 0
    ruleset = struct.pack("=QQQ", rights, tcp, scopes)
    rules = check(libc.syscall(_CREATE_RULESET, ruleset, ctypes.c_size_t(len(ruleset)), 0))
    for path in read:
        _allow(rules, path, _READ_FILE)
    for path in devices:
        _allow(rules, path, _READ_FILE | _WRITE_FILE)
    check(libc.syscall(_RESTRICT_SELF, rules, 0))
    os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if stat.S_ISDIR(os.fstat(file).st_mode):
        access |= _READ_DIR
    check(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", access, file), 0))
    os.close(file)


class _Finder:
    """Finds modules by name, in files that are shown one by one."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, _target: object = None
    ) -> ModuleSpec | None:
        place = self._modules.get(name) if path is None else None
        if place is None:
            return None
        if place.endswith(".py"):
            return spec_from_file_location(name, place)
        return spec_from_file_location(
            name, f"{place}/__init__.py", submodule_search_locations=[place]
        )
