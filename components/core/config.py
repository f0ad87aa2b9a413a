"""Base class of every config: frozen, keyword-only, strictly typed, without unknown fields.

Pydantic validates, so Prefect renders the same models as the form of a deployment. This module adds
error messages with the full path of the field, the value, the expected value and the closest known
name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Strict,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from components.core.errors import ConfigError
from components.core.files import parse_json
from components.core.network import redact_credentials

T = TypeVar("T")

ListOrTuple = Annotated[tuple[T, ...], Strict(False)]
"""A tuple that also accepts a list, because JSON has no tuples."""

INT64_MAX = 2**63 - 1
"""Largest integer of a torch tensor, a numpy array and a column of a table."""


def _require_seed(seed: int) -> int:
    if not 0 <= seed <= INT64_MAX:
        raise ValueError(f"an integer from 0 to {INT64_MAX}")
    return seed


Seed = Annotated[
    int,
    AfterValidator(_require_seed),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": INT64_MAX}),
]
"""A seed that every random generator accepts."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
NAME_RULE = "lower-case letters, digits, '.', '_' and '-', a letter or digit first"
"""The names of recipes, corpora and stages, after which folders and models are named."""


def is_name(text: str) -> bool:
    """Return whether a text follows `NAME_RULE`."""
    return _NAME.fullmatch(text) is not None


SCHEMA_VERSIONS = "$schema_versions"
"""Key of `Config.identity` for schema versions. It cannot be the name of a field."""

_MAX_QUOTED_CHARS = 300
"""Of an invalid value in an error: some lines of a terminal (assumption)."""


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

    schema_version: ClassVar[int] = 1
    """Raise it when the meaning of a default, or of the whole class, changes. Every hash of a
    config that contains an instance of the class changes with it."""

    @model_validator(mode="after")
    def _check_integers(self) -> Self:
        """Refuse integers that would overflow hours later, in a tensor or a table."""
        for name, value in self:
            if any(abs(number) > INT64_MAX for number in _integers(value)):
                raise ValueError(f"{name} must be at most {INT64_MAX:,} in size")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a config from plain values, e.g. a JSON document.

        Raises:
            ConfigError: the first field that is unknown, missing or of the wrong type, with its
                full path.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _explain(cls, error) from None

    def replace(self, **values: Any) -> Self:
        """Return a validated copy with other values."""
        return self.parse({**self.model_dump(), **values})

    def reset(self, *names: str) -> Self:
        """Return a copy in which these fields have their defaults, so that `identity` omits
        them."""
        values = self.model_dump()
        for name in names:
            del values[name]
        return self.parse(values)

    def identity(self) -> dict[str, Any]:
        """Return the values that a hash of this config covers, with nested configs and tuples as
        dicts and lists.

        These are the fields without a default, the fields whose value differs from its default in
        value or type, and the discriminators of unions (`kind: Literal["a"] = "a"`). So a new field
        with a default changes no existing hash. Schema versions above 1 of all configs inside, also
        of those in omitted fields, are listed by class under `SCHEMA_VERSIONS`.
        """
        fields, defaults = type(self).model_fields, default_values(type(self))
        values = {
            name: _identity(value)
            for name, value in self
            if _counts(fields[name], value, defaults.get(name))
        }
        versions = {
            type(config).__name__: config.schema_version
            for config in _configs(self)
            if config.schema_version > 1
        }
        return values | ({SCHEMA_VERSIONS: versions} if versions else {})

    def override(self, assignments: Iterable[str]) -> Self:
        """Return a copy with `path.to.field=value` assignments applied; values are JSON, bare words
        are strings.

        Raises:
            ConfigError: no `=`, an unknown field (the error names the closest field), or a value of
                the wrong type.
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


def all_values(value: Any) -> Any:
    """Return a config, or JSON values that contain configs, as plain JSON values with all
    defaults."""
    return to_jsonable_python(value)


@cache
def default_values(owner: type[Config]) -> dict[str, Any]:
    """Return the default of every field that has one, validated: `x: float = 0` has the default
    0.0."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in owner.model_fields.items()
        if not field.is_required()
    }
    settings = ConfigDict(**{**owner.model_config, "use_attribute_docstrings": False})
    return dict(create_model(owner.__name__, __config__=settings, **fields)())


