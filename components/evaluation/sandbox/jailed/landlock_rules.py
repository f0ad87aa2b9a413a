"""Landlock rules that restrict file access if namespaces are unavailable.

Nothing may be written. If a folder holds more than programs may see (a standard library with
installed packages), its files are allowed separately; such a folder cannot be listed, so a table of
names finds its modules. Landlock does not restrict calls without an open file: a program can read
whether a file exists, its size and its times; the system-call filter refuses the calls that change
them.
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
"""System-call numbers, equal on every architecture (Linux 5.13)."""
_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_NUM_FILE_RIGHTS = {0: 0, 1: 13, 2: 14, 3: 15, 4: 15}
"""Rights that each version can deny; 16 since version 5 (linux/landlock.h). All of them are
denied."""
_TCP_SINCE, _BIND_AND_CONNECT = 4, 3
_SCOPES_SINCE, _ABSTRACT_SOCKETS_AND_SIGNALS = 6, 3


def landlock_version() -> int:
    """Return the version of the kernel's Landlock; 0 if it is missing or disabled."""
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def restrict_files(
    read: Sequence[str], devices: Sequence[str], modules: Mapping[str, str], extensions: str
) -> None:
    """Restrict this process to these files. It must have given up new privileges before.

    Args:
        read: readable files and folders, folders with everything below.
        devices: readable and writable files.
        modules: the file or folder of every module, by name.
        extensions: the folder of the standard library's compiled modules.
    """
    sys.path[:] = [extensions]
    sys.meta_path.insert(-1, _ModuleFinder(modules))
    version = landlock_version()
    rights = (1 << _NUM_FILE_RIGHTS.get(version, 16)) - 1
    tcp = _BIND_AND_CONNECT if version >= _TCP_SINCE else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SCOPES_SINCE else 0
    attributes = struct.pack("=QQQ", rights, tcp, scopes)
    ruleset = check(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    for path in read:
        _allow(ruleset, path, _READ_FILE)
    for path in devices:
        _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
    check(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if stat.S_ISDIR(os.fstat(file).st_mode):
        access |= _READ_DIR
    check(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, file), 0))
    os.close(file)


class _ModuleFinder:
    """Finds modules by name, because their folder cannot be listed."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, _target: object = None
    ) -> ModuleSpec | None:
        location = self._modules.get(name) if path is None else None
        if location is None:
            return None
        if location.endswith(".py"):
            return spec_from_file_location(name, location)
        return spec_from_file_location(
            name, f"{location}/__init__.py", submodule_search_locations=[location]
        )
