"""The context of a flow: recipe, execution config, artifact store and MLflow run.

`FlowContext.get_or_build` is the only connection between Prefect, the store and MLflow. It runs a
build as a Prefect task with an MLflow child run. Only the store decides whether an artifact is
reused; Prefect's task cache stays off because its key contains the id of the flow run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from prefect.task_engine import TaskRunTimeoutError
from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape

from components.core.artifact import Artifact, Kind, recipe_hash
from components.core.config import Config
from components.core.errors import CodegenError
from components.core.processes import skip_final_gc
from components.core.store import BuildResult, Store
from flows.runtime.prefect_artifacts import publish_mlflow_link
from flows.runtime.stale_runs import (
    check_num_restarts,
    mark_stale_runs_crashed,
    record_owner,
)
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe

if TYPE_CHECKING:  # Imports MLflow.
    from components.registry.tracking import TrackedRun

T = TypeVar("T")

_NUM_RETRIES = 2
_RETRY_DELAY_S = 5
"""Delay before the first retry; each further delay is twice as long. Assumption: networks recover
in seconds or not at all."""
_MAX_RETRY_DELAY_S = 300
_MAX_RETRY_DELAYS = 50
"""Delays that Prefect accepts; it repeats the last."""

_KINDS_SHOWN_IN_CHARTS = ("checkpoint", "evaluation")
"""Artifact kinds whose MLflow runs are compared in charts."""

_warnings: set[str] = set()
"""Printed by this process."""

TrackedBuild = Callable[[Path, "TrackedRun"], Mapping[str, JsonValue]]
"""Fills a folder, may log to its MLflow run, and returns the statistics of the artifact."""


@dataclass(frozen=True)
class FlowContext:
    """The recipe, execution config, store and MLflow run of a flow run."""

    recipe: Recipe
    execution: Execution
    store: Store
    run: TrackedRun
    """The MLflow run of the flow; its steps are child runs."""
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def get_or_build(
        self,
        title: str,
        kind: Kind,
        name: str,
        *,
        config: Config | Mapping[str, Any],
        parents: Mapping[str, Artifact],
        code_version: int,
        build: TrackedBuild,
        resumable: bool = False,
        tags: Mapping[str, str] | None = None,
        retry_if: Callable[[object], bool] | None = None,
        num_retries: int = _NUM_RETRIES,
    ) -> Artifact:
        """Return the artifact of this recipe, reused or built in a task; see `Store.get_or_build`.

        Args:
            title: name of the Prefect task and of the MLflow run.
            tags: tags of the MLflow run; `benchmark` is also logged with an evaluation.
            retry_if: see `task`.
            num_retries: see `task`. Each attempt has an MLflow run of its own.
        """

        def step(run: TrackedRun) -> BuildResult:
            started_s = time.monotonic()
            run.log_params(config)
            run.log_inputs(parents.values(), context=kind)
            result = self.store.get_or_build(
                kind,
                name,
                config=config,
                parents=parents,
                code_version=code_version,
                build=lambda folder: build(folder, run),
                resumable=resumable,
            )
            benchmark = (tags or {}).get("benchmark") if kind == "evaluation" else None
            run.log_output_artifact(result.artifact, reused=result.reused, benchmark=benchmark)
            duration = "reused" if result.reused else f"{time.monotonic() - started_s:.1f} s"
            self.print_step(title, duration, result.artifact)
            return result

        run_name = title
        if kind in _KINDS_SHOWN_IN_CHARTS:  # Charts need distinct names for runs of two recipes.
            run_name = f"{title} {recipe_hash(config, parents, code_version)[:6]}"
        return self.task(
            title,
            step,
            tags=tags,
            run_name=run_name,
            retry_if=retry_if,
            num_retries=num_retries,
        ).artifact

    def task(
        self,
        title: str,
        step: Callable[[TrackedRun], T],
        *,
        tags: Mapping[str, str] | None = None,
        retry_if: Callable[[object], bool] | None = None,
        num_retries: int = _NUM_RETRIES,
        run_name: str | None = None,
    ) -> T:
        """Run a step as a Prefect task with an MLflow child run.

        The task ends in the state `Cached` if the step reused an artifact.

        Args:
            title: name of the task.
            step: the body; receives the MLflow child run.
            tags: tags of the MLflow run.
            retry_if: whether an error is transient; only such errors are retried.
            num_retries: maximum number of retries.
            run_name: name of the MLflow run if it differs from `title`.

        Raises:
            CodegenError: the step took longer than `Execution.step_timeout_s`.
        """
        results: list[T] = []

        def tracked_step() -> State[None] | None:
            with self.run.child(run_name or title, tags=tags, system_metrics=True) as run:
                result = step(run)
            results.append(result)
            if isinstance(result, BuildResult) and result.reused:
                return Completed(name="Cached", message=result.artifact.label)
            return None

        def is_transient(_task: object, _run: object, state: State[Any]) -> bool:
            return retry_if is not None and retry_if(state.result(raise_on_failure=False))

        run_task = task(
            name=title,
            task_run_name=title,
            cache_policy=NO_CACHE,
            retries=num_retries if retry_if else 0,
            retry_delay_seconds=retry_delays(num_retries),
            timeout_seconds=self.execution.step_timeout_s,
            retry_condition_fn=is_transient if retry_if else None,
        )
        try:
            run_task(tracked_step)()
        except TaskRunTimeoutError:
            raise CodegenError(
                f"the step {title!r} was stopped after {self.execution.step_timeout_s:g} s",
                expected="a step that ends within step_timeout_s",
                fix="run the same command again to resume, with a higher --exec step_timeout_s=... "
                "if the step needs more time",
            ) from None
        return results[-1]

    def print_step(self, title: str, result: str, artifact: Artifact | None = None) -> None:
        """Print a line for a finished step; a second line if the terminal is too narrow."""
        text = f"✓ {title:<34} {result:>9}"
        line = escape(text).replace("✓", "[green]✓[/green]", 1)
        if artifact:
            label = f"{artifact.label}  {artifact.digest[:12]}"
            is_narrow = len(f"{text}  {label}") > self.console.width
            line += ("\n    " if is_narrow else "  ") + f"[dim]{label}[/dim]"
        self.console.print(line, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning once per process: several flows of a run may find the same problem."""
        if message not in _warnings:
            _warnings.add(message)
            self.console.print(f"[yellow]![/yellow] {escape(message)}", soft_wrap=True)


