"""`codegen models, export, complete`: registered models, promotion, export and completions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.core.config import INT64_MAX
from components.model.config import CheckpointFormat, Dtype
from flows.cli.options import (
    MODEL_HELP,
    NEGATIVE_RESULT,
    NumSamples,
    Port,
    command,
    console,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from flows.settings.execution import Execution
    from flows.settings.recipes import Recipe

models = typer.Typer(
    no_args_is_help=True, help="List, compare, promote, roll back and serve registered models."
)

Version = Annotated[str, typer.Argument(help="Model version as NAME@ALIAS or NAME/VERSION.")]
ModelName = Annotated[str, typer.Argument(help="Name of a registered model.")]
Reason = Annotated[str, typer.Option(help="Reason, stored with the decision.")]
NewFolder = Annotated[Path, typer.Argument(help="Target folder; it must not exist.")]


@models.command("list")
@command()
def list_models(
    execution: Execution,
    as_json: bool,
    *,
    name: Annotated[str, typer.Argument(help="Only versions of this model.")] = "",
) -> None:
    """List all versions with their aliases and decisions."""
    tracking = execution.open_tracking()
    from components.registry.queries import list_versions

    versions = list_versions(tracking, name or None)
    if as_json:
        print_json(versions)
        return
    if not versions:
        console.print("no registered models; `codegen promote` registers checkpoints")
        return
    print_table(
        ["version", "stage", "checkpoint", "decision", "by"],
        [
            (
                version.label,
                version.stage,
                version.digest[:12],
                f"{version.decision} {_minute(version.decided_at)}".strip(),
                version.decided_by,
            )
            for version in versions
        ],
    )


@models.command()
@command()
def show(version: Version, execution: Execution, as_json: bool) -> None:
    """Show a version and the metrics of its last gate evaluation."""
    tracking = execution.open_tracking()
    from components.registry.queries import get_version

    info = get_version(tracking, version)
    if as_json:
        print_json(info)
        return
    decision = "none"
    if info.decision:
        decision = f"{info.decision} {info.decided_at} by {info.decided_by}"
    rows = [
        ("stage", info.stage),
        ("checkpoint", info.digest),
        ("code", info.git_commit),
        ("decision", decision),
        *((name, f"{value:.6g}") for name, value in info.metrics.items()),
    ]
    print_table(["version", info.label], rows)


@models.command()
@command()
def compare(left: Version, right: Version, execution: Execution, as_json: bool) -> None:
    """Compare the metrics of two versions; metrics of different protocols have no difference."""
    tracking = execution.open_tracking()
    from components.registry.config import benchmark_of
    from components.registry.queries import compare as compare_versions

    metrics = compare_versions(tracking, left, right)
    if as_json:
        print_json(metrics)
        return
    rows = []
    for row in metrics:
        difference = interval = ""
        if row.left is not None and row.right is not None:
            difference = f"{row.right - row.left:+.6g}" if row.comparable else "other protocol"
        if row.ci_low is not None and row.ci_high is not None:
            interval = f"{row.ci_low:+.4g} to {row.ci_high:+.4g}"
        rows.append((row.metric, _number(row.left), _number(row.right), difference, interval))
    print_line(f"left {left}, right {right}")
    print_table(["metric", "left", "right", "difference", "95 % interval"], rows)
    protocols = {benchmark_of(row.metric): row.protocol for row in metrics if row.protocol}
    for benchmark, fields in protocols.items():
        print_line(f"{benchmark} has two protocols: {'; '.join(fields)}")


@models.command()
@command()
def history(name: ModelName, execution: Execution, as_json: bool) -> None:
    """List all decisions about a model with time, user and reason."""
    tracking = execution.open_tracking()
    from components.registry.queries import history as list_decisions

    records = list_decisions(tracking, name)
    if as_json:
        print_json(records)
        return
    rows = []
    for record in records:
        reason = "; ".join(record.decision.reasons)
        if not reason:
            reason = "; ".join(check.detail for check in record.decision.checks[-1:])
        champions = f"{record.champion_before or 'none'} -> {record.champion_after or 'none'}"
        rows.append(
            (
                _minute(record.decided_at),
                record.decided_by,
                str(record.version),
                record.outcome,
                champions,
                reason,
            )
        )
    print_table(["time", "by", "version", "decision", "champion", "reason"], rows)


@models.command()
@command(runs=True)
def promote(
    version: Version,
    recipe: Recipe,
    execution: Execution,
    as_json: bool,
    *,
    reason: Reason = "",
) -> None:
    """Evaluate the gate of a recipe for a registered version, and promote it to champion. Exits
    with 3 if the gate refuses it.

    Running this command is the approval, even if the recipe requires a reviewer.
    """
    from flows.promote import promote_version
    from flows.steps.approval import current_user

    promotion = promote_version(
        version, recipe, execution, approved_by=current_user(), reason=reason
    )
    outcome = promotion.decision.outcome
    if as_json:
        print_json(promotion)
    else:
        checks = promotion.decision.checks
        rows = [(check.rule, "yes" if check.passed else "no", check.detail) for check in checks]
        if rows:
            print_table(["gate rule", "passed", "result"], rows)
        print_line(f"{promotion.model}/{promotion.version}: {outcome}")
    if outcome == "refused":
        raise typer.Exit(NEGATIVE_RESULT)


@models.command()
@command()
def rollback(name: ModelName, execution: Execution, as_json: bool, *, reason: Reason = "") -> None:
    """Make the previous champion the champion again."""
    tracking = execution.open_tracking()
    from components.registry.queries import rollback as rollback_champion
    from flows.runtime.events import emit_promotion_event
    from flows.steps.approval import current_user

    promotion = rollback_champion(
        tracking, name, f"{current_user()} (codegen models rollback)", reason
    )
    emit_promotion_event(promotion)
    if as_json:
        print_json(promotion)
        return
    console.print(
        f"{name}: version {promotion.champion_after} is champion again, "
        f"{promotion.champion_before} is previous"
    )


@models.command()
@command()
def pull(version: Version, folder: NewFolder, execution: Execution, as_json: bool) -> None:
    """Download a registered version as a Hugging Face folder and verify its digest."""
    import shutil
    import tempfile

    tracking = execution.open_tracking()
    from components.core.errors import ConfigError
    from components.registry.versions import download

    if folder.exists():
        raise ConfigError(
            f"{folder} exists",
            expected="a folder that does not exist",
            fix="choose another folder",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        shutil.move(download(tracking, f"models:/{version}", Path(scratch)), folder)
    if as_json:
        print_json({"folder": folder, "version": version})
    else:
        print_line(f"{folder}: {version}, digest verified")


@models.command("serve")
@command()
def serve_model(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    execution: Execution,
    *,
    host: Annotated[
        str,
        typer.Option(
            help="Listening address; beyond loopback, other machines need no password either."
        ),
    ] = "127.0.0.1",
    port: Port = 8000,
    allowed_host: Annotated[
        list[str],
        typer.Option(
            help="Additional host name that requests may use. Repeatable.",
            metavar="NAME",
            default_factory=list,
            show_default=False,
        ),
    ],
) -> None:
    """Serve completions of a model over REST: POST /v1/completions, compatible with OpenAI."""
    from flows.servers.completions import serve
    from flows.steps.resolve_model import locate_model

    location = locate_model(execution, model)
    serve(
        location.folder,
        name=model,
        digest=location.digest,
        host=host,
        port=port,
        console=console,
        allowed_hosts=allowed_host,
    )


@command()
def complete(
    prompt: Annotated[str, typer.Argument(help="Text to complete.")],
    execution: Execution,
    as_json: bool,
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", help=MODEL_HELP)
    ] = "codegen-starter-mono@champion",
    num_samples: Annotated[int, NumSamples] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per completion.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy decoding.")
    ] = 0.2,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling probability.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, max=INT64_MAX, help="Random seed.")] = 0,
    no_truncate: Annotated[
        bool, typer.Option("--no-truncate", help="Do not truncate by the rules of HumanEval.")
    ] = False,
) -> None:
    """Complete a prompt with a model; the completion is printed and never executed."""
    from components.evaluation.sampling.completion import CompletionParams
    from components.evaluation.sampling.completion import complete as sample_completions
    from components.evaluation.sampling.sampler import Sampler
    from flows.steps.resolve_model import locate_model

    params = CompletionParams.parse(
        {
            "num_samples": num_samples,
            "max_new_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "truncated": not no_truncate,
        }
    )
    sampler = Sampler(locate_model(execution, model).folder)
    completions = sample_completions(sampler, prompt, params)
    if as_json:
        print_json({"model": model, "prompt": prompt, "completions": completions})
        return
    for index, completion in enumerate(completions):
        if index:
            console.rule()
        console.out(prompt + completion.text, highlight=False)


@command()
def export(
    checkpoint: Annotated[
        str, typer.Argument(help="checkpoint/NAME-RECIPE, as a run prints it, or its folder.")
    ],
    folder: NewFolder,
    execution: Execution,
    as_json: bool,
    *,
    checkpoint_format: Annotated[
        CheckpointFormat, typer.Option("--format", help="Model class of transformers.")
    ] = CheckpointFormat.codegen,
    dtype: Annotated[Dtype, typer.Option(help="Data type of the weights.")] = Dtype.fp32,
) -> None:
    """Export a checkpoint as a Hugging Face folder and verify its logits."""
    from flows.steps.resolve_model import export_model

    result = export_model(
        execution, checkpoint, folder, checkpoint_format=checkpoint_format, dtype=dtype
    )
    if as_json:
        print_json(result)
    else:
        print_line(result.summary)


def _minute(time: str) -> str:
    """Return an ISO time as `2026-11-30 14:05`, in UTC; `--json` has the seconds."""
    return time[:16].replace("T", " ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
