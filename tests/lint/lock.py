"""Writes `requirements/*.lock` from pyproject.toml, or checks that they are current.

`python tests/lint/lock.py` resolves again (`make lock`, needs the package index) and keeps every
version that still fits; `--upgrade` takes the newest. `--check` (`make lint`, needs no network)
compares the digest of the declarations in pyproject.toml with the digest in each file.

pip installs the files (`make` does) with hashes and without resolving: `build.lock` builds source
distributions, `main.lock` has everything except torch, `torch-cpu.lock` has the CPU build of torch,
and `torch.lock` has the build of the index with its CUDA libraries. No file names an index.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

FOLDER = Path("requirements")
RESOLVED = ("build.lock", "main.lock", "torch.lock")
TORCH_CPU = "torch-cpu.lock"
TORCH_PACKAGE = re.compile(r"(torch==|cuda-|nvidia-|triton\b)")
"""torch, and the packages that only its CUDA build requires."""
TORCH_CPU_HASH = "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
"""Of torch 2.13.0+cpu for CPython 3.11 on Linux x86-64, a wheel that the index does not have."""


def declarations_digest(project: Path) -> str:
    """Return the SHA-256 of everything in pyproject.toml that decides the locked versions."""
    pyproject = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    names = ("requires-python", "dependencies", "optional-dependencies")
    declarations = [pyproject["build-system"]["requires"]]
    declarations += [pyproject["project"][name] for name in names]
    return hashlib.sha256(json.dumps(declarations, sort_keys=True).encode()).hexdigest()


def check(project: Path) -> list[str]:
    """Return the names of the lock files that are absent or have another digest."""
    digest = declarations_digest(project)
    stale: list[str] = []
    for name in (*RESOLVED, TORCH_CPU):
        path = project / FOLDER / name
        if not path.is_file() or digest not in path.read_text(encoding="utf-8").split("\n", 2)[1]:
            stale.append(name)
    return stale


def write(project: Path, *, upgrade: bool) -> None:
    """Resolve the declarations and write all files."""
    folder = project / FOLDER
    pyproject = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        resolved = Path(scratch) / "resolved.lock"
        present = [folder / name for name in RESOLVED if (folder / name).is_file()]
        resolved.write_text("".join(path.read_text(encoding="utf-8") for path in present))
        options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--extra", "dev"]
        options += ["--no-annotate", "--no-header", "--no-emit-index-url", "--quiet"]
        options += ["--upgrade"] if upgrade else []
        subprocess.run(
            [
                sys.executable,
                "-m",
                "uv",
                "pip",
                "compile",
                "pyproject.toml",
                "-",
                *options,
                "-o",
                str(resolved),
            ],
            cwd=project,
            input="\n".join(pyproject["build-system"]["requires"]),
            text=True,
            check=True,
        )
        entries = re.split(r"\n(?=\S)", resolved.read_text(encoding="utf-8").strip())
    build_names = {re.split(r"[^\w.-]", line)[0] for line in pyproject["build-system"]["requires"]}
    contents: dict[str, list[str]] = {name: [] for name in RESOLVED}
    for entry in entries:
        name, version = re.split("==| ", entry)[:2]
        contents["torch.lock" if TORCH_PACKAGE.match(entry) else "main.lock"].append(entry)
        if name in build_names:
            contents["build.lock"].append(entry)
        if name == "torch":
            contents[TORCH_CPU] = [f"torch=={version}+cpu \\\n    --hash={TORCH_CPU_HASH}"]
    folder.mkdir(exist_ok=True)
    for name, locked in contents.items():
        header = f"# Written by `make lock`.\n# declarations: {declarations_digest(project)}\n"
        (folder / name).write_text(header + "\n".join(locked) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Check or write the files; return the exit status."""
    project = Path(__file__).parents[2]
    if "--check" not in arguments:
        write(project, upgrade="--upgrade" in arguments)
        return 0
    stale = check(project)
    if stale:
        print(f"{FOLDER}/{', '.join(stale)} were not written from this pyproject.toml")
        print("  expected: the digest of its dependencies in the second line")
        print("  fix:      make lock")
    return int(bool(stale))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
