"""What a jailed program can see of the file system: the interpreter, the standard library, three numeric packages. No more.

One decision: files are shown one by one rather than hidden one by one. In particular no `site-packages` folder is shown as
a whole, since HumanEval's tests and solutions lie in one, and neither are home folders, /etc, /proc, /sys or /var.
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
"""Where our own jailed code and the packages are mounted."""
SCRATCH = "/tmp"  # noqa: S108  the jail's own, new and empty for every program
DEVICES = tuple(Path("/dev") / name for name in ("null", "zero", "full", "random", "urandom"))
TMPFS_BYTES = 16 << 20
"""Size of the only writable place, `SCRATCH` (assumption: MTPB and HumanEval write nothing of size)."""

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""What programs find in their environment, beside PYTHONPATH and HOME: the order of sets must not change verdicts."""

_PACKAGES = (
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "joblib",
    "threadpoolctl",
    "dateutil",
    "six",
    "pytz",
    "tzdata",
    "narwhals",
)
"""What MTPB's problems import (NumPy, pandas, scikit-learn), with what those import in turn."""
_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")


class View(NamedTuple):
    """Read-only mounts (source, target), symbolic links (target, place) and folders that are emptied again."""

    mounts: tuple[tuple[Path, Path], ...]
    links: tuple[tuple[str, Path], ...]
    emptied: tuple[Path, ...]
    interpreter: Path
    environment: dict[str, str]


def this_interpreter() -> View:
    """The view that lets this process' own Python run, with the numeric packages it has."""
    interpreter = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    libraries = _own_libraries()
    links = tuple(
        (str(Path(name).readlink()), Path(name))
        for name in _SYSTEM_LIBRARIES
        if Path(name).is_symlink()
    )
    system = _system_libraries()
    own = [path for path in (interpreter, stdlib, *libraries) if not _inside(path, system)]
    mounts = [(path, path) for path in (*system, *own)]
    mounts += [(Path(__file__).parent / "jailed", CODE / "jailed")]
    mounts += [(path, LIBRARIES / path.name) for path in _packages()]
    environment = ENVIRONMENT | {"PYTHONPATH": f"{CODE}:{LIBRARIES}", "HOME": SCRATCH}
    if libraries:
        environment["LD_LIBRARY_PATH"] = str(libraries[0].parent)
    return View(
        tuple(mounts), links, tuple(_installed_packages(stdlib, system)), interpreter, environment
    )


def command(interpreter: Path, start: str) -> list[str]:
    """The command line that runs a line of Python with nothing but the standard library and PYTHONPATH."""
    return [str(interpreter), "-s", "-S", "-P", "-B", "-c", start]


def _inside(path: Path, folders: list[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _system_libraries() -> list[Path]:
    """Folders of shared libraries; of /usr/lib only this architecture's part, where it is set apart (Debian)."""
    real = [
        Path(name)
        for name in _SYSTEM_LIBRARIES
        if Path(name).is_dir() and not Path(name).is_symlink()
    ]
    architecture = sysconfig.get_config_var("MULTIARCH")
    return [
        part if architecture and (part := folder / architecture).is_dir() else folder
        for folder in real
    ]


def _own_libraries() -> list[Path]:
    """Shared libraries that this process has loaded from its Python's own folder, libpython above all.

    Read from the process itself: a Python that was moved after it was built does not know where its libraries are.
    """
    import ctypes  # noqa: F401  loads libffi, which jailed processes need

    folder = Path(sys.base_prefix).resolve() / "lib"
    loaded = {
        Path(line.split(maxsplit=5)[5])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if ".so" in line
    }
    return sorted(path for path in loaded if path.parent == folder)


def _installed_packages(stdlib: Path, system: list[Path]) -> Iterator[Path]:
    """Folders of installed packages below what is shown: they could hold the benchmark."""
    yield from (
        path for name in ("site-packages", "dist-packages") if (path := stdlib / name).is_dir()
    )
    for folder in system:
        yield from (
            path for path in sorted(folder.glob("python3*/*-packages")) if path.parent != stdlib
        )


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
        for shared in (f"{name}.libs", "scikit_learn.libs" if name == "sklearn" else ""):
            if shared and (path.parent / shared).is_dir():
                yield path.parent / shared
