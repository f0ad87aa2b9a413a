"""What a flow asks of recipe and execution before anything expensive: found now, not after hours of training.

What a recipe alone decides is checked when it is parsed (`Recipe`); here is what needs the place of the run, or a file.
"""

from __future__ import annotations

from flows.settings.execution import Execution
from flows.settings.recipes import Recipe


def preflight_check(recipe: Recipe, execution: Execution) -> None:
    """Find now what would stop a flow of several steps half-way.

    Raises:
        ConfigError: the gate asks nothing of a stage, or a stage's batch does not divide over the processes.
        EvaluationError: the MTPB file that was given is missing or another one, or HumanEval's is.
    """
    from components.evaluation.benchmarks.humaneval import load_humaneval
    from components.evaluation.benchmarks.mtpb import find_mtpb
    from components.registry.gate import require_rules
    from components.training.deepspeed_config import check_batch_division

    load_humaneval()
    if execution.mtpb_path:
        find_mtpb(execution.mtpb_path, execution.workspace_path / "cache")
    for stage, settings in recipe.training.trained.items():
        require_rules(recipe.promotion, stage)
        check_batch_division(settings, execution.training, recipe.model.context_length)
