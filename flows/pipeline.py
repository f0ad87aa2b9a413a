"""The whole pipeline: a flow of the subflows prepare, train, evaluate and promote, and the report.

The store decides about reuse, the gate about promotion.
"""

from __future__ import annotations

import time

from prefect import flow

from components.core.provenance import provenance
from flows.evaluate import evaluate
from flows.prepare import prepare
from flows.promote import promote
from flows.runtime.context import open_flow_context
from flows.runtime.health_checks import preflight_check
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.follow import scores_during_training
from flows.steps.report import ReportPaths, registered_versions, stage_gate_results, write_report
from flows.steps.stage_gate import find_stage_decisions
from flows.train import find_init_checkpoint, train


@flow(name="pipeline", flow_run_name="pipeline {recipe.name}")
def pipeline(recipe: Recipe, execution: Execution) -> ReportPaths:
    """From raw archives to promoted models and a results report."""
    started_s = time.monotonic()
    run_provenance = provenance()
    recipe.require_corpora()
    with open_flow_context(recipe, execution, "pipeline", None) as context:
        from components.report.results import RunResults

        run_id = context.run.id
        context.run.log_params(recipe)
        context.task("check settings", lambda _: preflight_check(recipe, execution))
        init = find_init_checkpoint(recipe, execution, run_id)
        corpora = prepare(
            recipe,
            execution,
            parent_run=run_id,
            init_checkpoint=init,
            stages=list(recipe.training.trained),
        )
        checkpoints = train(recipe, execution, corpora, parent_run=run_id, init_checkpoint=init)
        evaluations = evaluate(recipe, execution, corpora, checkpoints, parent_run=run_id)
        promotions = promote(
            recipe, execution, corpora, checkpoints, evaluations, parent_run=run_id
        )
        decisions = find_stage_decisions(
            context, checkpoints, {stage: evaluations.of_stage(stage) for stage in checkpoints}
        )
        during_training = scores_during_training(
            context, corpora.prepared, corpora.tokenizer, init, evaluations.bits_per_byte
        )
        results = RunResults(
            recipe=recipe.name,
            raw=corpora.raw,
            validation=tuple(corpora.validations.values()),
            tokenizer=corpora.tokenizer,
            prepared=corpora.prepared,
            initial=init,
            checkpoints=checkpoints,
            evaluations=evaluations.by_stage(),
            during_training=during_training,
            skipped=evaluations.skipped,
            registered=registered_versions(promotions),
            stage_gates=stage_gate_results(decisions),
            tracking_uri=execution.resolved_tracking_uri,
            total_s=time.monotonic() - started_s,
            provenance=run_provenance,
        )
        return context.task("write report", lambda _: write_report(context, results))
