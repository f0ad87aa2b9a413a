"""Calls between the process of the tests and the process of a program, with shared objects.

Values cross as JSON. A value of an exact immutable type arrives as an equal value. A mutable
container (list, dictionary, set, array, ...) gets a number and exists in both processes. Only one
process runs at a time; before it hands over, it sends the containers that have changed, so both
processes see changes in place, aliases and identity. Any other object stays in its process, and the
other process gets a proxy (`proxy`) whose operations call back.

`TestSide` is the end of the trusted process. Every message that it receives is untrusted: `frames`
bounds its size, depth and number of containers, and anything but a valid message is a failure of
the program. Its verdict is recorded before `TestAborted` is raised, because a test may catch that.
`ProgramSide` is the end of the program's process.
"""

from __future__ import annotations

import _thread
import builtins
import importlib
import os
import sys
import types
from operator import is_
from typing import Any, NoReturn

from . import exceptions, frames, proxy
from .value_types import (
    CONTAINERS,
    VALUES,
    ContainerType,
    container_type,
    is_plain,
    value_type,
)

Verdict = dict[str, str]

NEEDS_FAST_MODE = "needs_fast_mode"
"""The class of a test that only the mode `fast` can execute."""
NAMESPACE = 0
"""The number of the program's global names."""

_CLAIMABLE = frozenset({"syntax_error", "exception", "memory", "time_out"})
"""Classes of failure that a program may report of itself; it cannot report a success."""
_MAX_NAME_CHARS = 200
"""Longest name in a verdict, which must fit the launcher's buffer."""
_MAX_NESTED_CALLS = 8
"""Nested calls from which a RecursionError may be due to the calls (assumption)."""
_MAX_DEPTH = 64
"""Deepest nesting of immutable values (assumption); containers may be nested to any depth."""
_MAX_COMPARISONS = 1 << 20
"""Most comparisons of shared containers, about a second of CPU time (assumption: a test keeps few
arguments and results)."""
_PLAIN_INT = 1 << 63
_JSON_TYPES = frozenset({type(None), bool, str})
_NAN_MODULES = ("math", "cmath", "numpy")
"""Modules that define NaN. Both processes have these objects; all others are shared, because NaN
is found in a list by its identity only."""
_GLOBAL_TYPES = (type, types.BuiltinFunctionType, types.FunctionType)
_SAFE_FUNCTIONS = frozenset(
    "abs all any ascii bin chr divmod hex len max min oct pow repr round sorted sum".split()  # noqa: SIM905
)
"""Builtin functions that a program may send by name, in addition to classes."""
_FUNCTION_ATTRIBUTES = frozenset(
    "__name__ __qualname__ __doc__ __module__ __dict__ __annotations__ __type_params__".split()  # noqa: SIM905
)
"""Attributes of the tests' functions that a program may read if they are texts or empty
(`functools.wraps` does)."""
_BASES: dict[type, Any] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    complex: complex.__complex__,
    tuple: lambda value: tuple(tuple.__iter__(value)),
    bytes: bytes.__bytes__,
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}
"""Immutable types that a proxy class can be derived from, and the conversion to them."""
_HEAP_TYPE = 1 << 9
"""The flag of classes that are defined in Python."""
_SHARED_STATE = (
    *(("sys", name) for name in ("stdout", "stderr", "stdin")),
    *(("builtins", name) for name in ("input", "print", "open", "__import__")),
)
"""State of a process that tests replace; a program in another process does not see it."""


class TestAborted(BaseException):
    """The verdict is known before the test has ended."""


