"""Proxies for objects of the other process.

The class of a proxy has the special methods of the object's class, so that Python treats it as
it treats the object: a missing method has the default effect. An operation is executed by the
object's process unless its result could decide a test by an operand: a comparison, arithmetic, a
membership test and a hash, which a program could define so that every test passes. These end the
test with the outcome `needs_fast_mode`.

An instance of a subclass of a built-in type arrives as an instance of a proxy class that is
derived from the same type. The attributes that the subclass overrides are those of the object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from .value_types import is_plain

_REMOTE = (
    "call", "len", "length_hint", "bool", "iter", "next", "reversed", "getitem", "setitem",
    "delitem", "missing", "int", "float", "complex", "index", "round", "trunc", "floor", "ceil",
    "abs", "neg", "pos", "invert", "str", "repr", "format", "bytes", "fspath", "enter", "exit",
    "dir",
)  # fmt: skip
_ARITHMETIC = (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift",
    "rshift", "and", "xor", "or",
)  # fmt: skip
_UNSUPPORTED = (
    "eq", "ne", "lt", "le", "gt", "ge", "hash", "contains", "get", "set", "instancecheck",
    "subclasscheck", "await", "aiter", "anext", "aenter", "aexit", "buffer", "array",
    "array_ufunc", "array_function",
    *(f"{prefix}{name}" for name in _ARITHMETIC for prefix in ("", "r", "i")),
)  # fmt: skip
SPECIAL_METHODS = frozenset(f"__{name}__" for name in (*_REMOTE, *_UNSUPPORTED))
"""The special methods that a proxy class may have."""


_PATTERNS: dict[int, tuple[Any, ...]] = {1 << 5: (Sequence,), 1 << 6: (Mapping,)}
"""The abstract classes that set the flags of patterns."""
PATTERN_FLAGS = 1 << 5 | 1 << 6


class Caller(Protocol):
    """The end of the channel that proxies call."""

    def call(self, target: Any, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of the object."""

    def abort(self, reason: str) -> Any:
        """End the test with the outcome `needs_fast_mode`."""


class Description(NamedTuple):
    """The class of an object, as its process describes it."""

    name: str
    methods: tuple[str, ...]
    """The special methods that the class defines in addition to those of its built-in base, and
    the other attributes of the base that it overrides."""
    disabled: tuple[str, ...]
    """Special methods that the class sets to None, such as `__hash__`."""
    identity: int
    """A number for each class, since several may have the same name."""
    pattern: int
    """The flags by which `match` recognizes sequences and mappings."""
    is_own: bool
    """Whether the class is the program's own, so that no test can name it or have an instance."""


class ProxyType(type):
    """The type of proxy classes: a comparison with the class of a test may need `fast`."""

    __proxy__: tuple[Caller, Description]
    """In each class; the name must not hide an attribute of the object."""

    def __eq__(cls, other: object) -> bool:
        caller, description = cls.__proxy__
        if not description.is_own and not isinstance(other, ProxyType):
            caller.abort(f"{description.name}.__class__")
        return cls is other

    def __hash__(cls) -> int:
        return type.__hash__(cls)

    def __getattr__(cls, name: str) -> Any:
        if name == "__abstractmethods__":  # `abc` and `inspect` look for it
            raise AttributeError(name)
        return cls.__proxy__[0].abort(f"{cls.__name__}.{name}")


def may_be_same(remote: Any, other: Any) -> bool:
    """Whether the object of a proxy may be an object of the tests.

    For example a constant of the prompt, which both processes have executed.
    """
    kind = type(other)
    is_own = type(remote).__proxy__[1].is_own
    return not is_own and type(kind) is not ProxyType and not is_plain(kind)


def make_class(caller: Caller, description: Description, base: type) -> type:
    """Return the class of proxies of a class, derived from the built-in type `base`."""
    members = _attributes(caller, description)
    methods = SPECIAL_METHODS.intersection(description.methods)
    if base is object:
        methods |= {"__str__", "__repr__", "__format__", "__dir__"}
        members |= {"__eq__": _default_equality(caller), "__hash__": object.__hash__}
    members |= dict.fromkeys(SPECIAL_METHODS.intersection(description.disabled))
    for name in methods:
        members[name] = _method(caller, description.name, name)
    for name in description.methods:
        if not name.startswith("__") and hasattr(base, name):
            members[name] = _property(caller, name)
    members["__proxy__"] = (caller, description)
    created = ProxyType(description.name, (base,), members)
    for abstract in _PATTERNS.get(description.pattern & ~base.__flags__, ()):
        abstract.register(created)
    return created


def _attributes(caller: Caller, description: Description) -> dict[str, Any]:
    """Return the members of all proxy classes."""

    def attribute(self: Any, name: str) -> Any:
        value = caller.call(self, "__getattribute__", name)
        if name.startswith("__array"):  # NumPy would read memory at an address in it
            caller.abort(f"{description.name}.{name}")
        return value

    def real_class(self: Any) -> type:
        if not description.is_own:
            caller.abort(f"{description.name}.__class__")
        return type(self)

    return {
        "__slots__": (),
        "__new__": lambda *_, **__: caller.abort(f"{description.name}.__new__"),
        "__getattr__": attribute,
        "__setattr__": lambda self, *named: caller.call(self, "__setattr__", *named),
        "__delattr__": lambda self, name: caller.call(self, "__delattr__", name),
        "__class__": property(real_class),
        "__doc__": _property(caller, "__doc__"),
        "__module__": _property(caller, "__module__"),
        "__reduce_ex__": lambda *_: caller.abort(f"{description.name}.__reduce_ex__"),
    }


def _property(caller: Caller, name: str) -> property:
    return property(lambda self: caller.call(self, "__getattribute__", name))


def _default_equality(caller: Caller) -> Callable[[Any, Any], Any]:
    def equals(self: Any, other: Any) -> Any:
        if may_be_same(self, other):
            caller.abort(f"{type(self).__name__}.__eq__")
        return True if self is other else NotImplemented

    return equals


def _method(caller: Caller, class_name: str, name: str) -> Callable[..., Any]:
    if name[2:-2] in _UNSUPPORTED:
        return lambda *_, **__: caller.abort(f"{class_name}.{name}")

    def method(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return caller.call(self, name, *arguments, **keywords)

    return method
