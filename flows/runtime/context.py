"""What every flow has on its desk: the recipe, the store, the tracking server, and one way to make a thing.

`Desk.make` is the only bridge between the three systems. It runs as a Prefect task, so the page shows a step by its name;
it asks the store, which alone decides reuse (Prefect's own task cache stays off: its key contains the run's id); and it
opens a child run in MLflow. Live objects stay on the desk; flows pass recipes, executions and artifacts, all plain data.
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
from prefect.tasks import exponential_backoff
from pydantic import JsonValue
from rich.console import Console

from components.core.artifact import Artifact, Kind, recipe_hash
from components.core.config import Config
from components.core.processes import skip_final_gc
from components.core.store import BuildResult, Store
from flows.runtime.prefect_artifacts import publish_mlflow_link
from flows.runtime.stale_runs import mark_stale_runs_crashed, record_owner
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe

if TYPE_CHECKING:  # It would import MLflow.
    from components.registry.tracking import TrackedRun

T = TypeVar("T")

_BACKOFF_S = 5
"""Before the first retry; twice that before the second (assumption: a network comes back in seconds or not at all)."""

_KINDS_SHOWN_IN_CHARTS = ("checkpoint", "evaluation")
"""Kinds whose runs stand beside one another in charts."""

TrackedBuild = Callable[[Path, "TrackedRun"], Mapping[str, JsonValue]]
"""Fills a folder, may log to its MLflow run, and returns the statistics of what it made."""


@dataclass(frozen=True)
class FlowContext:
    """The open store and tracking of one flow run."""

    recipe: Recipe
    execution: Execution
    store: Store
    run: TrackedRun
    """The MLflow run under which this flow's steps are filed."""
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
    ) -> Artifact:
        """The artifact of this recipe, made in a named step or reused; see `Store.get_or_build`."""

        def step(run: TrackedRun) -> BuildResult:
            started = time.monotonic()
            run.log_params(config)
            run.log_inputs(parents.values(), context=kind)
            built = self.store.get_or_build(
                kind,
                name,
                config=config,
                parents=parents,
                code_version=code_version,
                build=lambda folder: build(folder, run),
                resumable=resumable,
            )
            benchmark = (tags or {}).get("benchmark") if kind == "evaluation" else None
            run.log_output_artifact(built.artifact, reused=built.reused, benchmark=benchmark)
            self.print_step(
                title,
                "reused" if built.reused else f"{time.monotonic() - started:.1f} s",
                built.artifact,
            )
            return built

        # Runs that are compared must not look alike: they carry the first digits of what the terminal prints in full.
        digits = (
            f" {recipe_hash(config, parents, code_version)[:6]}"
            if kind in _KINDS_SHOWN_IN_CHARTS
            else ""
        )
        return self.task(title, step, tags=tags, run_name=title + digits).artifact

    def task(
        self,
        title: str,
        step: Callable[[TrackedRun], T],
        *,
        tags: Mapping[str, str] | None = None,
        retry_if: Callable[[object], bool] | None = None,
        run_name: str | None = None,
    ) -> T:
        """Run a step as a Prefect task with an MLflow child run, both of that name (or the latter of `run_name`); what was
        reused ends as `Reused`.

        Where `retry_if` holds for the error it failed with, it is run twice more, after a while and after a longer one: only
        for what may mend itself.
        """
        made: list[T] = []

        def tracked() -> State[None] | None:
            with self.run.child(run_name or title, tags=tags, system_metrics=True) as run:
                value = step(run)
            made.append(value)
            if isinstance(value, BuildResult) and value.reused:
                return Completed(name="Reused", message=value.artifact.label)
            return None

        as_task = task(
            name=title,
            task_run_name=title,
            cache_policy=NO_CACHE,
            retries=2 if retry_if else 0,
            retry_delay_seconds=exponential_backoff(_BACKOFF_S),
            timeout_seconds=self.execution.step_timeout_s,
            retry_condition_fn=(
                lambda _task, _run, state: retry_if(state.result(raise_on_failure=False))
            )
            if retry_if
            else None,
        )
        as_task(tracked)()
        return made[-1]

    def print_step(self, title: str, how: str, artifact: Artifact | None = None) -> None:
        """One line on the terminal for a finished step."""
        label = f"[dim]{artifact.label}  {artifact.digest[:12]}[/dim]" if artifact else ""
        self.console.print(f"[green]✓[/green] {title:<34} {how:>9}  {label}", soft_wrap=True)

    def warn(self, message: str) -> None:
        """One line on the terminal for what a person should know, though the run goes on."""
        self.console.print(f"[yellow]![/yellow] {message}", soft_wrap=True)


@contextmanager
def open_flow_context(
    recipe: Recipe, execution: Execution, title: str, parent_run: str | None
) -> Iterator[FlowContext]:
    """Open the desk of a flow: its run lies below `parent_run`, or stands alone where the flow does.

    Raises:
        TrackingError: the tracking server does not answer: said at once where the flow begins, before anything is made.
        StorageFull: fewer megabytes are free than `Execution.min_free_disk_mb` asks for.
        ArtifactError: another version of codegen wrote the store.
    """
    # Prefect takes what these log to its page, where it passes their level; without one of their own, only warnings do.
    for name in ("components", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)
    if parent_run is None:
        skip_final_gc()  # Prefect's processes for runs of deployments, too.
        execution.require_disk_space()
        mark_stale_runs_crashed(execution)
    store = execution.open_store()
    store.require_format()
    with record_owner(execution), _run(recipe, execution, title, parent_run) as run:
        publish_mlflow_link(run, execution, recipe.name)
        yield FlowContext(recipe, execution, store, run)


def _run(
    recipe: Recipe, execution: Execution, title: str, parent_run: str | None
) -> AbstractContextManager[TrackedRun]:
    tracking = execution.open_tracking()
    tracking.check(wait=parent_run is not None)
    if parent_run:
        return tracking.child(parent_run, title)
    return tracking.run(
        f"{title} {recipe.name}", experiment=recipe.name, tags={"family": recipe.name}
    )