class _Side:
    """One end of the channel: the numbers of shared objects, and the encoding of values.

    Args:
        channel: the open socket.
        first_number: of the objects that this side adds; both sides count in steps of 2.
        namespace: the global names of this side.
    """

    def __init__(self, channel: int, first_number: int, namespace: dict[str, Any]) -> None:
        self._channel = channel
        self._next_number = first_number
        self._namespace = namespace
        self._thread = _thread.get_ident()
        self._objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        """The number of an object by its `id`."""
        self._parts: dict[int, list[Any]] = {}
        """The parts of each container when they were last sent or received."""
        self._unsent: list[int] = []
        """New objects that the message does not define yet."""
        self._definitions: dict[int, Any] = {}
        """Definitions in the received message of objects that are not created yet."""
        self._num_comparisons = 0
        self._num_calls = 0
        """Calls of the other process that this process executes at present."""
        self._classes: dict[Any, type] = {}

    # -- defined by each side ---------------------------------------------------------------------

    def abort(self, reason: str) -> NoReturn:
        """End the test: it needs the mode `fast`."""
        raise NotImplementedError

    def _describe(self, value: Any, base: type) -> list[Any]:
        """Return the class of an object of this process for `_create`.

        The name of the class, the methods that its proxies have, those that are None, a number of
        the class, its flags for patterns, the names of it and of its bases, whether all of them are
        defined by this program, and the name of the object if it is a class or a function.
        """
        raise NotImplementedError

    def _execute(self, number: int, method: str, arguments: Any, keywords: Any) -> Any:
        """Call a method of an object for the other process."""
        raise NotImplementedError

    def _can_send_name(self, value: Any) -> bool:
        """Whether the other process can find a class or a function by its name."""
        return _is_global(value)

    def _find_global(self, module: str, name: str) -> Any:
        """Return a global object that the other process sent by name."""
        raise NotImplementedError

    def _is_removable(self, number: int) -> bool:
        """Whether an object need not be shared any more once only the table refers to it."""
        raise NotImplementedError

    # -- calls ------------------------------------------------------------------------------------

    def call(self, target: Any, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of an object of the other process; answer its calls while it runs.

        Args:
            target: the proxy of the object, or `NAMESPACE`.
        """
        number = NAMESPACE if target is NAMESPACE else self._numbers.get(id(target))
        if number is None:  # for example in a destructor
            self.abort(f"{type(target).__name__}.{method}")
        self._send("call", (method, arguments, tuple(keywords.items())), target=number)
        while True:
            message, value = self._receive()
            if message["op"] == "return":
                return value
            if message["op"] == "raise":
                raise value
            self._num_calls += 1
            self._answer(message["target"], *value)
            self._num_calls -= 1

    def _answer(self, number: int, method: str, arguments: Any, keywords: Any) -> None:
        """Execute a call of the other process, and send its result or its exception."""
        try:
            result = self._execute(number, method, arguments, dict(keywords))
        except TestAborted:
            raise
        except BaseException as error:
            if isinstance(error, RecursionError) and self._num_calls > _MAX_NESTED_CALLS:
                self.abort(_reason(error))  # calls between processes take more frames
            self._send("raise", error)
        else:
            self._send("return", result)

    # -- messages ---------------------------------------------------------------------------------

    def _send(self, op: str, value: Any, **fields: Any) -> None:
        """Send a value with all containers that have changed."""
        if _thread.get_ident() != self._thread:
            self.abort("threading.Thread")
        try:
            encoded = self._encode(exceptions.parts(value) if op == "raise" else value)
            objects = self._encode_objects()
            unused = self._remove_unused()
            message = {"op": op, "value": encoded, "objects": objects, "unused": unused, **fields}
            frames.send(self._channel, message)
        except frames.NotSendable as error:
            self.abort(error.reason)
        except frames.FrameError:
            raise
        except Exception as error:  # of the object's own methods
            self.abort(_reason(error))

    def _receive(self) -> tuple[dict[str, Any], Any]:
        """Receive a message and update the containers; returns the message and its value."""
        message = frames.receive(self._channel)
        self._definitions = {int(number): data for number, data in message["objects"].items()}
        contents = {number: data[2] for number, data in self._definitions.items() if data[2]}
        for number in list(self._definitions):
            self._find_object(number)
        for number, data in contents.items():  # after all are created: they may form a cycle
            self._fill(number, *data)
        value = self._decode(message["value"])
        for number in message["unused"]:
            self._remove(number)
        if message["op"] == "raise":
            value = exceptions.build(value, self._namespace, self._classes)
        return message, value

    def _find_object(self, number: int) -> Any:
        """Return a shared object; a new object is created when it is first referred to."""
        definition = self._definitions.pop(number, None)
        if definition is not None and number not in self._objects:
            if number <= NAMESPACE or (number - self._next_number) % 2 == 0:
                raise ValueError(f"{number} is not a number of the other process")
            self._add(number, self._create(*definition))
        return self._objects[number]

    def _fill(self, number: int, tag: str, *parts: Any) -> None:
        """Replace the contents of a container."""
        value = self._objects[number]
        container = container_type(type(value))
        if container is None or container.tag != tag:
            raise ValueError(f"object {number} is no {tag}")
        container.fill(value, [self._decode(part) for part in parts])
        self._parts[number] = container.parts(value)

    def _add(self, number: int, value: Any) -> None:
        self._objects[number] = value
        self._numbers[id(value)] = number

    def _remove(self, number: int) -> None:
        self._numbers.pop(id(self._objects.pop(number)), None)
        self._parts.pop(number, None)

    def _remove_unused(self) -> list[int]:
        """Remove the objects that only this table refers to; returns their numbers."""
        unused = []
        for number in list(self._objects):
            if self._is_removable(number) and (
                sys.getrefcount(self._objects[number]) == _TABLE_REFERENCES
            ):
                self._remove(number)
                unused.append(number)
        return unused

    def _encode_objects(self) -> dict[int, Any]:
        """Return the changed contents of containers, and the definitions of new objects."""
        definitions: dict[int, Any] = {}
        self._num_comparisons += len(self._parts)
        if self._num_comparisons > _MAX_COMPARISONS:
            raise frames.NotSendable("number.of.objects")
        for number, last_parts in list(self._parts.items()):
            value = self._objects[number]
            container = container_type(type(value))
            parts = container.parts(value) if container else []
            if container and not _are_identical(parts, last_parts):
                contents = self._encode_contents(number, container, parts)
                definitions[number] = [None, None, contents]
        while self._unsent:
            number = self._unsent.pop()
            definitions[number] = self._encode_definition(number, self._objects[number])
        return definitions

    def _encode_contents(self, number: int, container: ContainerType, parts: list[Any]) -> Any:
        self._parts[number] = parts
        if container.tag == "ndarray" and parts[0][0] in "biuf":
            return [container.tag, *parts]
        return [container.tag, *self._encode_all(parts, 0)]

    def _encode_definition(self, number: int, value: Any) -> list[Any]:
        """Return the description of the class, the value of a base type, and the contents."""
        kind = type(value)
        if kind is float:
            return [None, value, None]
        if (container := container_type(kind)) is not None:
            contents = self._encode_contents(number, container, container.parts(value))
            is_exact = container.tag == "ndarray" or kind is container.type
            return [None if is_exact else self._describe(value, container.type), None, contents]
        for base, convert in _BASES.items():
            if issubclass(kind, base):
                return [self._describe(value, base), self._encode(convert(value)), None]
        return [self._describe(value, object), None, None]

    def _create(self, description: Any, encoded: Any, contents: Any) -> Any:
        """Return an empty container, NaN, or the proxy of an object."""
        container = CONTAINERS[contents[0]] if contents is not None else None
        if description is None and container is not None:
            return container.create(container.type, contents[1:])
        value = self._decode(encoded)
        if description is None and type(value) is float and value != value:
            return value
        base = container.type if container else object if value is None else type(value)
        if not container and base is not object and base not in _BASES:
            raise ValueError(f"no proxy is derived from {base.__name__}")
        name, methods, disabled, identity, pattern, class_names, is_own, own_name = description
        is_own = is_own and not any(name in self._namespace for name in class_names)
        if own_name in self._namespace:
            methods = [*methods, "__eq__", "__hash__"]
        named = proxy.Description(name, tuple(methods), tuple(disabled), identity, pattern, is_own)
        if (named, base) not in self._classes:
            self._classes[named, base] = proxy.make_class(self, named, base)
        kind = self._classes[named, base]
        if container:
            return container.create(kind, contents[1:])
        new: Any = base.__new__
        return new(kind) if base is object else new(kind, value)

    # -- values -----------------------------------------------------------------------------------

    def _encode(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if kind in _JSON_TYPES or (kind is float and value == value):
            return value
        if kind is int and -_PLAIN_INT <= value < _PLAIN_INT:
            return value
        if depth == _MAX_DEPTH:
            raise frames.NotSendable("message.depth")
        if (crossing := value_type(kind)) is not None:
            return [crossing.tag, *self._encode_all(crossing.parts(value), depth + 1)]
        if (number := self._numbers.get(id(value))) is not None:
            return ["ref", number]
        if (name := self._global_name(value, kind)) is not None:
            return ["global", *name]
        number = self._next_number
        self._next_number += 2
        self._add(number, value)
        self._unsent.append(number)
        return ["ref", number]

    def _global_name(self, value: Any, kind: type) -> tuple[str, str] | None:
        """Return the module and the name by which the other process finds an object."""
        if value is Ellipsis or value is NotImplemented:
            return "builtins", repr(value)
        if kind is float:
            modules = (name for name in _NAN_MODULES if name in sys.modules)
            return next(((name, "nan") for name in modules if sys.modules[name].nan is value), None)
        if kind in _GLOBAL_TYPES and self._can_send_name(value):
            return value.__module__, value.__qualname__
        return None

    def _encode_all(self, items: Any, depth: int) -> list[Any]:
        return [item if type(item) in _JSON_TYPES else self._encode(item, depth) for item in items]

    def _decode(self, data: Any) -> Any:
        kind = type(data)
        if kind is int or kind is float or kind in _JSON_TYPES:
            return data
        tag, *parts = data
        if tag == "ref":
            return self._find_object(parts[0])
        if tag == "global":
            return self._find_global(*parts)
        return VALUES[tag].build(*(self._decode(part) for part in parts))


class TestSide(_Side):
    """The end of the process that runs the tests."""

    def __init__(self, channel: int, namespace: dict[str, Any]) -> None:
        super().__init__(channel, 2, namespace)
        self.failure: Verdict | None = None
        """The verdict that ended the test before its own end."""
        self.num_messages = 0
        """Messages that the program has sent."""
        self._is_receiving = False

    def receive_candidate(self) -> Any:
        """Wait until the program has been executed; returns its function."""
        return self._receive()[1]

    def find_name(self, name: str) -> Any:
        """Return a global object of the program; raises KeyError if it has none of this name."""
        return self.call(NAMESPACE, "__getitem__", name)

    def is_identical(self, left: Any, right: Any) -> bool:
        """Return `left is right`, if it is the same for the objects of a single process."""
        if left is right:
            return True
        if any(type(value) is proxy.ProxyType for value in (left, right)):
            return bool(left == right)
        kind = type(left)
        for remote, other in ((left, right), (right, left)):
            if type(type(remote)) is proxy.ProxyType:
                if proxy.may_be_same(remote, other):
                    self.abort(f"{type(remote).__name__}.is")
                return False
        is_copy = kind in (int, str, float) or value_type(kind) is not None
        if kind is type(right) and is_copy and left == right:
            self.abort(f"{kind.__name__}.is")
        return False

    def call(self, target: Any, method: str, *arguments: Any, **keywords: Any) -> Any:
        if self.failure is not None:
            raise TestAborted
        if self._is_receiving:
            raise ValueError("a value of a message cannot be built without a call of the program")
        for (module, name), original in _ORIGINALS.items():
            if getattr(sys.modules[module], name) is not original:
                self.abort(f"{module}.{name}")
        return super().call(target, method, *arguments, **keywords)

    def clear(self) -> None:
        """Free all shared objects."""
        for table in (self._objects, self._numbers, self._parts, self._classes):
            table.clear()

    def abort(self, reason: str) -> NoReturn:
        self._fail({"class": NEEDS_FAST_MODE, "type": reason[:_MAX_NAME_CHARS]})

    def _fail(self, verdict: Verdict) -> NoReturn:
        self.failure = self.failure or verdict
        raise TestAborted

    def _send(self, op: str, value: Any, **fields: Any) -> None:
        try:
            super()._send(op, value, **fields)
        except frames.FrameError:  # the program has ended
            self._fail({"class": "exited", "type": ""})

    def _receive(self) -> tuple[dict[str, Any], Any]:
        try:
            self._is_receiving = True
            self.num_messages += 1
            message, value = super()._receive()
            if message["op"] in ("return", "raise"):
                return message, value
            if message["op"] == "call":
                _, _, _ = value
                return {**message, "target": int(message["target"])}, value
            kind, name = (NEEDS_FAST_MODE, value) if message["op"] == "unsupported" else value
            if kind not in (*_CLAIMABLE, NEEDS_FAST_MODE) or type(name) is not str:
                raise ValueError("no failure")  # a longer verdict would not fit the launcher
            verdict = {"class": kind, "type": name[:_MAX_NAME_CHARS]}
        except MemoryError:
            verdict = {"class": "memory", "type": "MemoryError"}
        except Exception as error:  # the message is untrusted: errors are failures of the program
            verdict = {"class": "exited", "type": ""}
            if isinstance(error, RecursionError) and self._num_calls > _MAX_NESTED_CALLS:
                verdict = {"class": NEEDS_FAST_MODE, "type": _reason(error)}
        finally:
            self._is_receiving = False
        return self._fail(verdict)

    def _is_removable(self, number: int) -> bool:
        # A program may still hold a function of the tests, so functions stay in the table.
        return type(self._objects[number]) not in _CALLABLES

    def _describe(self, value: Any, base: type) -> list[Any]:
        del base  # functions have none
        if type(value) not in _CALLABLES:
            self.abort(f"argument.{type(value).__name__}")
        return ["function", ["__call__"], [], 0, 0, [], False, None]

    def _execute(self, number: int, method: str, arguments: Any, keywords: Any) -> Any:
        """Call a function of the tests; a program can do nothing else in this process."""
        function = self._objects[number]
        if number % 2 or type(function) not in _CALLABLES:
            raise TypeError(f"object {number} is no function of the tests")
        if method == "__call__":
            return function(*arguments, **keywords)
        (name,) = arguments
        if method != "__getattribute__" or type(name) is not str:
            self.abort(f"argument.{method}")
        if not hasattr(function, name):
            raise AttributeError(name)
        attribute = getattr(function, name)
        if name not in _FUNCTION_ATTRIBUTES or (attribute and type(attribute) is not str):
            self.abort(f"argument.{name}")
        return attribute

    def _find_global(self, module: str, name: str) -> Any:
        if module in _NAN_MODULES and name == "nan":
            return importlib.import_module(module).nan
        value = getattr(builtins, name)
        is_constant = value is Ellipsis or value is NotImplemented
        is_public = not name.startswith("_") and (is_constant or _is_public_builtin(value))
        if module != "builtins" or not is_public:
            raise ValueError(f"{module}.{name} cannot be sent by name")
        return value


class ProgramSide(_Side):
    """The end of the process that runs a program."""

    def __init__(self, channel: int, namespace: dict[str, Any]) -> None:
        super().__init__(channel, 1, namespace)
        self._objects[NAMESPACE] = namespace
        self._kinds: dict[int, tuple[type, int]] = {}
        """The classes that were described by their `id`, with a number for each."""

    def serve(self, entry_point: str) -> None:
        """Send the function `entry_point`, then answer calls until the channel closes."""
        self._send("return", self._namespace[entry_point])
        while True:
            message, value = self._receive()
            self._answer(message["target"], *value)

    def fail(self, failure: Verdict) -> None:
        """Report that the program could not be defined."""
        self._send("failed", (failure["class"], failure["type"]))

    def _receive(self) -> tuple[dict[str, Any], Any]:
        try:
            received = super()._receive()
        except frames.FrameError:
            raise
        except Exception as error:  # for example a module that cannot be imported here
            self.abort(_reason(error))
        return received

    def abort(self, reason: str) -> NoReturn:
        message = {"op": "unsupported", "value": reason, "objects": {}, "unused": []}
        frames.send(self._channel, message)
        os._exit(0)

    def _describe(self, value: Any, base: type) -> list[Any]:
        if isinstance(value, type) and issubclass(value, BaseException):
            raise frames.NotSendable(f"{value.__name__}.class")  # a proxy cannot be raised
        kind = type(value)
        classes = [cls for cls in kind.__mro__ if cls not in base.__mro__]
        defined = {name for cls in classes for name in vars(cls)}
        methods = {name for name in defined if getattr(kind, name, None) is not None}
        disabled = (defined - methods) & proxy.SPECIAL_METHODS
        if "__getitem__" in methods and "__iter__" not in defined and not _is_iterable(value):
            disabled.add("__iter__")
        if isinstance(value, types.ModuleType) or _is_known_elsewhere(value):
            methods |= {"__eq__", "__hash__"}  # the tests may have the object, too
        own_name = value.__name__ if isinstance(value, _GLOBAL_TYPES) else None
        is_class_own = bool(classes) and not any(map(_is_known_elsewhere, classes))
        is_own = is_class_own and "__class__" not in defined
        class_names = [cls.__name__ for cls in classes]
        overridden = {name for name in methods if not name.startswith("__") and hasattr(base, name)}
        remote = sorted(methods & proxy.SPECIAL_METHODS | overridden)
        _, identity = self._kinds.setdefault(id(kind), (kind, len(self._kinds)))
        pattern = kind.__flags__ & proxy.PATTERN_FLAGS
        of_class = [kind.__name__, remote, sorted(disabled), identity, pattern]
        return [*of_class, class_names, is_own, own_name]

    def _execute(self, number: int, method: str, arguments: Any, keywords: Any) -> Any:
        target = self._objects[number]
        if method == "__call__":
            return target(*arguments, **keywords)
        if method == "__getattribute__":
            return getattr(target, *arguments)
        return getattr(type(target), method)(target, *arguments, **keywords)

    def _is_removable(self, number: int) -> bool:
        # The tests may hold the proxies of other objects.
        return number in self._parts and is_plain(type(self._objects[number]))

    def _can_send_name(self, value: Any) -> bool:
        is_builtin = getattr(value, "__module__", None) == "builtins" and _is_global(value)
        return is_builtin and _is_public_builtin(value)

    def _find_global(self, module: str, name: str) -> Any:
        return getattr(importlib.import_module(module), name)


def _reason(error: Exception) -> str:
    """Return why a message that raised an error cannot cross."""
    return "recursion" if isinstance(error, RecursionError) else f"message.{type(error).__name__}"


def _are_identical(parts: list[Any], last_parts: list[Any]) -> bool:
    """Whether the parts are the same objects; equality would call methods of the program."""
    return len(parts) == len(last_parts) and all(map(is_, parts, last_parts))


def _is_global(value: Any) -> bool:
    """Whether a class or a function is a global object of an imported module."""
    name = getattr(value, "__qualname__", None)
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    return type(name) is str and getattr(module, name, None) is value


def _is_iterable(value: Any) -> bool:
    """Whether an object whose class has no `__iter__` can be iterated by its items."""
    try:
        iter(value)
    except TypeError:
        return False
    return True


def _is_public_builtin(value: Any) -> bool:
    """Whether a program may send this object of `builtins` by name."""
    name = value.__name__
    return not name.startswith("_") and (type(value) is type or name in _SAFE_FUNCTIONS)


def _is_known_elsewhere(value: Any) -> bool:
    """Whether an object is a class or a function of Python or of a library."""
    is_static = isinstance(value, type) and not value.__flags__ & _HEAP_TYPE
    return is_static or (isinstance(value, _GLOBAL_TYPES) and _is_global(value))


def has_changed_process() -> bool:
    """Whether a test has replaced state of this process, or has left a thread."""
    is_replaced = any(
        getattr(sys.modules[module], name) is not original
        for (module, name), original in _ORIGINALS.items()
    )
    return is_replaced or _thread._count() > 0


_ORIGINALS = {key: getattr(sys.modules[key[0]], key[1]) for key in _SHARED_STATE}
_CALLABLES = frozenset({types.FunctionType, types.BuiltinFunctionType, types.MethodType})
"""Types of the functions of a test that a program may call."""
_TABLE_REFERENCES = 2
"""References to an object that only the table has: the table and the argument of `getrefcount`."""
