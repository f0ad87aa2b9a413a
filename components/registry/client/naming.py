"""Names and values in the form that MLflow accepts. Does not import MLflow.

Changes are visible: unsupported characters are replaced, long values are marked as cut, and two
names that would become equal are an error. Limits: `mlflow.utils.validation` (3.17).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue

T = TypeVar("T")

MAX_PARAM_CHARACTERS = 6000
MAX_PARAMS_PER_BATCH = 100
MAX_METRICS_PER_BATCH = 1000

_UNSUPPORTED = re.compile(r"[^\w\-. :/]", re.ASCII)


def mlflow_name(name: str) -> str:
    """Return a metric, parameter or tag name of letters, digits and `_-. :/`: `C++` -> `Cpp`."""
    return _UNSUPPORTED.sub("_", name.replace("+", "p").replace("#", "sharp"))


def with_mlflow_names(values: Mapping[str, T]) -> dict[str, T]:
    """Return the values under `mlflow_name` of their names.

    Raises:
        ValueError: two names become equal.
    """
    result = {mlflow_name(name): value for name, value in values.items()}
    if len(result) < len(values):
        raise ValueError(f"some of these names are equal in MLflow: {sorted(values)}")
    return result


def flatten(values: Mapping[str, Any], separator: str, prefix: str = "") -> dict[str, JsonValue]:
    """Return nested mappings as a flat mapping with joined names; lists stay values."""
    flat: dict[str, JsonValue] = {}
    for name, value in values.items():
        path = f"{prefix}{separator}{name}" if prefix else name
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, separator, path))
        else:
            flat[path] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return flat


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numeric leaves of nested mappings by path (`mono/Python`), without booleans."""
    return {
        name: float(value)
        for name, value in flatten(values, "/").items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def as_parameter(value: JsonValue) -> str:
    """Return a value as text of at most `MAX_PARAM_CHARACTERS`; a cut is marked in the text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= MAX_PARAM_CHARACTERS:
        return text
    return f"{text[: MAX_PARAM_CHARACTERS - 60]}... [cut: {len(text)} characters]"


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
