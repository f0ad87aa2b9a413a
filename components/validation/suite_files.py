"""Where suites lie: the package's, or a folder of a user's own, as files; what is in them is for `suites` to understand.

Design decision: a recipe's own folder stands for the package's as a whole, never file by file: what lies in it is what is
applied, and a misspelt name is an error. Each file is read once, when a run begins, so that what is hashed is what is
applied. Copying the files needs no Great Expectations, which takes seconds to import.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import ConfigError
from components.core.files import write_atomic
from components.validation.config import ValidationConfig
from components.validation.tables import SUITE_TABLES

SUITES = Path(__file__).parent / "suites"
"""The package's."""

_A_SUITE = "a Great Expectations suite whose rules each have a type, kwargs and a description"


class SuiteFile(NamedTuple):
    """A suite as it was read."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the file's bytes."""
        return hashlib.sha256(self.content).hexdigest()


Suites = Mapping[str, SuiteFile]
"""By name: every suite of `components.validation.tables.SUITE_TABLES`."""


def read_files(config: ValidationConfig, project: Path | None = None) -> Suites:
    """The suites of a recipe, as they are.

    Args:
        config: names their folder, or means the package's.
        project: where a relative folder starts; None is the working directory.

    Raises:
        ConfigError: there is no such folder, it lacks a suite, holds one of another name, or one that cannot be read.
    """
    folder = SUITES
    if config.suites is not None:
        folder = (project or Path()).absolute() / config.suites
        _require_complete(folder)
    return {name: _read(folder / f"{name}.json") for name in SUITE_TABLES}


def copy_suites(folder: Path) -> list[Path]:
    """Copy the package's suites into a folder, to be edited. What is there stays as it is; returns the copies.

    Raises:
        ConfigError: the folder cannot be written.
    """
    missing = [name for name in SUITE_TABLES if not (folder / f"{name}.json").exists()]
    copies = [folder / f"{name}.json" for name in missing]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, copy in zip(missing, copies, strict=True):
            write_atomic(copy, (SUITES / f"{name}.json").read_bytes())
    except OSError as error:
        raise ConfigError(
            f"the suites cannot be copied to {folder}: {error.strerror}",
            expected="a folder that this user may write, or the path of one that can be made",
            fix="name another folder",
        ) from error
    return copies


def identity(config: ValidationConfig, prefix: str, suites: Suites) -> dict[str, Any]:
    """What decides the outcome of validation, besides the data: the limits, and the suites named `prefix`-something.

    Where the files lie is no part of it.
    """
    digests = {name: one.sha256 for name, one in suites.items() if name.startswith(f"{prefix}-")}
    return {"limits": config.reset("suites"), "suites": digests}


def _require_complete(folder: Path) -> None:
    wanted = [f"{name}.json" for name in SUITE_TABLES]
    copy = (
        f"`codegen data suites {folder}` copies what is missing and changes nothing that is there"
    )
    if not folder.is_dir():
        raise ConfigError(
            f"validation.suites means {folder}, which is no folder",
            expected=f"a folder with {', '.join(wanted)}",
            fix=f"mend validation.suites, or make the folder: {copy}",
        )
    found = {path.name for path in folder.glob("*.json")}
    if strangers := sorted(found - set(wanted)):
        raise ConfigError(
            f"no suite is called {strangers[0]}, which lies in {folder}",
            expected=f"{', '.join(wanted)}, and no other .json",
            fix=f"{closest_match(strangers[0], wanted)}rename {folder / strangers[0]}, or take it out of the folder",
        )
    if missing := [name for name in wanted if name not in found]:
        raise ConfigError(
            f"{folder} has no {missing[0]}",
            expected=f'every suite, without rules (`"expectations": []`) where none is wanted: {", ".join(wanted)}',
            fix=copy,
        )


def _read(path: Path) -> SuiteFile:
    try:
        return SuiteFile(path, path.read_bytes())
    except OSError as error:
        raise broken_suite(path, f"cannot be read: {error.strerror}") from error


def broken_suite(path: Path, problem: str, expected: str = _A_SUITE, hint: str = "") -> ConfigError:
    """The error for a suite's file; `hint` comes before the advice to mend it."""
    return ConfigError(
        f"the suite {path.name} {problem}", expected=expected, fix=f"{hint}mend {path}"
    )


def closest_match(given: object, known: Collection[str]) -> str:
    """The nearest known name as a question that precedes other advice; nothing where none is near."""
    found = difflib.get_close_matches(str(given), known, n=1)
    return f"did you mean {found[0]!r}? " if found else ""
