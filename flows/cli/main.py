"""`codegen`: the command line. What there is stands in one table; a command's module is imported when it is called.

One decision: no command ends the program by itself but through an exception, and `main` alone says what it was, in one
paragraph on standard error, and with which status the program ends (docs/command-line.md):

    0        done
    1        an error that a person can mend: what was got, what was expected, what to do
    2        wrong usage: no such command or option
    3        all went well and the answer is no: the gate refused a model, `doctor` misses what runs need
    70       a defect of ours
    128 + n  interrupted by signal n; the same command goes on from there

With `--debug`, or CODEGEN_DEBUG=1, the traceback stands above the paragraph. Not covered: the commands themselves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from typing import Annotated, Any, ClassVar, NoReturn

import typer

from components.core.errors import CodegenError
from components.core.processes import skip_final_gc
from flows.cli.exit_codes import INTERNAL_ERROR, USER_ERROR
from flows.cli.lazy_group import LazyGroup


class _Commands(LazyGroup):
    """All commands: what a person wants, the name, where it is, and the first sentence of its help."""

    shared = ("debug",)
    sections: ClassVar = {
        "Run": {
            "run": (
                "flows.cli.run:run",
                "The whole chain: from raw archives to promoted models and a page of results.",
            ),
            "prepare": ("flows.cli.run:prepare", "Pull, validate and pack the corpora."),
            "train": (
                "flows.cli.run:train",
                "Train the stages up to one, each from the last one's weights.",
            ),
            "evaluate": (
                "flows.cli.run:evaluate",
                "Measure every checkpoint: bits per byte, HumanEval, MTPB.",
            ),
            "promote": (
                "flows.cli.run:promote",
                "Register the checkpoints, and promote those that pass the gate.",
            ),
            "serve": (
                "flows.cli.system:serve",
                "Offer the flows as deployments: by schedule, from Prefect's page, or by `prefect deployment run`.",
            ),
        },
        "Look": {
            "recipe": ("flows.cli.inspect:recipes", "What can be made."),
            "plan": (
                "flows.cli.inspect:plan",
                "What training takes, before it starts: memory by ZeRO stage, tokens, FLOPs, hours, disk, cost.",
            ),
            "artifacts": ("flows.cli.inspect:artifacts", "What is in the store, the oldest first."),
            "lineage": (
                "flows.cli.inspect:lineage",
                "What an artifact was made from, down to the raw corpora.",
            ),
            "why": (
                "flows.cli.inspect:why",
                "Why an artifact was made anew: what differs from its nearest sibling, in recipe, inputs and code.",
            ),
            "deepspeed": (
                "flows.cli.inspect:deepspeed",
                "The configuration that a stage passes to DeepSpeed, as JSON.",
            ),
        },
        "Models": {
            "models": (
                "flows.cli.models:models",
                "Registered models: list, compare, promote, roll back.",
            ),
            "eval": (
                "flows.cli.eval:evaluation",
                "Measure one model by the programs that it writes: codegen eval MODEL.",
            ),
            "complete": (
                "flows.cli.use:complete",
                "What a model writes after a prompt; it is shown, and never executed.",
            ),
            "export": (
                "flows.cli.models:export",
                "A checkpoint as a plain Hugging Face folder, its logits compared with those of transformers first.",
            ),
        },
        "Data": {
            "data": (
                "flows.cli.data:data",
                "The raw corpora in data/, versioned by DVC, and what was prepared from them.",
            ),
        },
        "Machine": {
            "doctor": (
                "flows.cli.system:doctor",
                "What this machine has and lacks, what it costs to go without, and how to get it.",
            ),
            "notify": (
                "flows.cli.use:notify",
                "Tell an address when runs fail, a person is asked, or a model is promoted or refused.",
            ),
            "ui": ("flows.cli.system:ui", "Prefect and MLflow on loopback, over what was run."),
            "upgrade": (
                "flows.cli.system:upgrade",
                "Bring the databases of a workspace to the installed versions of MLflow and Prefect, each copied first.",
            ),
        },
    }


app = typer.Typer(
    cls=_Commands,
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
            help="Show the traceback of an error.",
        ),
    ] = False,
) -> None:
    """Train, evaluate and promote CodeGen."""


def main() -> None:
    """The entry point: run a command, and say in one paragraph what went wrong."""
    wishes: dict[str, Any] = {"debug": os.environ.get("CODEGEN_DEBUG", "") not in ("", "0")}
    interrupted: list[int] = []

    def interrupt(number: int, _: object) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # What nohup asked to be left alone.
            signal.signal(number, interrupt)
    skip_final_gc()
    try:
        app(prog_name="codegen", obj=wishes)
    except CodegenError as error:
        _print_error(error, str(error), wishes)
        sys.exit(USER_ERROR)
    except BaseException as end:
        # `codegen ui` ends well when it is interrupted; everything else was cut off.
        if interrupted and not (isinstance(end, SystemExit) and not end.code):
            with contextlib.suppress(OSError):  # The terminal may be what went away.
                typer.echo("interrupted; the same command goes on from here", err=True)
            _exit_now(128 + interrupted[0])
        if not isinstance(end, Exception):
            raise
        _print_error(end, _format_internal_error(end), wishes)
        sys.exit(INTERNAL_ERROR)


def _print_error(error: Exception, paragraph: str, wishes: dict[str, Any]) -> None:
    if wishes["debug"]:
        traceback.print_exception(error)
    typer.echo(f"{typer.style('✗', fg='red')} {paragraph}", err=True)


def _format_internal_error(error: Exception) -> str:
    """What is said of an exception that nobody foresaw, in the three lines of those that were."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = str(error).strip().partition("\n")[0]
    return (
        f"{type(error).__name__}{': ' if said else ''}{said} (line {place.lineno} of {place.filename})\n"
        "  expected: no such thing: it is a defect of ours, not a mistake of yours\n"
        "  fix:      give the same command with --debug, and report what it prints"
    )


def _exit_now(status: int) -> NoReturn:
    """Leave at once, with nothing left behind.

    At an ordinary exit Prefect waits, without end, to send its last events to its server, which the same signal ended.
    """
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    os._exit(status)


if __name__ == "__main__":
    main()
