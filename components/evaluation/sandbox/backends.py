"""Which isolation this machine gives: the best kind that can be had, or the one that was asked for.

One decision: a kind that cannot be had is passed over, a kind that was built and does not hold is not: whoever finds walls
with a hole in them stops, rather than trying the next ones.
"""

from __future__ import annotations

from collections.abc import Callable

from components.core.errors import SandboxUnavailableError
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox.bubblewrap import Bubblewrap
from components.evaluation.sandbox.filesystem_view import View, this_interpreter
from components.evaluation.sandbox.jail import Jail
from components.evaluation.sandbox.landlock import Landlock
from components.evaluation.sandbox.namespaces import Namespaces
from components.evaluation.sandbox.uids import require_other_users

_KINDS: dict[SandboxKind, Callable[[View], Jail]] = {
    "bubblewrap": Bubblewrap,
    "namespaces": Namespaces,
    "landlock": Landlock,
}
"""The best first."""


def find_jail(kind: SandboxKind | None = None) -> Jail:
    """The best jail that can be had here, or one of the kind that was asked for.

    Raises:
        SandboxUnavailable: there is none; says for every kind what is missing and how to get it.
    """
    require_other_users()
    view, missing = this_interpreter(), dict[str, SandboxUnavailableError]()
    for name, build in _KINDS.items() if kind is None else [(kind, _KINDS[kind])]:
        try:
            return build(view)
        except SandboxUnavailableError as error:
            missing[name] = error
    if kind is not None:
        raise missing[kind]
    raise SandboxUnavailableError(
        "; ".join(f"{name}: {error.got}" for name, error in missing.items()),
        expected="; or ".join(error.expected for error in missing.values()),
        fix="; or ".join(error.fix for error in missing.values()),
    )
