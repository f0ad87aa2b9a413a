"""Promotion of a version that is registered already, by the gate of a recipe and the evidence that is recorded of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from prefect import flow
from prefect.states import Completed

from components.core.errors import ConfigError
from components.core.network import redact_credentials
from components.data.config import CORPORA as STAGES
from flows.runtime.context import open_flow_context
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, recipe_name_for_model
from flows.steps.approval import decide_promotion

if TYPE_CHECKING:  # They would import MLflow.
    from components.registry.evidence import Evidence
    from components.registry.promotion import Promotion
    from components.registry.queries import ModelVersionInfo
    from components.registry.tracking import Tracking
else:
    Promotion = Any  # Prefect evaluates a flow's annotations for its form, and shows no types where one has no meaning.


@flow(name="promote-version", flow_run_name="promote {model}")
def promote_version(
    model: str, recipe: Recipe, execution: Execution, approved_by: str = "", reason: str = ""
) -> Promotion:
    """Judge a registered version, and make it the champion where it passes.

    Args:
        model: NAME/VERSION or NAME@ALIAS, `codegen-starter-mono@candidate` say.
        recipe: its `promotion` is the gate; nothing else of it plays a part.
        approved_by: who approves, in starting this flow. Empty: where the gate wants a person's word, the flow asks for it.
        reason: of that person.

    Raises:
        TrackingError: there is no such version.
        ConfigError: it is not of this recipe, no evidence is recorded of it, or the gate has no requirements for its stage.
    """
    from components.registry.promotion import CANDIDATE, version_at
    from components.registry.queries import evidence_at, get_version

    _require_own(recipe, re.split("[@/]", model)[0])
    name, _, alias = model.partition("@")
    if (
        alias == CANDIDATE
        and not approved_by
        and version_at(execution.open_tracking(), name, CANDIDATE) is None
    ):
        # So it is on most mornings. Prefect takes a state that a flow returns for the flow's own.
        return cast(Promotion, Completed(name="NothingToJudge", message=f"{name} has no candidate"))
    with open_flow_context(recipe, execution, "promote version", None) as here:
        tracking = here.run.tracking
        found = get_version(tracking, model)
        evidence = _require_evidence(
            tracking, found, evidence_at(tracking, f"{found.model}/{found.version}")
        )
        return decide_promotion(
            here,
            found.model,
            found.version,
            found.stage,
            evidence,
            approved_by=approved_by,
            reason=reason,
        )


def _require_own(recipe: Recipe, name: str) -> None:
    """Check that a model is one of a recipe's: another recipe's gate may ask for less, or for other things."""
    if name in {f"{recipe.name}-{stage}" for stage in STAGES}:
        return
    own = recipe_name_for_model(name)
    raise ConfigError(
        f"the recipe {recipe.name} is to judge {name}, which it does not make",
        expected=f"a model of that recipe, {recipe.name}-{STAGES[-1]} say, or the recipe that made the model",
        fix=f"give {f'-r {own}' if own else '-r RECIPE'}, and --set name=... where that recipe was given another name",
    )


def _require_evidence(tracking: Tracking, found: ModelVersionInfo, evidence: Evidence) -> Evidence:
    if not evidence.metrics:
        raise ConfigError(
            f"nothing is recorded of what {found.model}/{found.version} can do ({redact_credentials(tracking.uri)})",
            expected="a version that a gate has judged once: its evidence is kept with it",
            fix="run `codegen promote` with the recipe that made it",
        )
    return evidence
