"""The model that training starts from, where a recipe names one: found, kept in the store, and looked at before all else.

One decision: it passes from flow to flow as an artifact, so that an alias of the registry is looked up once in a run.
"""

from __future__ import annotations

from prefect import flow

from components.core.artifact import Artifact
from flows.runtime.context import open_flow_context
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.resolve_model import find_model


@flow(name="find the initial model", flow_run_name="find {recipe.training.init_from}")
def resolve_init_checkpoint(
    recipe: Recipe, execution: Execution, parent_run: str | None = None
) -> Artifact:
    """The checkpoint that `training.init_from` names, which must not be None.

    Raises:
        ConfigError: there is no such model, or it is none that the recipe's first stage can start from.
        ArtifactError: it is damaged or incomplete.
        TrackingError: the registry has no such model.
    """
    from components.training.init_checks import check_init_model

    with open_flow_context(recipe, execution, "find the initial model", parent_run) as here:
        found = find_model(here, recipe.training.init_from or "")
        folder = here.store.fetch_verified(found)
        here.task(
            "check the initial model",
            lambda _: check_init_model(folder, recipe.training, recipe.model, recipe.tokenizer),
        )
    return found


def initial_of(
    recipe: Recipe, execution: Execution, parent_run: str | None = None
) -> Artifact | None:
    """`find_initial`, or None where training starts with new weights."""
    return (
        resolve_init_checkpoint(recipe, execution, parent_run)
        if recipe.training.init_from
        else None
    )
