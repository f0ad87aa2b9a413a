"""The model that training starts from, where a recipe names one: found, kept in the store, and looked at before all else.

One decision: it passes from flow to flow as an artifact, so that an alias of the registry is looked up once in a run.
"""

from __future__ import annotations

from prefect import flow

from components.core.artifact import Artifact
from flows.desk import desk
from flows.execution import Execution
from flows.models import find_model
from flows.recipes import Recipe


@flow(name="find the initial model", flow_run_name="find {recipe.training.initial}")
def find_initial(recipe: Recipe, execution: Execution, parent_run: str | None = None) -> Artifact:
    """The checkpoint that `training.initial` names, which must not be None.

    Raises:
        ConfigError: there is no such model, or it is none that the recipe's first stage can start from.
        ArtifactError: it is damaged or incomplete.
        TrackingError: the registry has no such model.
    """
    from components.training.initial import require_initial

    with desk(recipe, execution, "find the initial model", parent_run) as here:
        found = find_model(here, recipe.training.initial or "")
        folder = here.store.open(found)
        here.task(
            "check the initial model", lambda _: require_initial(folder, recipe.training, recipe.model, recipe.tokenizer)
        )
    return found


def initial_of(recipe: Recipe, execution: Execution, parent_run: str | None = None) -> Artifact | None:
    """`find_initial`, or None where training starts with new weights."""
    return find_initial(recipe, execution, parent_run) if recipe.training.initial else None
