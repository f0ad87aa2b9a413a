"""A training flow that spends its budget: it fails with one error, and resumes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fixtures.toy_corpora import store_toy_corpora
from fixtures.training import MODEL, SHORT_STAGE, toy_run

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, BudgetError
from components.core.files import read_json, write_json
from components.tokenizer.config import TokenizerConfig
from components.training.config import Budget, TrainingExecution
from components.training.metrics import read_metrics
from components.training.run_file import METRICS_FILE, USAGE_FILE
from flows.settings.execution import Execution
from flows.settings.recipes import tiny
from flows.steps import stage_training
from flows.steps.training_budget import excess_warning
from flows.train import train

pytestmark = [pytest.mark.process_heavy, pytest.mark.timeout(900)]

SPENT = Budget(hours=1e-6)
"""Less than the start of a rank: a stage stops after its first step."""
AMPLE = Budget(hours=1_000.0, price=1e6, price_per_hour=1.0)


def test_a_flow_stops_at_its_budget_and_the_same_flow_resumes_with_a_higher_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[list[str]] = []

    def record_later_stages(context: Any, usage: Any, later_stages: Sequence[str]) -> Any:
        later.append(list(later_stages))
        return excess_warning(context, usage, later_stages)

    monkeypatch.setattr(stage_training, "excess_warning", record_later_stages)
    training = TrainingExecution(
        micro_batch=16, zero_stage=0, precision="fp32", device="cpu", eval_interval=0
    )
    (tmp_path / "project").mkdir()
    execution = Execution(project=str(tmp_path / "project"), training=training)
    corpora = store_toy_corpora(execution, toy_run(tmp_path / "inputs"))
    stages = {"nl": SHORT_STAGE, "multi": SHORT_STAGE.replace(init_stage="nl")}
    recipe = tiny().replace(model=MODEL, tokenizer=TokenizerConfig(num_merges=0))
    recipe = recipe.replace(training={"stages": stages, "max_epochs": None})

    def run(budget: Budget, last_stage: str | None = None) -> dict[str, Artifact]:
        limited = execution.replace(training=training.replace(budget=budget))
        return train(recipe, limited, corpora, last_stage)

    limited = execution.replace(training=training.replace(budget=SPENT))
    state = train(recipe, limited, corpora, return_state=True)
    assert state.is_failed()
    assert "stage nl saved a checkpoint and stopped after step 1 of 8" in str(state.message)
    assert "training.budget.hours" in str(state.message)

    # The time of an attempt whose steps are lost still counts.
    building = execution.open_store().scratch / ".building"
    (usage_file,) = building.glob(f"checkpoint/*/{USAGE_FILE}")
    assert read_json(usage_file)["elapsed_s"] > 0
    write_json(usage_file, {"elapsed_s": 10_000.0, "device_s": 10_000.0})

    # The next stage counts the time of the first, although another run has trained it.
    first = run(AMPLE, "nl")["nl"]
    with pytest.raises(BudgetError, match="stage multi did not start"):
        run(SPENT)

    assert later == [["multi"], [], []]

    steps = read_metrics(Path(first.address) / METRICS_FILE)
    assert [step.step for step in steps] == list(range(1, 9))
    content = execution.open_store().read_file(first, USAGE_FILE)
    assert json.loads(content)["elapsed_s"] > steps[-1].elapsed_s > 10_000
    assert steps[0].elapsed_s < 10_000

    (Path(first.address) / USAGE_FILE).write_text("{}")
    with pytest.raises(ArtifactError, match=r"usage\.json is missing or damaged"):
        execution.open_store().read_file(first, USAGE_FILE)
