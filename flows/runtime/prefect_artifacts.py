"""What Prefect's page shows of a flow run beside its steps: corpora, losses, scores, the way to MLflow, and progress.

One decision: what is shown are sections of `components.report`, those of the page of results among them, so that
Prefect, the page and the terminal say the same. It is a view: where Prefect does not take it, the run goes on and says so in
its log.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from components.core.artifact import Artifact
from components.core.network import is_http_uri, redact_credentials
from components.core.provenance import provenance
from flows.settings.execution import Execution, running_servers

if TYPE_CHECKING:  # They would import MLflow, torch and more than a flow needs to be looked at.
    from components.registry.tracking import TrackedRun
    from components.report.corpus import Rule
    from components.report.page import Section
    from components.report.results import Measurement, RunResults
    from components.training.metrics import StepMetrics
    from flows.runtime.context import FlowContext

logger = logging.getLogger(__name__)

_PROGRESS_EVERY_S = 5.0
"""Between two updates of a bar on the page."""
_USUAL_MLFLOW = "http://127.0.0.1:5000"
"""Where `codegen ui` and `codegen serve` put MLflow where nobody says otherwise."""


def publish_validation_results(
    here: FlowContext, what: str, rules: Sequence[Rule], run_id: str | None
) -> None:
    """Every rule that corpora were held against, those that broke above all, and where there is more.

    Args:
        rules: as `results.json` of a validation holds them.
        run_id: the MLflow run of that validation, which has them as a table; None where it is gone.
    """
    from components.report.corpus import rules_section

    kept = (
        f"[The same in MLflow]({_mlflow_run_url(run_id, here.run.experiment_id, here.execution)}). "
        if run_id
        else ""
    )
    docs = (
        here.execution.workspace_path / "gx" / "index.html"
    )  # As text: a browser opens no file from a server's page.
    more = f"\n{kept}Great Expectations' own pages, with more offenders and earlier versions: `{docs}`\n"
    _show(
        here,
        f"rules-{what}",
        [rules_section(what, rules)],
        f"What the {what} were held against",
        more,
    )


def show_corpora(
    here: FlowContext,
    raw: Mapping[str, Artifact],
    prepared: Mapping[str, Artifact],
    validations: Sequence[Artifact],
) -> None:
    """The corpora, from raw documents to tokens."""
    from components.report.corpus import corpus_section

    results = _results(here, raw=raw, prepared=prepared, validations=validations)
    _show(
        here, "corpora", [corpus_section(results, here.store)], "What was read, left out and kept"
    )


def show_training(here: FlowContext, checkpoints: Mapping[str, Artifact]) -> None:
    """The losses of the stages that are trained."""
    from components.report.training import training_section

    results = _results(here, checkpoints=checkpoints)
    _show(
        here,
        "training",
        [training_section(results, here.store)],
        "Loss over tokens, stage by stage",
    )


def show_scores(
    here: FlowContext,
    checkpoints: Mapping[str, Artifact],
    prepared: Mapping[str, Artifact],
    evaluations: Mapping[tuple[str, Measurement], Artifact],
    skipped: Mapping[str, str],
) -> None:
    """Bits per byte of every stage and corpus, and the benchmarks beside the paper's figures."""
    from components.report.bits_per_byte import bits_section
    from components.report.results_page import program_sections

    results = _results(
        here, checkpoints=checkpoints, prepared=prepared, evaluations=evaluations, skipped=skipped
    )
    sections = [bits_section(results, here.store), *program_sections(results, here.store)]
    _show(here, "scores", sections, "Bits per byte, and benchmarks beside the paper's")


def publish_mlflow_link(run: TrackedRun, execution: Execution, recipe: str) -> None:
    """The way to this flow run's record in MLflow."""
    _publish(
        lambda: create_link_artifact(
            link=_mlflow_run_url(run.id, run.experiment_id, execution),
            link_text=f"{run.name} in MLflow",
            key=_key(recipe, "mlflow"),
            description="Parameters, metrics, datasets and models. `codegen ui` shows it where no server runs.",
        )
    )


def _mlflow_run_url(run_id: str, experiment_id: str, execution: Execution) -> str:
    uri, serving = execution.tracking_uri or "", running_servers(execution)
    base = uri if is_http_uri(uri) else serving["mlflow"] if serving else _USUAL_MLFLOW
    return f"{redact_credentials(base.rstrip('/'))}/#/experiments/{experiment_id}/runs/{run_id}"


@contextmanager
def progress(recipe: str, stage: str, total: int) -> Iterator[Callable[[StepMetrics, str], None]]:
    """A bar on the page that follows a stage; what is yielded is told each step, and how it is described.

    Where Prefect is away the stage does not wait for it, as everything else does: the next step says more anyway.
    """
    title = f"train {stage}"
    bar = _publish(
        lambda: create_progress_artifact(
            0.0, key=_key(recipe, title.replace(" ", "-")), description=title
        )
    )
    last_s = time.monotonic()

    def follow(step: StepMetrics, words: str) -> None:
        nonlocal last_s
        if bar and (step.step == total or time.monotonic() - last_s >= _PROGRESS_EVERY_S):
            done = 100.0 * step.step / total
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                _publish(
                    lambda: update_progress_artifact(
                        cast(UUID, bar), progress=done, description=f"{title}: {words}"
                    )
                )
            last_s = (
                time.monotonic()
            )  # After it, so that one that takes long is not followed by the next.

    yield follow


def _results(
    here: FlowContext,
    *,
    raw: Mapping[str, Artifact] | None = None,
    prepared: Mapping[str, Artifact] | None = None,
    validations: Sequence[Artifact] = (),
    checkpoints: Mapping[str, Artifact] | None = None,
    evaluations: Mapping[tuple[str, Measurement], Artifact] | None = None,
    skipped: Mapping[str, str] | None = None,
) -> RunResults:
    """What the sections read; a part of a run that is not there yet is absent."""
    from components.report.results import RunResults

    return RunResults(
        recipe=here.recipe.name,
        raw=raw or {},
        prepared=prepared or {},
        validation=tuple(validations),
        checkpoints=checkpoints or {},
        evaluations=evaluations or {},
        skipped=skipped or {},
        total_s=0.0,
        provenance=provenance(),
    )


def _show(
    here: FlowContext, what: str, sections: Sequence[Section], description: str, more: str = ""
) -> None:
    from components.report.rendering import sections_markdown

    publish_markdown(here.recipe.name, what, sections_markdown(sections) + more, description)


def publish_markdown(about: str, what: str, text: str, description: str) -> None:
    """A text in Markdown; all that is told of the same under the same name is one series on the page."""
    _publish(
        lambda: create_markdown_artifact(
            markdown=text, key=_key(about, what), description=description
        )
    )


def _publish(send: Callable[[], object]) -> object:
    if flow_run.id is None:  # Not in a flow: nobody looks.
        return None
    try:
        return send()
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        logger.warning("Prefect's page lacks something: %s", error)
        return None


def _key(recipe: str, what: str) -> str:
    """Prefect takes lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{recipe}-{what}".lower()).strip("-")
