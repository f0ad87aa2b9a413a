"""Plain data as tagged JSON, and back.

One decision: what arrives is rebuilt from exact built-in types only, whatever was sent. An object of a class of its own
arrives as a `Foreign`, which equals nothing but itself, so a program cannot pass by defining what equality means. A
subclass of a built-in type travels as the data that its base type sees. Iterators, ranges and dictionary values travel as
foreign objects with their first items. Not covered: identity and aliasing (everything is a copy), and equality between
numbers of other libraries (`decimal`, `fractions`).

Used on both sides of the wall; the decoder is the side that matters: it runs in trusted processes on hostile bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .frames import FrameError

_MAX_DEPTH = 100
_MAX_TEXT = 1 << 16
"""Characters of `str(value)` that a foreign object carries at most."""
_MAX_ITEMS = 1 << 16
"""Items of an iterator that a foreign object carries at most; a longer one carries none."""
_PLAIN_INT = 1 << 63
_NUMERIC = frozenset(
    {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}
)
"""Element types of NumPy that are rebuilt; all others travel as Python objects: a few bytes could announce gigabytes."""


class Foreign:
    """What stands for an object that is no plain data. It equals only itself."""

    def __init__(
        self, type_name: str, text: str, items: list[Any] | None, numbers: dict[str, Any]
    ) -> None:
        self.type_name, self.text, self.items, self.numbers = type_name, text, items, numbers

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
    """`value` as JSON data; what cannot be told as plain data becomes a description of a foreign object."""
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
        return {
            "t": "complex",
            "v": [complex.__getattribute__(value, "real"), complex.__getattribute__(value, "imag")],
        }
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
        return {
            "t": "dict",
            "v": [[encode(key, depth), encode(item, depth)] for key, item in dict.items(value)],
        }
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
    element = f"{value.dtype.kind}{value.dtype.itemsize}"
    if issubclass(kind, numpy.generic):
        if value.dtype.kind in "US":
            return encode(value.item(), depth)
        return (
            {"t": "scalar", "dtype": element, "v": encode(value.item(), depth)}
            if element in _NUMERIC
            else None
        )
    if element not in _NUMERIC and value.dtype.kind not in "USO":
        return None
    flat = [encode(item, depth) for item in value.ravel().tolist()]
    return {
        "t": "array",
        "dtype": element if element in _NUMERIC else "O",
        "shape": list(value.shape),
        "v": flat,
    }


def _encode_foreign(value: Any, kind: type, depth: int) -> Any:
    described: dict[str, Any] = {"t": "object", "type": kind.__name__, "str": ""}
    try:
        described["str"] = str(value)[:_MAX_TEXT]
        if hasattr(kind, "__int__"):
            described["int"] = encode(int(value), depth)
        if hasattr(kind, "__float__"):
            described["float"] = float(value)
        if hasattr(kind, "__iter__"):
            items = [item for item, _ in zip(value, range(_MAX_ITEMS + 1), strict=False)]
            if len(items) <= _MAX_ITEMS:
                described["items"] = [encode(item, depth) for item in items]
    except (
        Exception
    ) as error:  # the program's own methods: whatever they raise, the object stays foreign
        described["failed"] = type(error).__name__
    return described


def decode(data: Any, *, hashed: bool = True) -> Any:
    """The value that `encode` was given, rebuilt from exact built-in (and NumPy) types.

    With `hashed=False` sets and dictionaries arrive as foreign objects with the order that the sender saw: a sender could
    choose keys that all collide, which a process without a limit on its processor time must not hash.

    Raises:
        FrameError: `data` is nothing that `encode` returns.
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
        raise FrameError(f"no plain data: {type(error).__name__}: {error}") from None


class Series:
    """A pandas Series, as the array that it holds: the trusted side needs no pandas."""

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
        return set(items) if self.hashed else Foreign("set", "", items, {})

    def _frozenset(self, data: Any) -> Any:
        items = self._items(data["v"])
        return frozenset(items) if self.hashed else Foreign("frozenset", "", items, {})

    def _dict(self, data: Any) -> Any:
        pairs = [(self.value(key), self.value(item)) for key, item in data["v"]]
        return dict(pairs) if self.hashed else Foreign("dict", "", [key for key, _ in pairs], {})

    def _array(self, data: Any) -> Any:
        import numpy

        shape, flat = tuple(data["shape"]), self._items(data["v"])
        if data["dtype"] in _NUMERIC:
            array = numpy.array(flat, dtype=data["dtype"])
        elif data["dtype"] == "O":
            array = numpy.empty(len(flat), dtype=object)
            for index, item in enumerate(flat):
                array[index] = item
        else:
            raise ValueError(f"element type {data['dtype']!r}")
        array = array.reshape(shape)
        if array.size == 0 and math.prod(side for side in array.shape if side) > _MAX_ITEMS:
            raise ValueError(
                "an array of nothing, which would fill the memory as a list of empty lists"
            )
        return array

    def _scalar(self, data: Any) -> Any:
        return self._array({"dtype": data["dtype"], "shape": [1], "v": [data["v"]]})[0]

    def _series(self, data: Any) -> Series:
        return Series(self.value(data["v"]))

    def _object(self, data: Any) -> Foreign:
        items = self._items(data["items"]) if "items" in data else None
        numbers = {name: self.value(data[name]) for name in ("int", "float") if name in data}
        return Foreign(str(data["type"]), str(data["str"]), items, numbers)


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
"""Every tag there is; a name from outside is never looked up anywhere else."""
