"""Evaluations of checkpoints inside a stage, as the results report reads them from the store."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from components.core.artifact import Artifact, Kind
from components.core.errors import ConfigError
from components.core.files import write_json
from components.core.store import Store
from components.training.run_file import CODE_VERSION
from flows.runtime.context import FlowContext
from flows.settings.execution import Execution
from flows.settings.recipes import tiny
from flows.steps.follow import find_training, scores_during_training

BATCH_TOKENS = 4 * 256


class Project:
    """A store with prepared corpora, a finished stage and checkpoints inside it."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store")
        # Neither function logs to MLflow.
        self.context = FlowContext(tiny(), Execution(), self.store, cast("Any", None))
        names = ("nl", "multi", "mono")
        self.prepared = {name: self.publish("prepared-corpus", name, {}, {}) for name in names}
        self.tokenizer = self.publish("tokenizer", "gpt2-500", {}, {})
        self.training = find_training(self.context, "nl", self.prepared, self.tokenizer, None)

    def publish(
        self,
        kind: Kind,
        name: str,
        config: Mapping[str, Any],
        parents: Mapping[str, Artifact],
        **statistics: Any,
    ) -> Artifact:
        def build(folder: Path) -> dict[str, Any]:
            write_json(folder / "content.json", [name, statistics])
            return statistics

        return self.store.get_or_build(
            kind,
            name,
            config=config,
            parents=parents,
            code_version=CODE_VERSION,
            build=build,
        ).artifact

    def checkpoint(self, step: int | None = None) -> Artifact:
        """Publish the finished stage, or the checkpoint after a step."""
        training = self.training
        name = training.name if step is None else training.step_name(step)
        steps = 12 if step is None else step
        return self.publish(
            "checkpoint", name, training.config(step), training.parents, steps=steps
        )

    def evaluate(self, checkpoint: Artifact, protocol: str = "p") -> Artifact:
        return self.publish(
            "evaluation",
            f"{checkpoint.name}-bits-per-byte",
            {"protocol": protocol},
            {"checkpoint": checkpoint, **self.prepared},
            protocol=protocol,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the warnings; a flow of another test may have enabled other messages."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_comparable_evaluations_of_a_training_are_read_by_tokens(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    finished = project.evaluate(project.checkpoint())
    expected = {step * BATCH_TOKENS: project.evaluate(project.checkpoint(step)) for step in (4, 8)}
    project.evaluate(project.checkpoint(4), protocol="another")
    other = project.publish("checkpoint", project.training.step_name(6), {}, {}, steps=6)
    project.evaluate(other)  # Of another recipe.
    scores = scores_during_training(
        project.context, project.prepared, project.tokenizer, None, {"nl": finished}
    )
    assert scores == {"nl": expected}
    assert not warnings_of(caplog)


def test_a_warning_names_the_checkpoints_with_another_protocol(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    finished = project.evaluate(project.checkpoint(), protocol="bf16")
    for step in (4, 8):
        project.evaluate(project.checkpoint(step), protocol="fp32")
    project.evaluate(project.checkpoint(4), protocol="bf16")
    scores = scores_during_training(
        project.context, project.prepared, project.tokenizer, None, {"nl": finished}
    )
    assert scores["nl"].keys() == {4 * BATCH_TOKENS}
    (record,) = warnings_of(caplog)
    assert "stage nl: the scores after steps 8 are left out" in record.getMessage()
    assert "training.precision" in record.getMessage()


def test_a_stage_cannot_be_followed_before_the_stage_that_leads_to_it(project: Project) -> None:
    with pytest.raises(ConfigError, match="stage nl, which leads to it, is not finished"):
        find_training(project.context, "multi", project.prepared, project.tokenizer, None)
    nl = project.checkpoint()
    training = find_training(project.context, "multi", project.prepared, project.tokenizer, None)
    assert training.parents["initial"] == nl
    assert training.parents["corpus"] == project.prepared["multi"]
    assert not training.is_running()
    assert training.saved_steps() == {}
