"""`codegen models ..., export`: what is registered, how two versions compare, promotion, its history, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from components.model.formats import CheckpointFormat, Dtype
from flows.cli.exit_codes import NEGATIVE_RESULT
from flows.cli.options import (
    ExecutionOverrides,
    Json,
    RecipeName,
    RecipeOverrides,
    console,
    load_execution,
    load_recipe,
    print_json,
)
from flows.cli.use import serve_model

if TYPE_CHECKING:
    from components.registry.tracking import Tracking

models = typer.Typer(
    no_args_is_help=True, help="Registered models: list, compare, promote, roll back."
)

models.command("serve")(serve_model)

Version = Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION.")]
Name = Annotated[str, typer.Argument(help="A registered model's name.")]


@models.command("list")
def list_models(
    name: Annotated[str, typer.Argument(help="Of one model only.")] = "",
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """Every version, with its aliases and what was decided."""
    tracking = _tracking(at)
    from components.registry.queries import list_versions

    found = list_versions(tracking, name or None)
    if as_json:
        print_json(found)
        return
    table = Table("version", "stage", "decision", "when", "by", "checkpoint")
    for one in found:
        table.add_row(
            one.label, one.stage, one.decision, one.decided_at, one.decided_by, one.digest[:12]
        )
    console.print(
        table
        if found
        else "no model is registered yet: `codegen promote` registers a recipe's checkpoints"
    )


@models.command()
def show(version: Version, as_json: Json = False, at: ExecutionOverrides = []) -> None:
    """One version and its figures, as the gate last saw them."""
    tracking = _tracking(at)
    from components.registry.queries import get_version

    one = get_version(tracking, version)
    if as_json:
        print_json(one)
        return
    table = Table("", one.label, title_justify="left")
    facts = {"stage": one.stage, "checkpoint": one.digest, "code": one.git_commit}
    facts |= {
        "decision": f"{one.decision} {one.decided_at} by {one.decided_by}"
        if one.decision
        else "none yet"
    }
    for name, value in (
        *facts.items(),
        *((name, f"{value:.6g}") for name, value in one.metrics.items()),
    ):
        table.add_row(name, value)
    console.print(table)


@models.command()
def compare(
    one: Version, other: Version, as_json: Json = False, at: ExecutionOverrides = []
) -> None:
    """The figures of two versions; those of different protocols are shown and not compared."""
    tracking = _tracking(at)
    from components.registry.evidence import benchmark_of
    from components.registry.queries import compare as differences

    found = differences(tracking, one, other)
    if as_json:
        print_json(found)
        return
    table = Table("figure", one, other, "difference", "95 % interval")
    for each in found:
        difference = (
            "" if each.left is None or each.right is None else f"{each.right - each.left:+.6g}"
        )
        interval = (
            "" if each.low is None or each.high is None else f"{each.low:+.4g} to {each.high:+.4g}"
        )
        said = difference if each.comparable or not difference else "other protocol"
        table.add_row(each.metric, _figure(each.left), _figure(each.right), said, interval)
    console.print(table)
    for benchmark, fields in {
        benchmark_of(each.metric): each.protocol for each in found if each.protocol
    }.items():
        console.print(
            f"{benchmark} was run in two ways: {'; '.join(fields)}", soft_wrap=True, markup=False
        )


@models.command()
def history(name: Name, as_json: Json = False, at: ExecutionOverrides = []) -> None:
    """Every decision about a model: who, when, what, and why."""
    tracking = _tracking(at)
    from components.registry.queries import history as decisions

    found = decisions(tracking, name)
    if as_json:
        print_json(found)
        return
    table = Table("when", "by", "version", "decision", "champion", "why")
    for one in found:
        why = "; ".join(one.decision.reasons) or "; ".join(
            check.found for check in one.decision.checks[-1:]
        )
        champions = f"{one.champion_before or 'none'} -> {one.champion_after or 'none'}"
        table.add_row(one.decided_at, one.decided_by, str(one.version), one.outcome, champions, why)
    console.print(table)


@models.command()
def promote(
    version: Version,
    recipe: RecipeName = "starter",
    reason: Annotated[str, typer.Option(help="Kept with the decision.")] = "",
    sets: RecipeOverrides = [],
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """Judge a registered version by its recipe's gate, and make it the champion. Ends with 3 where the gate refuses.

    Whoever runs this approves of it, so nobody is asked, whatever the recipe says.
    """
    chosen, execution = load_recipe(recipe, sets), load_execution(at, runs=True)
    from flows.promote import promote_version
    from flows.steps.approval import current_user

    done = promote_version(version, chosen, execution, approved_by=current_user(), reason=reason)
    if as_json:
        print_json(done)
    else:
        table = Table("what the gate asks", "holds", "found")
        for check in done.decision.checks:
            table.add_row(check.rule, "yes" if check.passed else "no", check.found)
        if done.decision.checks:
            console.print(table)
        console.print(
            f"{done.model}/{done.version}: {done.decision.outcome}", soft_wrap=True, markup=False
        )
    if done.decision.outcome == "refused":
        raise typer.Exit(NEGATIVE_RESULT)


@models.command()
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option(help="Kept with the decision.")] = "",
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """Make the version before the champion the champion again."""
    tracking = _tracking(at)
    from components.registry.queries import rollback as roll_back
    from flows.runtime.events import emit_promotion_event
    from flows.steps.approval import current_user

    done = roll_back(tracking, name, f"{current_user()} (codegen models rollback)", reason)
    emit_promotion_event(done)
    if as_json:
        print_json(done)
        return
    console.print(
        f"{name}: version {done.champion_after} is the champion again, {done.champion_before} is previous"
    )


@models.command()
def pull(
    version: Version,
    folder: Annotated[Path, typer.Argument(help="Where to: a folder that does not exist yet.")],
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """A registered version as a plain Hugging Face folder, its digest compared."""
    import os
    import shutil
    import tempfile

    tracking = _tracking(at)
    from components.core.errors import ConfigError
    from components.registry.versions import download

    if folder.exists():
        raise ConfigError(
            f"{folder} exists",
            expected="a folder that does not exist yet",
            fix="choose another one",
        )
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "true")  # Here files are large.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        shutil.move(download(tracking, f"models:/{version}", Path(scratch)), folder)
    if as_json:
        print_json({"folder": folder, "version": version})
        return
    console.print(f"{folder}: {version}, as it was registered", soft_wrap=True, markup=False)


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="checkpoint/NAME-RECIPE, as a run prints it, or a checkpoint's folder."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Where to: a folder that does not exist yet.")],
    layout: Annotated[
        CheckpointFormat, typer.Option("--format", help="Whose class of transformers loads it.")
    ] = CheckpointFormat.codegen,
    dtype: Annotated[Dtype, typer.Option(help="How weights are stored.")] = Dtype.fp32,
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """A checkpoint as a plain Hugging Face folder, its logits compared with those of transformers first."""
    execution = load_execution(at)
    from flows.steps.resolve_model import export_model as export_checkpoint

    exported = export_checkpoint(execution, checkpoint, folder, layout=layout, dtype=dtype)
    if as_json:
        print_json(exported._asdict())
        return
    console.print(exported.line, soft_wrap=True, markup=False)


def _tracking(at: list[str]) -> Tracking:
    return load_execution(at).open_tracking()


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
