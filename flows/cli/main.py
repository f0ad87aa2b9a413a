"""The `codegen` command: the table of commands, lazy loading, errors and exit codes.

A command ends the process only by an exception. `main` prints it and sets the exit code:

    0        success
    1        an error that the user can fix: got, expected, fix
    2        wrong usage: unknown command or option (Typer)
    3        success with a negative result: a gate refused a model or stopped a run after a stage,
             `doctor` misses a requirement
    70       internal error (EX_SOFTWARE of BSD's sysexits.h)
    128 + n  stopped by signal n; the same command resumes

`--debug` or CODEGEN_DEBUG=1 also prints the traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from components.core.errors import CodegenError, StageGateError
from components.core.processes import skip_final_gc
from flows.cli.interrupts import Interrupts

USER_ERROR = 1
INTERNAL_ERROR = 70

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Run": {
        "run": ("flows.cli.run:run", "Run the pipeline: from raw archives to promoted models."),
        "prepare": ("flows.cli.run:prepare", "Pull, validate and pack the corpora."),
        "train": ("flows.cli.run:train", "Train the stages, each from the previous checkpoint."),
        "evaluate": (
            "flows.cli.run:evaluate",
            "Evaluate all checkpoints of a recipe: bits per byte and benchmarks.",
        ),
        "approve": (
            "flows.cli.run:approve",
            "Approve a checkpoint that did not pass the gate after its stage.",
        ),
        "promote": (
            "flows.cli.run:promote",
            "Register the checkpoints, and promote those that pass the gate.",
        ),
        "serve": (
            "flows.cli.system:serve",
            "Serve the flows as Prefect deployments, with optional schedules.",
        ),
    },
    "Inspect": {
        "recipe": ("flows.cli.inspect:recipes", "List and show recipes."),
        "plan": (
            "flows.cli.plan:plan",
            "Estimate memory, hours, epochs, disk and cost of a run before it starts.",
        ),
        "artifacts": (
            "flows.cli.inspect:artifacts",
            "List the artifacts of the store by age; `prune` removes those that nothing needs.",
        ),
        "lineage": (
            "flows.cli.inspect:lineage",
            "Show the inputs of an artifact, down to the raw corpora.",
        ),
        "why": ("flows.cli.inspect:why", "Explain why an artifact was rebuilt."),
        "deepspeed": (
            "flows.cli.plan:deepspeed",
            "Print the DeepSpeed configuration of a stage as JSON.",
        ),
    },
    "Models": {
        "models": (
            "flows.cli.models:models",
            "List, compare, promote, roll back and serve registered models.",
        ),
        "eval": (
            "flows.cli.eval:evaluation",
            "Evaluate any single model on benchmarks: codegen eval MODEL.",
        ),
        "complete": (
            "flows.cli.models:complete",
            "Complete a prompt with a model; the completion is printed and never executed.",
        ),
        "export": (
            "flows.cli.models:export",
            "Export a checkpoint as a Hugging Face folder and verify its logits.",
        ),
    },
    "Data": {
        "data": (
            "flows.cli.data:data",
            "Manage raw corpora under DVC, and share prepared corpora.",
        ),
    },
    "System": {
        "doctor": (
            "flows.cli.system:doctor",
            "Check this machine: missing requirements, their impact and their fix.",
        ),
        "notifications": (
            "flows.cli.system:notifications",
            "Send notifications about failed runs, approvals and promotions.",
        ),
        "ui": ("flows.cli.system:ui", "Start the Prefect and MLflow UIs on loopback."),
        "db": ("flows.cli.system:db", "Upgrade the MLflow and Prefect databases."),
    },
}
"""Sections of `codegen --help`. A command has the `module:attribute` of its function or Typer group
and the first sentence of its help, so that `--help` imports no command; a test compares both."""


class _LazyCommand(TyperCommand):
    """A command whose module is not imported yet."""

    def __init__(self, name: str, target: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self.target = target

    def load(self, shared_options: Sequence[Any]) -> Any:
        """Import the command, and add options to it and to its subcommands."""
        module, attribute = self.target.split(":")
        target = getattr(import_module(module), attribute)
        group: Any = typer.Typer(add_completion=False, rich_markup_mode=None)
        group.callback()(lambda: None)  # Makes it a group, also with a single command.
        if isinstance(target, typer.Typer):
            group.add_typer(target, name=self.name)
        else:
            group.command(self.name)(target)
        command = cast(TyperGroup, typer.main.get_command(group)).commands[str(self.name)]
        for loaded in _walk_commands(command):
            loaded.params.extend(shared_options)
            loaded.short_help = _first_sentence(loaded.help)  # A text that Typer does not cut.
        return command


class _CommandGroup(TyperGroup):
    """Groups the commands by section, and imports a command when it is called or completed."""

    def __init__(self, **settings: Any) -> None:
        commands = {
            name: _LazyCommand(name, *entry)
            for section in COMMANDS.values()
            for name, entry in section.items()
        }
        super().__init__(**settings | {"commands": commands})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command; `--debug` is accepted before and after it."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, _LazyCommand):
            command = command.load([option for option in self.params if option.name == "debug"])
        return name, command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - overrides
        """Print the sections with aligned descriptions."""
        width = max(map(len, self.commands))
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), text) for name, (_, text) in section.items()]
                )


def _first_sentence(text: str) -> str:
    first, _, rest = " ".join(text.split()).partition(". ")
    return f"{first}." if rest else first


def _walk_commands(command: Any) -> Iterator[Any]:
    yield command
    for subcommand in getattr(command, "commands", {}).values():
        yield from _walk_commands(subcommand)


app = typer.Typer(
    cls=_CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 120},
)


def _set_debug(context: typer.Context, value: bool) -> None:
    if value and isinstance(context.obj, dict):
        context.obj["debug"] = True


@app.callback()
def codegen(
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            callback=_set_debug,
            expose_value=False,
            help="Print the traceback of an error.",
        ),
    ] = False,
) -> None:
    """Train, evaluate and promote CodeGen models."""


def main() -> None:
    """Run a command; print an error as a single paragraph and set the exit code."""
    settings: dict[str, Any] = {"debug": os.environ.get("CODEGEN_DEBUG", "") not in ("", "0")}
    interrupts = Interrupts()
    skip_final_gc()
    try:
        app(prog_name="codegen", obj=settings)
    except BaseException as error:
        succeeded = isinstance(error, SystemExit) and not error.code
        if interrupts.received and not succeeded:
            interrupts.finish()
        if isinstance(error, CodegenError):
            _print_error(error, str(error), settings)
            sys.exit(_exit_code(error))
        if not isinstance(error, Exception):
            raise
        _print_error(error, _format_internal_error(error), settings)
        sys.exit(INTERNAL_ERROR)


def _exit_code(error: CodegenError) -> int:
    from flows.cli.options import NEGATIVE_RESULT  # Imports more than `codegen --help` needs.

    return NEGATIVE_RESULT if isinstance(error, StageGateError) else USER_ERROR


def _print_error(error: Exception, paragraph: str, settings: dict[str, Any]) -> None:
    if settings["debug"]:
        traceback.print_exception(error)
    typer.echo(f"{typer.style('✗', fg='red')} {paragraph}", err=True)


def _format_internal_error(error: Exception) -> str:
    """Format an unexpected exception like a `CodegenError`: three lines."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = str(error).strip().partition("\n")[0]
    return (
        f"{type(error).__name__}{': ' if message else ''}{message} "
        f"(line {frame.lineno} of {frame.filename})\n"
        "  expected: no internal error; this is a bug of codegen\n"
        "  fix:      run the same command with --debug and report the output"
    )


if __name__ == "__main__":
    main()
