"""The files that a jailed program can see: interpreter, standard library, numeric packages.

Visible files are listed; hidden files are not. No `site-packages` folder is visible, since
HumanEval's tests and solutions are installed in such a folder, and neither are home folders, the
machine's /etc, /proc, /sys or /var.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from components.core.errors import SandboxUnavailableError

CODE, LIBRARIES = Path("/jail"), Path("/libraries")
"""Mount points of our jailed code and of the packages."""
SCRATCH = "/tmp"  # noqa: S108  the jail's own folder, empty for every program
ACCOUNTS = Path("/etc")
"""The folder with the name of the programs' user, which the server of a jail writes."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the C library's folder of locks and shared memory
DEVICES = tuple(Path("/dev") / name for name in ("null", "zero", "full", "random", "urandom"))
TMPFS_BYTES = 16 << 20
"""Size of `SCRATCH`, the only writable folder (assumption: MTPB and HumanEval write nothing of
size). `SHARED_MEMORY` is a link to it."""

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONTZPATH": "",
    "LC_ALL": "C.UTF-8",
    "LOGNAME": "program",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Environment of programs, with PYTHONPATH and HOME. The fixed hash seed keeps the order of sets,
and so verdicts, stable. Time zones come from the package tzdata, not from the machine. With more
memory arenas, each of 64 MiB of address space, the memory limit would allow fewer threads on a
machine with more processors."""
_LOCALE = Path("/usr/lib/locale/C.utf8")
"""Debian's files of the locale C.UTF-8, if the C library does not contain it."""

_PACKAGES = (
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "joblib",
    "cloudpickle",
    "threadpoolctl",
    "dateutil",
    "six",
    "pytz",
    "tzdata",
    "narwhals",
)
"""The packages that MTPB's problems import (NumPy, pandas, scikit-learn) and their dependencies."""
_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")


class FilesystemView(NamedTuple):
    """The visible files, all read-only."""

    mounts: tuple[tuple[Path, Path], ...]
    """Source and target."""
    links: tuple[tuple[str, Path], ...]
    """Target and path of symbolic links."""
    hidden: tuple[Path, ...]
    """Folders within the mounts that are covered by empty folders."""
    interpreter: Path
    environment: dict[str, str]


def interpreter_view() -> FilesystemView:
    """Return the view for this interpreter, with the numeric packages that are installed."""
    interpreter = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    libraries = _loaded_libraries()
    system = _system_folders()
    extra = [
        path
        for path in (interpreter, stdlib, *libraries, _LOCALE)
        if path.exists() and not any(path.is_relative_to(folder) for folder in system)
    ]
    mounts = [(path, path) for path in (*system, *extra)]
    mounts += [(Path(__file__).parent / "jailed", CODE / "jailed")]
    mounts += [(path, LIBRARIES / path.name) for path in _packages()]
    links = [
        (str(path.readlink()), path) for path in map(Path, _SYSTEM_LIBRARIES) if path.is_symlink()
    ]
    links.append((SCRATCH, SHARED_MEMORY))
    environment = ENVIRONMENT | {"PYTHONPATH": f"{CODE}:{LIBRARIES}", "HOME": SCRATCH}
    if libraries:
        environment["LD_LIBRARY_PATH"] = str(libraries[0].parent)
    hidden = tuple(_installed_packages(stdlib, system))
    return FilesystemView(tuple(mounts), tuple(links), hidden, interpreter, environment)


def python_command(interpreter: Path, start: str) -> list[str]:
    """Return the command for a line of Python with the standard library and PYTHONPATH only."""
    return [str(interpreter), "-s", "-S", "-P", "-B", "-c", start]


def _system_folders() -> list[Path]:
    """Return the folders of shared libraries; on Debian those of this architecture only."""
    architecture = sysconfig.get_config_var("MULTIARCH")
    folders = []
    for path in map(Path, _SYSTEM_LIBRARIES):
        if path.is_dir() and not path.is_symlink():
            has_part = bool(architecture) and (path / architecture).is_dir()
            folders.append(path / architecture if has_part else path)
    return folders


def _loaded_libraries() -> list[Path]:
    """Return the shared libraries that this process loaded from its Python (libpython).

    Read from the process, because a Python that was moved after its build does not know its library
    folder.
    """
    import ctypes  # noqa: F401  loads libffi, which jailed processes need

    folder = Path(sys.base_prefix).resolve() / "lib"
    lines = Path("/proc/self/maps").read_text().splitlines()
    loaded = {Path(line.split(maxsplit=5)[5]) for line in lines if ".so" in line}
    return sorted(path for path in loaded if path.parent == folder)


def _installed_packages(stdlib: Path, system: list[Path]) -> Iterator[Path]:
    """Yield folders of installed packages below visible folders: they could hold the benchmark."""
    for name in ("site-packages", "dist-packages"):
        if (stdlib / name).is_dir():
            yield stdlib / name
    for folder in system:
        for path in sorted(folder.glob("python3*/*-packages")):
            if path.parent != stdlib:
                yield path


def _packages() -> Iterator[Path]:
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            if name == "numpy":
                raise SandboxUnavailableError(
                    "NumPy is not installed",
                    expected="the packages that MTPB's programs import",
                    fix="run `make run` again",
                )
            continue
        origin = Path(spec.origin)
        path = origin.parent if spec.submodule_search_locations else origin
        yield path
        for shared_libraries in (f"{name}.libs", "scikit_learn.libs" if name == "sklearn" else ""):
            if shared_libraries and (path.parent / shared_libraries).is_dir():
                yield path.parent / shared_libraries
