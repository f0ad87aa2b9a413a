"""Exceptions that are raised in one process and cross to the other.

An exception crosses as the names of its classes, its arguments and its attributes. The other
process raises the same class if it has it, else a subclass of the first base that it has.
"""

from __future__ import annotations

import builtins
import sys
import types
from typing import Any

from .frames import NotSendable

_MAX_CAUSES = 4
"""Most causes or contexts in a row (assumption)."""
_MEMBERS = ("filename", "filename2", "name", "path", "__suppress_context__")
"""Attributes of built-in exceptions that cross in addition to the arguments and `__dict__`."""


def parts(error: BaseException, depth: int = 0) -> tuple[Any, ...]:
    """Return the classes by name, the arguments, attributes, text, cause and context.

    Raises:
        NotSendable: the exception is a group, whose arguments are exceptions.
    """
    if isinstance(error, BaseExceptionGroup):
        raise NotSendable("ExceptionGroup")
    classes = [kind for kind in type(error).__mro__ if issubclass(kind, BaseException)]
    names = tuple((getattr(kind, "__module__", "builtins"), kind.__name__) for kind in classes)
    try:
        text = str(error)
    except Exception:
        text = ""
    members = {name: getattr(error, name) for name in _members(type(error))}
    attributes = {name: value for name, value in members.items() if value} | vars(error)
    context = None if error.__context__ is error.__cause__ else error.__context__
    earlier = [
        None if chained is None or depth == _MAX_CAUSES else parts(chained, depth + 1)
        for chained in (error.__cause__, context)
    ]
    return names, error.args, attributes, text, *earlier


def build(received: Any, namespace: dict[str, Any], classes: dict[Any, type]) -> BaseException:
    """Return the exception that `parts` described.

    Args:
        namespace: the global names of this process, which may have its class.
        classes: the subclasses that were created for unknown classes.
    """
    names, arguments, attributes, text, cause, context = received
    local_classes = [_find_class(module, name, namespace) for module, name in names]
    kind: Any = next(kind for kind in local_classes if kind is not None)
    if not type(names[0][1]) is type(text) is str:
        raise ValueError("the name or the text of an exception is no text")
    if local_classes[0] is None:
        key = (kind, names[0][1], text)
        if key not in classes:
            classes[key] = type(names[0][1], (kind,), {"__str__": lambda _: text})
        kind = classes[key]
    bases = (base for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)
    builtin: Any = next(bases)
    error: BaseException = builtin.__new__(kind, *arguments)
    builtin.__init__(error, *arguments)
    if cause is not None:
        error.__cause__ = build(cause, namespace, classes)
    if context is not None:
        error.__context__ = build(context, namespace, classes)
    members = _members(kind)
    for name, value in attributes.items():
        if name in members:
            setattr(error, name, value)
        else:
            error.__dict__[name] = value
    return error


def _find_class(module: str, name: str, namespace: dict[str, Any]) -> Any:
    """Return a class of exceptions; None if it is unknown here."""
    if module in ("builtins", "__main__"):
        kind = getattr(builtins, name, None) or namespace.get(name)
    elif module.partition(".")[0] in sys.stdlib_module_names:
        kind = getattr(sys.modules.get(module), name, None)
    else:
        return None
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else None


def _members(kind: type) -> list[str]:
    """Return the names in `_MEMBERS` that a class of exceptions has as members."""
    return [
        name
        for name in _MEMBERS
        if isinstance(getattr(kind, name, None), types.MemberDescriptorType)
    ]
