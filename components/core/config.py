"""The base of every configuration: frozen, keyword-only, strictly typed, no unknown fields.

Pydantic does the checking, so Prefect can render the same models as the form of a deployment. What is added here are
messages a person can act on: the full path of the field, what was got, what was expected, and the nearest known name.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from components.core.errors import ConfigError

T = TypeVar("T")

ListOrTuple = Annotated[tuple[T, ...], Strict(False)]
"""A tuple that may also be given as a list, since JSON has no tuples."""


class Config(BaseModel):
    """A frozen record of settings. `"200"` is not 200: values are strictly typed."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values, e.g. a JSON document.

        Raises:
            ConfigError: the first field that is unknown, missing or of the wrong type, with its full path.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _explain(cls, error) from None

    def replace(self, **values: Any) -> Self:
        """A copy with other values, checked like the first one."""
        return self.parse({**self.model_dump(), **values})

    def override(self, assignments: Iterable[str]) -> Self:
        """A copy with `path.to.field=value` assignments applied; values are JSON, bare words are strings.

        Raises:
            ConfigError: no `=`, an unknown field (the nearest name is given), or a value of the wrong type.
        """
        values = self.model_dump()
        for assignment in assignments:
            path, separator, text = assignment.partition("=")
            if not separator:
                raise ConfigError(
                    f"the override {assignment!r} has no '='",
                    expected="path.to.field=value",
                    fix=f"write {path}=VALUE",
                )
            _assign(type(self), values, path.strip(), _literal(text.strip()))
        return self.parse(values)


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(owner: type[BaseModel], values: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    here: Any = values
    for depth, name in enumerate([*parents, leaf]):
        if not isinstance(here, dict) or name not in here:
            known = list(here) if isinstance(here, dict) else []
            raise _unknown(owner.__name__, ".".join([*parents, leaf][: depth + 1]), known)
        if name is not leaf or depth < len(parents):
            here = here[name]
    here[leaf] = value


def _unknown(owner: str, path: str, known: Iterable[str]) -> ConfigError:
    *parents, name = path.split(".")
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    near = ".".join([*parents, nearest[0]]) if nearest else None
    return ConfigError(
        f"{owner} has no field {path!r}",
        expected=f"one of {', '.join(known)}"
        if known
        else f"a field of {owner}; {'.'.join(parents)!r} has none",
        fix=f"did you mean {near!r}?"
        if near
        else "see every field with `codegen recipe show starter`",
    )


def _explain(owner: type[BaseModel], error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(owner.__name__, path, _fields_at(owner, first["loc"][:-1]))
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        return _broken_rule(
            f"{owner.__name__}: {path or 'the whole'}",
            first["msg"].removeprefix("Value error, "),
            first["input"],
        )
    got = "no value" if first["type"] == "missing" else repr(first["input"])
    return ConfigError(
        f"{owner.__name__}: {path or 'the whole'} is {got}",
        expected=first["msg"],
        fix=f"mend {path or 'it'}",
    )


def _broken_rule(where: str, rule: str, given: Mapping[str, Any]) -> ConfigError:
    """A rule over several fields: of all that was given, those that it names."""
    named = [name for name in given if re.search(rf"\b{name}\b", rule)] or list(given)
    got = ", ".join(f"{name} {given[name]!r}" for name in named)
    return ConfigError(f"{where} has {got}", expected=rule, fix=f"mend {' or '.join(named)}")


def _fields_at(owner: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    here: Any = owner
    for part in loc:
        field = getattr(here, "model_fields", {}).get(part)
        here = field.annotation if field else None
    return list(getattr(here, "model_fields", {}))
