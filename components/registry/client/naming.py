"""Names and values in the form that MLflow accepts. No MLflow is needed for it.

Design decision: what MLflow would refuse or cut silently is changed here visibly, and two names that would become one are
an error. Limits are those of `mlflow.utils.validation` (3.17).
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

_REFUSED = re.compile(r"[^\w\-. :/]", re.ASCII)


def mlflow_name(name: str) -> str:
    """A name of letters, digits and `_-. :/`, for metrics, parameters and tags: `C++` becomes `Cpp`."""
    return _REFUSED.sub("_", name.replace("+", "p").replace("#", "sharp"))


def renamed(values: Mapping[str, T]) -> dict[str, T]:
    """The same values under names that MLflow accepts.

    Raises:
        ValueError: two different names become the same one.
    """
    result = {mlflow_name(name): value for name, value in values.items()}
    if len(result) < len(values):
        raise ValueError(f"some of these names are the same to MLflow: {sorted(values)}")
    return result


def flatten(values: Mapping[str, Any], separator: str, prefix: str = "") -> dict[str, JsonValue]:
    """Nested mappings as one level, names joined with `separator`; lists stay values."""
    flat: dict[str, JsonValue] = {}
    for name, value in values.items():
        path = f"{prefix}{separator}{name}" if prefix else name
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, separator, path))
        else:
            flat[path] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return flat


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numeric leaves of nested mappings, under names like `mono/Python`. True and False are no numbers."""
    return {
        name: float(value)
        for name, value in flatten(values, "/").items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def as_parameter(value: JsonValue) -> str:
    """A value as text, cut where it is longer than MLflow stores, with the cut said."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= MAX_PARAM_CHARACTERS:
        return text
    return f"{text[: MAX_PARAM_CHARACTERS - 60]}... [cut: {len(text)} characters]"


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