def _identity(value: Any) -> Any:
    if isinstance(value, Config):
        identity = value.identity()
        identity.pop(SCHEMA_VERSIONS, None)  # The outermost config lists the versions of all.
        return identity
    if isinstance(value, Mapping):
        return {key: _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    return value


def _counts(field: FieldInfo, value: Any, default: Any) -> bool:
    is_discriminator = (
        get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    )
    return field.is_required() or is_discriminator or not _is_same(value, default)


def _is_same(value: Any, default: Any) -> bool:
    """Compare value and type: 1, 1.0 and True are three values, and so are 0.0 and -0.0."""
    if type(value) is not type(default):
        return False
    if isinstance(value, Config):
        return all(_is_same(item, getattr(default, name)) for name, item in value)
    if isinstance(value, Mapping):
        return value.keys() == default.keys() and all(
            _is_same(item, default[key]) for key, item in value.items()
        )
    if isinstance(value, list | tuple):
        return len(value) == len(default) and all(map(_is_same, value, default))
    return repr(value) == repr(default)


def _integers(value: Any) -> Iterator[int]:
    """Yield the integers of a value, except those of configs, which check their own."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _integers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _integers(item)


def _configs(value: Any) -> Iterator[Config]:
    """Yield every config inside a value, itself included."""
    if isinstance(value, Config):
        yield value
        value = dict(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _configs(item)


def _literal(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _assign(owner: type[BaseModel], values: dict[str, Any], path: str, value: Any) -> None:
    names = path.split(".")
    parent: Any = None
    node: Any = values
    annotation: Any = owner
    for depth, name in enumerate(names, start=1):
        field_names = list(node) if isinstance(node, dict) else []
        value_annotation = _annotation_of(annotation, name)
        if name not in field_names:
            is_last = depth == len(names)
            if not (_is_mapping(annotation) and (is_last or _is_mapping(value_annotation))):
                raise _unknown(owner.__name__, ".".join(names[:depth]), field_names)
            if not is_last:
                node[name] = {}
        parent, node = node, node.get(name)
        annotation = value_annotation
    parent[names[-1]] = value


def _annotation_of(owner: Any, name: str) -> Any:
    """Return the type of a field of a config, or of the values of a mapping."""
    if _is_mapping(owner):
        return _unwrap(get_args(owner)[1])
    field = getattr(owner, "model_fields", {}).get(name)
    return _unwrap(field.annotation) if field else None


def _unwrap(annotation: Any) -> Any:
    """Return the type inside of `Annotated[T, ...]` and `T | None`."""
    if get_origin(annotation) is Annotated:
        return _unwrap(get_args(annotation)[0])
    members = [item for item in get_args(annotation) if item is not NoneType]
    if get_origin(annotation) in (Union, UnionType) and len(members) == 1:
        return _unwrap(members[0])
    return annotation


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def _unknown(owner: str, path: str, field_names: Iterable[str]) -> ConfigError:
    *parents, name = path.split(".")
    field_names = list(field_names)
    expected = f"one of {', '.join(field_names)}"
    if not field_names:
        expected = f"a field of {owner}; {'.'.join(parents)!r} has none"
    fix = "see every field with `codegen recipe show starter`"
    if closest := difflib.get_close_matches(name, field_names, n=1):
        fix = f"did you mean {'.'.join([*parents, closest[0]])!r}?"
    return ConfigError(f"{owner} has no field {path!r}", expected=expected, fix=fix)


_KEY = ".[key]"
"""End of Pydantic's path of an invalid key."""
_TYPE_NAMES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a JSON object",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "model_type": "a JSON object",
    "string_type": "a text",
    "tuple_type": "a JSON list",
}
"""Expected values by type of Pydantic's error, in the terms of those who write `--set`."""


def _explain(owner: type[BaseModel], error: ValidationError) -> ConfigError:
    errors = error.errors(include_url=False)
    # A misspelt field may also be reported as a missing field.
    unknown = (item for item in errors if item["type"] == "extra_forbidden")
    first = next(unknown, errors[0])
    path = ".".join(map(str, first["loc"]))
    subject = f"{owner.__name__}: {path or 'the config'}"
    if first["type"] == "extra_forbidden":
        return _unknown(owner.__name__, path, _fields_at(owner, first["loc"][:-1]))
    rule = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        return _broken_rule(subject, rule, first["input"])
    if first["type"] == "missing":
        return ConfigError(f"{subject} is missing", expected="a value", fix=f"set {path or 'it'}")
    expected = _TYPE_NAMES.get(first["type"]) or rule.removeprefix("Input should be ")
    got = f"{subject} is {quote_value(first['input'])}"
    if path.endswith(_KEY):
        path = path.removesuffix(_KEY)
        got = f"{owner.__name__}: {path} is an unknown key"
    return ConfigError(got, expected=expected, fix=f"change {path or 'it'}")


def quote_value(value: Any, max_chars: int = _MAX_QUOTED_CHARS) -> str:
    """Return an invalid value for an error: cut, and without credentials."""
    text = redact_credentials(repr(value))
    return text if len(text) <= max_chars else f"{text[:max_chars]}..."


def _broken_rule(subject: str, rule: str, values: Mapping[str, Any]) -> ConfigError:
    """Return the error of a rule over several fields, with the values of the fields that the rule
    names."""
    names = [name for name in values if re.search(rf"\b{name}\b", rule)] or list(values)
    if not names:
        return ConfigError(f"{subject} has no fields", expected=rule, fix="set such a field")
    got = ", ".join(f"{name} {quote_value(values[name])}" for name in names)
    return ConfigError(f"{subject} has {got}", expected=rule, fix=f"change {' or '.join(names)}")


def _fields_at(owner: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the fields of the config at a location, if there is a config."""
    config: type[BaseModel] | None = owner
    for name in loc:
        if config is None:
            return []
        if field := config.model_fields.get(str(name)):
            config = _config_in(field.annotation)  # Else: a key of a mapping or an index of a list.
    return list(config.model_fields) if config else []


def _config_in(annotation: Any) -> type[BaseModel] | None:
    """Return the config class in an annotation such as `dict[str, list[Source]] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    classes = map(_config_in, get_args(annotation))
    return next(filter(None, classes), None)
