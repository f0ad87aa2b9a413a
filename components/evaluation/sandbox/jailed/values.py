"""Plain data as tagged JSON, and back.

The decoder rebuilds exact built-in types only. An object of a program's own class arrives as a
`ForeignObject`, which equals only itself, so a program cannot pass by redefining equality. A
subclass of a built-in type travels as the data of its base type. Iterators, ranges and dictionary
values travel as foreign objects with their first items. Everything is a copy: identity and aliasing
are lost, and numbers of other libraries (`decimal`, `fractions`) do not compare equal.

Both sides use this module. The decoder is security critical: it runs in trusted processes on
hostile bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .frames import FrameError

_MAX_DEPTH = 100
_MAX_TEXT_CHARS = 1 << 12
"""Longest `str(value)` of a foreign object."""
_MAX_ITEMS = 1 << 16
"""Most items of an iterator in a foreign object; a longer iterator has none."""
_PLAIN_INT = 1 << 63
NUMERIC_DTYPES = frozenset(
    {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}
)
"""NumPy element types that are rebuilt. Others travel as Python objects: a dtype of a few bytes can
announce gigabytes."""


class ForeignObject:
    """Represents an object that is not plain data. It equals only itself."""

    def __init__(
        self, type_name: str, text: str, items: list[Any] | None, numbers: dict[str, Any]
    ) -> None:
        self.type_name = type_name
        self.text = text
        self.items = items
        self.numbers = numbers

    def __str__(self) -> str:
        return self.text

    def __iter__(self) -> Iterator[Any]:
        if self.items is None:
            raise TypeError(f"{self.type_name!r} object is not iterable")
        return iter(self.items)

    def __int__(self) -> int:
        return int(self._number("int"))

    def __float__(self) -> float:
        return float(self._number("float"))

    def _number(self, name: str) -> Any:
        if type(self.numbers.get(name)) not in (int, float):
            raise TypeError(f"{self.type_name!r} object is no {name}")
        return self.numbers[name]


def encode(value: Any, depth: int = 0) -> Any:
    """Return `value` as JSON data, or the description of a foreign object."""
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int and -_PLAIN_INT <= value < _PLAIN_INT:
        return value
    if depth >= _MAX_DEPTH:
        return {"t": "object", "type": kind.__name__, "str": ""}
    for convert in (_encode_numpy, _encode_number, _encode_container):
        encoded = convert(value, kind, depth + 1)
        if encoded is not None:
            return encoded
    return _encode_foreign(value, kind, depth + 1)


def _encode_number(value: Any, kind: type, _depth: int) -> Any:
    if issubclass(kind, int):
        exact = int.__int__(value)
        return exact if -_PLAIN_INT <= exact < _PLAIN_INT else {"t": "int", "v": hex(exact)}
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, complex):
        real = complex.__getattribute__(value, "real")
        imaginary = complex.__getattribute__(value, "imag")
        return {"t": "complex", "v": [real, imaginary]}
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, bytes):
        return {"t": "bytes", "v": bytes.hex(value)}
    if issubclass(kind, bytearray):
        return {"t": "bytearray", "v": bytearray.hex(value)}
    return None


def _encode_container(value: Any, kind: type, depth: int) -> Any:
    for base, tag in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset")):
        if issubclass(kind, base):
            return {"t": tag, "v": [encode(item, depth) for item in base.__iter__(value)]}
    if issubclass(kind, dict):
        pairs = [[encode(key, depth), encode(item, depth)] for key, item in dict.items(value)]
        return {"t": "dict", "v": pairs}
    if kind in (type({}.keys()), type({}.items())):
        return {"t": "set", "v": [encode(item, depth) for item in value]}
    return None


def _encode_numpy(value: Any, kind: type, depth: int) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    pandas = sys.modules.get("pandas")
    if pandas is not None and issubclass(kind, pandas.Series):
        array = _encode_numpy(value.to_numpy(), numpy.ndarray, depth)
        return array and {"t": "series", "v": array}
    if not issubclass(kind, numpy.generic | numpy.ndarray):
        return None
    element = element_type(value)
    if issubclass(kind, numpy.generic):
        if value.dtype.kind in "US":
            return encode(value.item(), depth)
        if element not in NUMERIC_DTYPES:
            return None
        return {"t": "scalar", "dtype": element, "v": encode(value.item(), depth)}
    if element == "":
        return None
    flat = [encode(item, depth) for item in value.ravel().tolist()]
    return {"t": "array", "dtype": element, "shape": list(value.shape), "v": flat}


def element_type(value: Any) -> str:
    """Return the element type of an array or of a NumPy scalar: numeric, objects, or empty."""
    element = f"{value.dtype.kind}{value.dtype.itemsize}"
    if element in NUMERIC_DTYPES:
        return element
    return "O" if value.dtype.kind in "USO" else ""


def build_array(dtype: str, shape: tuple[int, ...], flat: list[Any]) -> Any:
    """Build an array from untrusted parts.

    Raises:
        ValueError: the element type is not supported, or the shape does not fit.
    """
    array = empty_array(dtype, shape, len(flat))
    fill_array(array, flat)
    return array


def empty_array(dtype: str, shape: tuple[int, ...], size: int) -> Any:
    """Return an array of `size` elements to be filled; raises ValueError as `build_array`."""
    import numpy

    if dtype not in NUMERIC_DTYPES and dtype != "O":
        raise ValueError(f"element type {dtype!r}")
    array = numpy.empty(size, dtype=dtype).reshape(shape)
    if size == 0 and math.prod(side for side in array.shape if side) > _MAX_ITEMS:
        raise ValueError("an empty array that is a huge list of empty lists")
    return array


def fill_array(array: Any, flat: list[Any]) -> None:
    """Replace the elements of an array; raises ValueError if their number differs."""
    if len(flat) != array.size:
        raise ValueError(f"{len(flat)} elements for {array.size}")
    import numpy

    elements = numpy.empty(len(flat), dtype=array.dtype)
    if array.dtype == object:
        for index, item in enumerate(flat):  # NumPy would expand items that are lists
            elements[index] = item
    else:
        elements[:] = flat
    array[...] = elements.reshape(array.shape)


def _encode_foreign(value: Any, kind: type, depth: int) -> Any:
    description: dict[str, Any] = {"t": "object", "type": kind.__name__, "str": ""}
    try:
        description["str"] = str(value)[:_MAX_TEXT_CHARS]
        if hasattr(kind, "__int__"):
            description["int"] = encode(int(value), depth)
        if hasattr(kind, "__float__"):
            description["float"] = float(value)
        if hasattr(kind, "__iter__"):
            items = [item for item, _ in zip(value, range(_MAX_ITEMS + 1), strict=False)]
            if len(items) <= _MAX_ITEMS:
                description["items"] = [encode(item, depth) for item in items]
    except Exception as error:  # raised by the program's own methods
        description["failed"] = type(error).__name__
    return description


def decode(data: Any, *, hashed: bool = True) -> Any:
    """Rebuild the value from exact built-in (and NumPy) types.

    With `hashed=False` sets and dictionaries arrive as foreign objects in the sender's order: a
    sender can choose keys that all collide, which a process without a CPU limit must not hash.

    Raises:
        FrameError: `data` is not a result of `encode`.
    """
    try:
        return _Decoder(hashed).value(data)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        raise FrameError(f"not plain data: {type(error).__name__}: {error}") from None


class PandasSeries:
    """The array of a pandas Series: the trusted side does not import pandas."""

    def __init__(self, array: Any) -> None:
        self.array = array


class _Decoder:
    def __init__(self, hashed: bool) -> None:
        self.hashed = hashed
        self.depth = 0

    def value(self, data: Any) -> Any:
        if data is None or type(data) in (bool, int, float, str):
            return data
        if self.depth > 2 * _MAX_DEPTH:
            raise ValueError("nested too deeply")
        self.depth += 1
        try:
            return _BUILDERS[data["t"]](self, data)
        finally:
            self.depth -= 1

    def _items(self, items: Any) -> list[Any]:
        if type(items) is not list:
            raise TypeError("items must be a list")
        return [self.value(item) for item in items]

    def _int(self, data: Any) -> int:
        return int(data["v"], 16)

    def _complex(self, data: Any) -> complex:
        real, imaginary = data["v"]
        return complex(float(real), float(imaginary))

    def _bytes(self, data: Any) -> bytes:
        return bytes.fromhex(data["v"])

    def _bytearray(self, data: Any) -> bytearray:
        return bytearray.fromhex(data["v"])

    def _list(self, data: Any) -> list[Any]:
        return self._items(data["v"])

    def _tuple(self, data: Any) -> tuple[Any, ...]:
        return tuple(self._items(data["v"]))

    def _set(self, data: Any) -> Any:
        items = self._items(data["v"])
        return set(items) if self.hashed else ForeignObject("set", "", items, {})

    def _frozenset(self, data: Any) -> Any:
        items = self._items(data["v"])
        return frozenset(items) if self.hashed else ForeignObject("frozenset", "", items, {})

    def _dict(self, data: Any) -> Any:
        pairs = [(self.value(key), self.value(item)) for key, item in data["v"]]
        return (
            dict(pairs) if self.hashed else ForeignObject("dict", "", [key for key, _ in pairs], {})
        )

    def _array(self, data: Any) -> Any:
        return build_array(data["dtype"], tuple(data["shape"]), self._items(data["v"]))

    def _scalar(self, data: Any) -> Any:
        return self._array({"dtype": data["dtype"], "shape": [1], "v": [data["v"]]})[0]

    def _series(self, data: Any) -> PandasSeries:
        return PandasSeries(self.value(data["v"]))

    def _object(self, data: Any) -> ForeignObject:
        items = self._items(data["items"]) if "items" in data else None
        numbers = {name: self.value(data[name]) for name in ("int", "float") if name in data}
        return ForeignObject(str(data["type"]), str(data["str"]), items, numbers)


_BUILDERS: dict[str, Callable[[_Decoder, Any], Any]] = {
    "int": _Decoder._int,
    "complex": _Decoder._complex,
    "bytes": _Decoder._bytes,
    "bytearray": _Decoder._bytearray,
    "list": _Decoder._list,
    "tuple": _Decoder._tuple,
    "set": _Decoder._set,
    "frozenset": _Decoder._frozenset,
    "dict": _Decoder._dict,
    "array": _Decoder._array,
    "scalar": _Decoder._scalar,
    "series": _Decoder._series,
    "object": _Decoder._object,
}
"""All tags. Tags from outside are looked up only here."""