def retry_delays(num_retries: int) -> list[float]:
    """Return the delays in seconds before the retries of a task."""
    num_delays = min(num_retries, _MAX_RETRY_DELAYS)
    return [min(_RETRY_DELAY_S * 2.0**retry, _MAX_RETRY_DELAY_S) for retry in range(num_delays)]


@contextmanager
def open_flow_context(
    recipe: Recipe, execution: Execution, title: str, parent_run: str | None
) -> Iterator[FlowContext]:
    """Open the store and an MLflow run for a flow.

    Args:
        title: name of the MLflow run; a top-level run also has the name of the recipe.
        parent_run: id of the parent MLflow run; None opens a top-level run.

    Raises:
        TrackingError: the tracking server does not respond.
        DiskFullError: less than `Execution.min_free_disk_mb` is free.
        ArtifactError: another version of codegen wrote the store.
    """
    # Prefect's log handler receives INFO records only from loggers with a level of their own.
    for name in ("components", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)
    if parent_run is None:
        skip_final_gc()  # Deployed flow runs have no command-line entry that would do this.
        execution.require_disk_space()
        mark_stale_runs_crashed(execution)
        check_num_restarts(execution.max_restarts)
    store = execution.open_store()
    store.require_format()
    with (
        store.use(title),
        record_owner(execution),
        _open_run(recipe, execution, title, parent_run) as run,
    ):
        publish_mlflow_link(run, execution, recipe.name)
        yield FlowContext(recipe, execution, store, run)


def _open_run(
    recipe: Recipe, execution: Execution, title: str, parent_run: str | None
) -> AbstractContextManager[TrackedRun]:
    tracking = execution.open_tracking()
    tracking.check(wait=parent_run is not None)
    if parent_run:
        return tracking.child(parent_run, title)
    return tracking.run(
        f"{title} {recipe.name}", experiment=recipe.name, tags={"family": recipe.name}
    )
