"""Suite files: the package's or a user's folder, their tables, copying and hashing.

A folder of a recipe replaces the suites of the package completely, and an unknown file name is an
error. Each file is read once at the start of a run, so the hashed content is the applied content.
Great Expectations, which takes seconds to import, is not needed here (`suites` parses the content).

`SUITE_TABLES` states the columns of each suite's table apart from the code that fills it, so that
suites can be checked before there is data. A test compares the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from components.core.errors import ConfigError
from components.core.files import write_atomic
from components.core.text import suggest_name
from components.data.config import MaxDroppedShare
from components.validation.config import ValidationConfig
from components.validation.document_checks import PREPARED_DEFECTS
from components.validation.dropped_text import LIMITED_STEPS, limit_parameters, share_column
from components.validation.profile import RAW_DEFECTS

PACKAGE_SUITES = Path(__file__).parent / "suites"

_VALID_SUITE = "a Great Expectations suite whose rules each have a type, kwargs and a description"


class SuiteTable(NamedTuple):
    """The table of a suite; docs/validation.md describes its rows."""

    columns: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    """Parameters of rules and descriptions, in addition to the limits."""


def _change_columns(*names: str) -> list[str]:
    columns = []
    for name in names:
        columns += [name, f"previous_{name}", f"{name}_change"]
    return columns


_PREPARED_PARAMETERS = (
    "context_length", "eot_id", "num_ids", "max_dropped_tokens", "languages", "splits",
    *limit_parameters(MaxDroppedShare()),
)  # fmt: skip

SUITE_TABLES = {
    "raw-documents": SuiteTable(
        (
            "language", "num_documents", *(f"num_{name}" for name in RAW_DEFECTS),
            *(f"{name}_fraction" for name in RAW_DEFECTS),
        ),
        ("languages",),
    ),
    "raw-languages": SuiteTable(
        (
            "language", "num_documents", "size_bytes", "num_chars", "min_bytes", "mean_bytes",
            "max_bytes", "p50_bytes_bound", "p99_bytes_bound", "num_licenses", "num_extensions",
        ),
        ("languages",),
    ),
    "raw-drift": SuiteTable(
        (
            "language", *_change_columns("share", "mean_bytes", "quarantined_share"),
            "num_new_licenses",
        )
    ),
    "prepared-shards": SuiteTable(
        ("path", "split", "size_bytes", "expected_bytes", "max_id"), _PREPARED_PARAMETERS
    ),
    "prepared-splits": SuiteTable(
        (
            "split", "num_sequences", "num_shard_sequences", "num_documents", "num_separators",
            "num_document_ends", "num_misplaced_separators", "num_dropped_tokens",
        ),
        _PREPARED_PARAMETERS,
    ),
    "prepared-documents": SuiteTable(
        ("split", "num_documents", "num_tokens", *(f"num_{name}" for name in PREPARED_DEFECTS)),
        _PREPARED_PARAMETERS,
    ),
    "prepared-languages": SuiteTable(
        (
            "language", "num_raw", "num_kept", "num_rejected", "num_duplicates",
            "rejected_fraction", "duplicate_fraction", "num_duplicate_paths",
            "duplicate_path_fraction", "num_raw_bytes", "num_kept_bytes",
            *map(share_column, LIMITED_STEPS),
        ),
        _PREPARED_PARAMETERS,
    ),
    "prepared-held-out": SuiteTable(("corpus", "num_held_out", "num_in_train")),
    "prepared-drift": SuiteTable(
        ("language", *_change_columns("rejected_fraction", "duplicate_fraction"))
    ),
}  # fmt: skip
"""By the name of the suite: its file without suffix."""

EXAMPLE_PARAMETERS: dict[str, JsonValue] = {
    "context_length": 2048,
    "eot_id": 50_256,
    "num_ids": 50_295,
    "max_dropped_tokens": 2047,
    "languages": ["Python"],
    "splits": ["train", "held-out/Python"],
    **limit_parameters(MaxDroppedShare()),
}
"""A value of the right type for each parameter, to check a suite without data."""


class SuiteFile(NamedTuple):
    """The content of a suite file."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the content."""
        return hashlib.sha256(self.content).hexdigest()


Suites = Mapping[str, SuiteFile]
"""By name: every suite of `SUITE_TABLES`."""


def read_suite_files(config: ValidationConfig, project: Path | None = None) -> Suites:
    """Read the suite files of a recipe.

    Args:
        config: names their folder; None means the package's.
        project: base of a relative folder; None: the working directory.

    Raises:
        ConfigError: the folder does not exist, lacks a suite, has an unknown one, or a file cannot
            be read.
    """
    folder = PACKAGE_SUITES
    if config.suites is not None:
        folder = (project or Path()).absolute() / config.suites
        _require_complete(folder)
    return {name: _read_file(folder / f"{name}.json") for name in SUITE_TABLES}


def copy_suites(folder: Path) -> list[Path]:
    """Copy the package's suites into a folder, without overwriting; return the copies."""
    missing = [name for name in SUITE_TABLES if not (folder / f"{name}.json").exists()]
    copies = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in missing:
            copy = folder / f"{name}.json"
            write_atomic(copy, (PACKAGE_SUITES / f"{name}.json").read_bytes())
            copies.append(copy)
    except OSError as error:
        raise ConfigError(
            f"the suites cannot be copied to {folder}: {error.strerror}",
            expected="a writable folder, or a path at which it can be created",
            fix="choose another folder",
        ) from error
    return copies


def validation_identity(config: ValidationConfig, prefix: str, suites: Suites) -> dict[str, Any]:
    """Return the recipe part of a validation: limits and content of the suites `prefix-*`."""
    digests = {name: file.sha256 for name, file in suites.items() if name.startswith(f"{prefix}-")}
    return {"limits": config.reset("suites"), "suites": digests}


def _require_complete(folder: Path) -> None:
    required = [f"{name}.json" for name in SUITE_TABLES]
    copy_hint = f"`codegen data suites {folder}` copies missing suites and keeps existing files"
    if not folder.is_dir():
        raise ConfigError(
            f"validation.suites is {folder}, which is not a folder",
            expected=f"a folder with {', '.join(required)}",
            fix=f"change validation.suites, or create the folder: {copy_hint}",
        )
    names = {path.name for path in folder.glob("*.json")}
    if unknown := sorted(names - set(required)):
        suggestion = suggest_name(unknown[0], required)
        advice = f"rename {folder / unknown[0]}, or remove it from the folder"
        raise ConfigError(
            f"{unknown[0]} in {folder} is not a suite",
            expected=f"{', '.join(required)}, and no other .json",
            fix=f"{suggestion} {advice}".strip(),
        )
    if missing := [name for name in required if name not in names]:
        raise ConfigError(
            f"{folder} has no {missing[0]}",
            expected='every suite; a suite with `"expectations": []` has no rules: '
            f"{', '.join(required)}",
            fix=copy_hint,
        )


def _read_file(path: Path) -> SuiteFile:
    try:
        return SuiteFile(path, path.read_bytes())
    except OSError as error:
        raise invalid_suite(path, f"cannot be read: {error.strerror}") from error


def invalid_suite(
    path: Path, problem: str, expected: str = _VALID_SUITE, hint: str = ""
) -> ConfigError:
    """Return the error for a suite file; `hint` precedes the advice to fix it."""
    fix = f"{hint} correct {path}".strip()
    return ConfigError(f"the suite {path.name} {problem}", expected=expected, fix=fix)
