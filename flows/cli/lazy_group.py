"""Commands that are imported when they are called, so that `codegen --help` and completion import none of them.

One decision: a row of the table says a second time what the command says of itself, the first sentence of its help, for to
ask the command would be to import what it stands on; a test compares the two. Not covered: the commands below a command
(`codegen models list`), which are loaded together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, cast

import typer
from typer.core import TyperCommand, TyperGroup

Rows = Mapping[str, tuple[str, str]]
"""Name of a command to `module:attribute`, a function or a Typer with commands of its own, and the first sentence of its
help."""


class _LazyCommand(TyperCommand):
    """What is known of a command before its module is imported."""

    def __init__(self, name: str, target: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self.target = target

    def load(self, shared: Sequence[Any]) -> Any:
        """The command itself, which takes the `shared` options as well, as do the commands below it."""
        module, attribute = self.target.split(":")
        found = getattr(import_module(module), attribute)
        around: Any = typer.Typer(add_completion=False, rich_markup_mode=None)
        if isinstance(found, typer.Typer):
            around.callback()(lambda: None)  # With it, it is a group.
            around.add_typer(found, name=self.name)
            command: Any = cast(TyperGroup, typer.main.get_command(around)).commands[str(self.name)]
        else:
            around.command(self.name)(found)
            command = typer.main.get_command(around)
        for one in _walk_commands(command):
            one.params.extend(shared)
        return command


class LazyGroup(TyperGroup):
    """A group whose commands stand in a table of sections; a command is loaded when it is called or completed."""

    sections: ClassVar[Mapping[str, Rows]]
    shared: ClassVar[Sequence[str]] = ()
    """Options of the group, handled by their callbacks, which may also be given after a command."""

    def __init__(self, **settings: Any) -> None:
        commands = {
            name: _LazyCommand(name, *row)
            for rows in self.sections.values()
            for name, row in rows.items()
        }
        super().__init__(**settings | {"commands": commands})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load what was found, with the shared options."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, _LazyCommand):
            command = command.load([one for one in self.params if one.name in self.shared])
        return name, command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as the one that it replaces
        """The sections, one below the other, with one column for all of their names."""
        width = max(map(len, self.commands))
        for section, rows in self.sections.items():
            with formatter.section(section):
                formatter.write_dl(
                    [(name.ljust(width), sentence) for name, (_, sentence) in rows.items()]
                )


def _walk_commands(command: Any) -> Iterator[Any]:
    yield command
    for one in getattr(command, "commands", {}).values():
        yield from _walk_commands(one)
