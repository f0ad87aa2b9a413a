"""The user's DeepSpeed options of a run: read, checked, and merged into its configuration.

Names, types and conflicts are checked before a run; DeepSpeed checks the ranges of values when the
ranks start.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components.core.config import quote_value
from components.core.errors import ConfigError, JsonError
from components.core.extras import Extra
from components.core.files import read_json
from components.training.deepspeed_options import OPTIONS, Decided, Refused

Options = dict[str, JsonValue]

FIELD = "training.deepspeed_config"
_MAX_QUOTED_CHARS = 80
"""Of a value in an error (assumption)."""
_MONITOR_EXTRAS: dict[str, Extra] = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "comet": "comet",
}
_TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
}


def read_options(source: Any) -> Options:
    """Return a user's options without those that are "auto" or null.

    Args:
        source: the options as a mapping, or the path of a JSON file, relative to the current
            directory.

    Raises:
        ConfigError: the file cannot be read or contains no JSON object; or options are unknown,
            refused or of the wrong type. The error lists all of them.
    """
    name = FIELD
    if isinstance(source, str):
        name = source
        source = _read_file(source)
    if not isinstance(source, dict):
        raise ConfigError(
            f"{name} is {_quote(source)}",
            expected="a DeepSpeed configuration: a JSON object",
            fix=f"change {name}",
        )
    options: Options = _without_auto(source)
    problems = list(_problems(options, OPTIONS, ""))
    if problems:
        raise ConfigError(
            f"{name}: {'; '.join(problems)}",
            expected="the options of DeepSpeed that docs/training.md lists",
            fix="correct or remove them",
        )
    return options


def _read_file(path: str) -> Any:
    try:
        return read_json(Path(path))
    except OSError as error:
        raise ConfigError(
            f"{FIELD} is {path!r}, which cannot be read: {error.strerror}",
            expected="a DeepSpeed configuration as JSON: the path of a file, or an object",
            fix="correct the path; it is relative to the current directory",
        ) from error
    except JsonError as error:  # Pydantic would take it for an error of its own.
        raise ConfigError(error.got, expected=error.expected, fix=error.fix) from error


def requested_precision(options: Options) -> str | None:
    """Return the precision that `fp16.enabled` and `bf16.enabled` select; None for neither.

    Raises:
        ConfigError: both are enabled.
    """
    is_fp16 = _lookup(options, ("fp16", "enabled"))
    is_bf16 = _lookup(options, ("bf16", "enabled"))
    if is_fp16 and is_bf16:
        raise ConfigError(
            f"{FIELD} enables fp16 and bf16",
            expected="at most one of them",
            fix='set "enabled" of one of them to false',
        )
    if is_fp16:
        return "fp16"
    if is_bf16:
        return "bf16"
    return "fp32" if is_bf16 is False else None


def required_extras(options: Options) -> Iterator[tuple[str, Extra]]:
    """Yield the enabled monitors that need an extra, with their extra."""
    for monitor, extra in _MONITOR_EXTRAS.items():
        if _lookup(options, (monitor, "enabled")):
            yield monitor, extra


def check_conflicts(options: Options, decided: Mapping[str, Any]) -> None:
    """Check that options which the run decides are equal to its values.

    Args:
        decided: the values of the run, in the shape of a DeepSpeed configuration.

    Raises:
        ConfigError: they are not; the error lists all of them, with the fields to change.
    """
    conflicts = []
    for path, specification, value in _leaves(options, OPTIONS, ()):
        if not isinstance(specification, Decided):
            continue
        run_value = _lookup(decided, path)
        if run_value is None:
            run_value = specification.value
        if value != run_value:
            name = ".".join(path)
            conflicts.append(
                f"{name} is {_quote(value)} instead of {_quote(run_value)} ({specification.fix})"
            )
    if conflicts:
        raise ConfigError(
            f"{FIELD} contradicts the run: {'; '.join(conflicts)}",
            expected='the values of the run, "auto", or no such options',
            fix="remove these options, or change the fields in parentheses",
        )


def merge_options(config: dict[str, Any], options: Options) -> dict[str, Any]:
    """Return the configuration of a stage with a user's options merged into it."""
    merged = dict(config)
    for path, specification, value in _leaves(options, OPTIONS, ()):
        if isinstance(specification, Decided) or not _is_used(path, config):
            continue
        section = merged
        for name in path[:-1]:
            section[name] = dict(section.get(name, {}))
            section = section[name]
        section[path[-1]] = int(value) if specification is int else value
    return merged


def _is_used(path: tuple[str, ...], config: dict[str, Any]) -> bool:
    """Return false for an option of offloading or fp16 that is off."""
    if path[0] == "fp16":
        return "fp16" in config
    if path[0] == "zero_optimization" and path[1].startswith("offload_"):
        return path[1] in config["zero_optimization"]
    return True


def _without_auto(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    items = {name: _without_auto(item) for name, item in value.items()}
    return {name: item for name, item in items.items() if item not in ("auto", None, {})}


def _problems(
    options: Mapping[str, Any], specifications: Mapping[str, Any], prefix: str
) -> Iterator[str]:
    for name, value in options.items():
        path = f"{prefix}{name}"
        if name not in specifications:
            closest = difflib.get_close_matches(name, specifications, n=1)
            suggestion = f"; did you mean {prefix}{closest[0]}?" if closest else ""
            yield f"{path} is no option of DeepSpeed{suggestion}"
            continue
        specification = specifications[name]
        if isinstance(specification, Refused):
            yield f"{path} is not supported: {specification.reason}"
        elif isinstance(specification, dict):
            if isinstance(value, dict):
                yield from _problems(value, specification, f"{path}.")
            else:
                yield f"{path} is {_quote(value)} instead of an object"
        elif isinstance(specification, type) and not _has_type(value, specification):
            yield f"{path} is {_quote(value)} instead of {_TYPE_NAMES[specification]}"


def _has_type(value: Any, expected: type) -> bool:
    if expected is int:  # Sizes are often written as 5e8.
        return not isinstance(value, bool) and isinstance(value, int | float) and value % 1 == 0
    if expected is float:
        return not isinstance(value, bool) and isinstance(value, int | float)
    return isinstance(value, expected)


def _leaves(
    options: Mapping[str, Any], specifications: Mapping[str, Any], parents: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield path, specification and value of every option."""
    for name, value in options.items():
        path = (*parents, name)
        specification = specifications[name]
        if isinstance(specification, dict):
            yield from _leaves(value, specification, path)
        else:
            yield path, specification, value


def _lookup(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(values, Mapping):
            return None
        values = values.get(name)
    return values


def _quote(value: Any) -> str:
    return quote_value(value, _MAX_QUOTED_CHARS)
