"""The types that both processes of a test have: values that cross as copies, and containers.

A value of an immutable type crosses as its parts, and an equal value is built from them. A
container crosses as its parts, too, but the container of the other process is filled in place.
"""

from __future__ import annotations

import datetime
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple

from . import values
from .frames import NotSendable

Parts = list[Any]


class ValueType(NamedTuple):
    """How values of an immutable type cross."""

    tag: str
    parts: Callable[[Any], Iterable[Any]]
    build: Callable[..., Any]


class ContainerType(NamedTuple):
    """How containers cross. The functions ignore the methods of a subclass."""

    tag: str
    type: Any
    parts: Callable[[Any], Parts]
    fill: Callable[[Any, Parts], None]
    """Replaces the contents."""
    create: Callable[[type, Parts], Any]
    """Returns a container of this type or a subclass; the parts are not decoded."""


def _time_parts(time: Any) -> tuple[Any, ...]:
    if time.tzinfo is not None and value_type(type(time.tzinfo)) is None:
        raise NotSendable(f"{type(time.tzinfo).__name__}.tzinfo")
    return (time.hour, time.minute, time.second, time.microsecond, time.tzinfo, time.fold)


def _build_date(year: int, month: int, day: int) -> datetime.date:
    return datetime.date(year, month, day)  # which also accepts bytes


def _build_datetime(year: int, month: int, day: int, *parts: Any) -> datetime.datetime:
    *time, fold = parts
    return datetime.datetime(year, month, day, *time, fold=fold)  # noqa: DTZ001  as in the program


def _build_time(*parts: Any) -> datetime.time:
    *time, fold = parts
    return datetime.time(*time, fold=fold)


def _build_decimal(text: str) -> Any:
    from decimal import Decimal

    return Decimal(text)


def _build_fraction(numerator: int, denominator: int) -> Any:
    from fractions import Fraction

    return Fraction(numerator, denominator)


def _zone_parts(zone: Any) -> list[str]:
    if zone.key is None:
        raise NotSendable("ZoneInfo.key")
    return [zone.key]


def _build_zone(key: str) -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo(key)


def _build_values(*items: Any) -> Any:
    return dict(enumerate(items)).values()


def _scalar_parts(value: Any) -> tuple[str, Any]:
    dtype = values.element_type(value)
    if not dtype:
        raise NotSendable(f"{value.dtype.name}.item")
    return dtype, value.item()


def _build_scalar(dtype: str, item: Any) -> Any:
    if dtype == "O":
        import numpy

        return numpy.str_(item)
    return values.build_array(dtype, (1,), [item])[0]


def _pairs(items: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    iterator = iter(items)
    return zip(iterator, iterator, strict=True)


VALUES: dict[str, ValueType] = {
    entry.tag: entry
    for entry in (
        ValueType("tuple", tuple.__iter__, lambda *items: items),
        ValueType("frozenset", frozenset.__iter__, lambda *items: frozenset(items)),
        ValueType("int", lambda value: [hex(value)], lambda text: int(text, 16)),
        ValueType("complex", lambda value: (value.real, value.imag), complex),
        ValueType("bytes", lambda value: [value.hex()], bytes.fromhex),
        ValueType("range", lambda value: (value.start, value.stop, value.step), range),
        ValueType("slice", lambda value: (value.start, value.stop, value.step), slice),
        ValueType("dict_keys", iter, lambda *keys: dict.fromkeys(keys).keys()),
        ValueType("dict_values", iter, _build_values),
        ValueType("dict_items", chain.from_iterable, lambda *flat: dict(_pairs(flat)).items()),
        ValueType("Decimal", lambda value: [str(value)], _build_decimal),
        ValueType("Fraction", lambda value: (value.numerator, value.denominator), _build_fraction),
        ValueType(
            "date",
            lambda value: (value.year, value.month, value.day),
            _build_date,
        ),
        ValueType("time", _time_parts, _build_time),
        ValueType(
            "datetime",
            lambda value: (value.year, value.month, value.day, *_time_parts(value)),
            _build_datetime,
        ),
        ValueType(
            "timedelta",
            lambda value: (value.days, value.seconds, value.microseconds),
            datetime.timedelta,
        ),
        ValueType("timezone", lambda value: value.__getinitargs__(), datetime.timezone),
        ValueType("ZoneInfo", _zone_parts, _build_zone),
        ValueType("scalar", _scalar_parts, _build_scalar),
    )
}
"""The types of values by tag; strings, floats, Booleans, None and short integers are JSON."""

_BUILTIN_TYPES: tuple[Any, ...] = (
    *(tuple, frozenset, int, complex, bytes, range, slice),
    *(type({}.keys()), type({}.values()), type({}.items())),
    *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone),
)
_BUILTIN_VALUES = {kind: VALUES[kind.__name__] for kind in _BUILTIN_TYPES}
_LIBRARY_VALUES = {"Decimal": "decimal", "Fraction": "fractions", "ZoneInfo": "zoneinfo"}
"""Types by name, of modules that may not be imported."""


