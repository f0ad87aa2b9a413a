"""Columns of a table or fields of an object: lookup by name, and the error of another layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from components.core.errors import ConfigError
from components.data.sources.layouts import layout_advice

LANGUAGE_OR_PATH = "language or path"
"""A record needs one of both, unless its source has a fixed language."""

_SETTINGS = {"source": "`name`", LANGUAGE_OR_PATH: "`language`, `path` or `fixed_language`"}
"""Fields of a source that name a column, if they are called otherwise."""


def find_column(name: str, existing: Iterable[str]) -> str | None:
    """The top-level column of a field name, if it exists."""
    for column in (name, name.partition(".")[0]):
        if column in existing:
            return column
    return None


def field_names(fields: Mapping[str, Any]) -> Iterator[str]:
    """The names of the fields of an object; of an object inside, those of its own fields."""
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{name}.{child}" for child in value)
        else:
            yield name


def has_field(fields: Mapping[str, Any], name: str) -> bool:
    """Whether an object has a field, which may be null. A dot selects a field of an object."""
    if name in fields:
        return True
    parent, dot, child = name.partition(".")
    nested = fields.get(parent)
    return bool(dot) and isinstance(nested, Mapping) and has_field(nested, child)


def missing_columns_error(
    file: str,
    existing: Sequence[str],
    required: Mapping[str, Sequence[str]],
    missing: Sequence[str],
) -> ConfigError:
    """Return the error for a file of another layout than its source.

    Args:
        file: its name.
        existing: its columns.
        required: possible columns by field of a record.
        missing: fields without a column.
    """
    columns = [f"{' or '.join(names)} for {field}" for field, names in required.items()]
    settings = [_SETTINGS.get(field, f"`{field}`") for field in missing]
    return ConfigError(
        f"{file} has the columns {', '.join(existing) or '(none)'}, and none for "
        f"{' and '.join(missing)}",
        expected=f"the columns {', '.join(columns)}",
        fix=layout_advice(existing)
        or f"set {' and '.join(settings)} of that source to a column, or correct its uri",
    )
