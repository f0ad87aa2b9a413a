"""Promotion flows: register and promote all checkpoints, promote a version, roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from prefect import State, flow
from prefect.states import Completed

from components.core.artifact import Artifact
from components.core.markdown import escape, escape_inline
from flows.evaluate import Evaluations, evaluate
from flows.prepare import PreparedData
from flows.runtime.context import open_flow_context
from flows.runtime.events import emit_promotion_event
from flows.runtime.health_checks import preflight_check
from flows.runtime.prefect_artifacts import publish_markdown
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.approval import (
    check_recipe_of_model,
    current_user,
    decide_promotion,
    is_missing_candidate,
    load_evidence,
)
from flows.steps.registration import register_checkpoint
from flows.train import prepare_and_train

if TYPE_CHECKING:  # Imports MLflow.
    from components.registry.promotion import Promotion
else:
    Promotion = Any  # Prefect evaluates annotations for its form, which then shows no types.


@flow(name="promote", flow_run_name="promote {recipe.name}")
def promote(
    recipe: Recipe,
    execution: Execution,
    corpora: PreparedData | None = None,
    checkpoints: dict[str, Artifact] | None = None,
    evaluations: Evaluations | None = None,
    parent_run: str | None = None,
) -> list[Promotion]:
    """Register every checkpoint and evaluate the gate; run earlier flows first if None is given."""
    if parent_run is None:  # The pipeline has checked this already.
        preflight_check(recipe, execution)
    corpora, checkpoints = prepare_and_train(recipe, execution, corpora, checkpoints, parent_run)
    evaluations = evaluations or evaluate(
        recipe, execution, corpora, checkpoints, parent_run=parent_run
    )
    promotions: list[Promotion] = []
    with open_flow_context(recipe, execution, "promote", parent_run) as context:
        for stage, checkpoint in checkpoints.items():
            version, evidence = register_checkpoint(
                context,
                stage,
                checkpoint,
                corpora.raw,
                corpora.prepared,
                evaluations.of_stage(stage),
                evaluations.skipped,
            )
            promotion = decide_promotion(context, checkpoint.name, version, stage, evidence)
            context.print_step(f"promote {stage}", promotion.decision.outcome)
            context.console.print(f"  {promotion.summary}", soft_wrap=True, markup=False)
            promotions.append(promotion)
    return promotions


@flow(name="promote-version", flow_run_name="promote {model}")
def promote_version(
    model: str, recipe: Recipe, execution: Execution, approved_by: str = "", reason: str = ""
) -> Promotion:
    """Evaluate the gate for a registered version; promote it to champion if it passes.

    Args:
        model: NAME/VERSION or NAME@ALIAS, e.g. `codegen-starter-mono@candidate`.
        recipe: the recipe of the model; only its `promotion` is used.
        execution: where the model is registered.
        approved_by: the user who approves. Empty: the flow requests an approval if the gate
            requires one.
        reason: reason of the approval.

    Raises:
        TrackingError: there is no such version.
        ConfigError: the model belongs to another recipe, has no recorded evidence, or the gate has
            no requirements for its stage.
    """
    check_recipe_of_model(recipe, model)
    if not approved_by and is_missing_candidate(execution, model):
        # Frequent in scheduled runs. Prefect uses a returned state as the state of the flow.
        state: State[None] = Completed(name="NoCandidate", message=f"{model} does not exist")
        return cast(Promotion, state)
    with open_flow_context(recipe, execution, "promote version", None) as context:
        version, evidence = load_evidence(context.run.tracking, model)
        return decide_promotion(
            context,
            version.model,
            version.version,
            version.stage,
            evidence,
            approved_by=approved_by,
            reason=reason,
        )


@flow(name="rollback", flow_run_name="roll back {model}")
def rollback(model: str, execution: Execution, reason: str = "", decided_by: str = "") -> Promotion:
    """Make the version with the alias `previous` the champion again, and the champion `previous`.

    Args:
        model: name of a registered model, e.g. `codegen-starter-mono`.
        execution: where the model is registered.
        reason: recorded with the decision.
        decided_by: recorded with the decision. Empty: the user of this process.

    Raises:
        TrackingError: there is no such model, no champion, or no previous champion.
    """
    from components.registry.queries import rollback as roll_back_champion

    promotion = roll_back_champion(
        execution.open_tracking(), model, decided_by or f"{current_user()} (flow rollback)", reason
    )
    text = f"# {escape_inline(promotion.summary)}\n\n{escape(reason)}\n"
    publish_markdown(model, "promotion", text, promotion.summary)
    emit_promotion_event(promotion)
    return promotion