def value_type(kind: type) -> ValueType | None:
    """Return how values of exactly this type cross; None if they do not."""
    if (builtin := _BUILTIN_VALUES.get(kind)) is not None:
        return builtin
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, (numpy.number, numpy.bool_, numpy.str_)):
        return VALUES["scalar"] if numpy.dtype(kind).type is kind else None
    module = _LIBRARY_VALUES.get(kind.__name__)
    if module and getattr(sys.modules.get(module), kind.__name__, None) is kind:
        return VALUES[kind.__name__]
    return None


def _dictionary(kind: Any) -> ContainerType:
    def parts(value: Any) -> Parts:
        return list(chain.from_iterable(dict.items(value)))

    def fill(value: Any, flat: Parts) -> None:
        kind.clear(value)
        for key, item in _pairs(flat):
            kind.__setitem__(value, key, item)

    return ContainerType(kind.__name__, kind, parts, fill, lambda cls, _: kind.__new__(cls))


def _fill_set(value: Any, parts: Parts) -> None:
    items = set(parts)  # first: hashing may fail
    set.clear(value)
    set.update(value, items)


def _fill_deque(value: Any, parts: Parts) -> None:
    maximum, *items = parts
    deque.__init__(value, items, maximum)


_DEFAULT_FACTORY: Any = vars(defaultdict)["default_factory"]


def _fill_defaultdict(value: Any, parts: Parts) -> None:
    factory, *flat = parts
    defaultdict.__init__(value, factory)
    _dictionary(dict).fill(value, flat)


def _array_parts(array: Any) -> Parts:
    dtype = values.element_type(array)
    if not dtype:
        raise NotSendable(f"ndarray.{array.dtype.kind}")
    return [dtype, array.ndim, *array.shape, *array.ravel().tolist()]


def _create_array(_: type, parts: Parts) -> Any:
    dtype, num_axes, *rest = parts
    return values.empty_array(dtype, tuple(rest[:num_axes]), len(rest) - num_axes)


def _fill_array(array: Any, parts: Parts) -> None:
    values.fill_array(array, parts[2 + parts[1] :])


CONTAINERS: dict[str, ContainerType] = {
    kind.tag: kind
    for kind in (
        ContainerType(
            "list",
            list,
            list.copy,
            lambda value, parts: list.__setitem__(value, slice(None), parts),
            lambda kind, _: list.__new__(kind),
        ),
        ContainerType(
            "set",
            set,
            lambda value: [*set.__iter__(value)],
            _fill_set,
            lambda kind, _: set.__new__(kind),
        ),
        ContainerType(
            "bytearray",
            bytearray,
            lambda value: [bytearray.hex(value)],
            lambda value, parts: bytearray.__setitem__(value, slice(None), bytes.fromhex(parts[0])),
            lambda kind, _: bytearray.__new__(kind),
        ),
        ContainerType(
            "deque",
            deque,
            lambda value: [value.maxlen, *deque.__iter__(value)],
            _fill_deque,
            lambda kind, _: deque.__new__(kind),
        ),
        ContainerType(
            "defaultdict",
            defaultdict,
            lambda value: [
                _DEFAULT_FACTORY.__get__(value),
                *chain.from_iterable(dict.items(value)),
            ],
            _fill_defaultdict,
            lambda kind, _: defaultdict.__new__(kind),
        ),
        ContainerType("ndarray", object, _array_parts, _fill_array, _create_array),
        _dictionary(dict),
        _dictionary(OrderedDict),
        _dictionary(Counter),
    )
}
"""The types of containers by tag. (NumPy may not be imported, so its type is not named.)"""

_BY_TYPE = {kind.type: kind for kind in CONTAINERS.values() if kind.tag != "ndarray"}
_SIMPLE_TYPES = frozenset({type(None), bool, str, float, *_BY_TYPE})


def container_type(kind: type) -> ContainerType | None:
    """Return how containers of this type, or of its base type, cross; None for other types."""
    for base in kind.__mro__:
        if base in _BY_TYPE:
            return _BY_TYPE[base]
    return CONTAINERS["ndarray"] if _is_array(kind) else None


def _is_array(kind: type) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and kind is numpy.ndarray


def is_plain(kind: type) -> bool:
    """Whether objects of exactly this type cross as values or as containers."""
    return kind in _SIMPLE_TYPES or value_type(kind) is not None or _is_array(kind)
