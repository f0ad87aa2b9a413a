"""The gates between the stages of a training: evaluation, decision, and the error of a stopped run.

A stage waits only for the gate of the stage that it starts from. Requirements decide right after
the evaluation; a reviewer is asked only when no other stage can be trained.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup
from prefect.runtime import flow_run
from pydantic import Field

from components.core.artifact import Artifact
from components.core.errors import StageGateError
from components.core.markdown import escape_inline, escaped_table
from flows.runtime.context import FlowContext
from flows.runtime.prefect_artifacts import publish_markdown
from flows.steps.approval import ApprovalForm, current_user, wait_for_answer

if TYPE_CHECKING:  # Imports MLflow.
    from components.registry.stage_gate import Outcome, StageDecision, StageGateRequest
    from components.registry.tracking import TrackedRun


class StageApprovalForm(ApprovalForm):
    """The form in the Prefect UI for a stage."""

    approve: bool = Field(description="Train the stages that start from this checkpoint.")


class StageGates:
    """The gates of a training run, and the decisions at them."""

    def __init__(self, context: FlowContext, stages: Sequence[str]) -> None:
        """
        Args:
            stages: the stages of this run, in order.
        """
        self._context = context
        self._init_stages = {
            stage: context.recipe.training.stages[stage].init_stage for stage in stages
        }
        self._requests: dict[str, StageGateRequest] = {}
        self._decisions: dict[str, StageDecision] = {}
        self._blocked: set[str] = set()

    @property
    def stages(self) -> list[str]:
        """The stages with a gate that another stage of this run must pass."""
        required = set(self._init_stages.values())
        gates = self._context.recipe.stage_gates
        return [stage for stage in self._init_stages if stage in required and stage in gates]

    def next_stage(self, waiting: Sequence[str]) -> str:
        """Return the stage to train next; see `next_stage`."""
        return next_stage(waiting, self._init_stages, self._requests.keys() - self._decisions)

    def may_train(self, stage: str) -> bool:
        """Whether a stage may be trained; asks the reviewer of its initial stage if necessary."""
        init_stage = self._init_stages[stage]
        if init_stage in self._blocked:
            self._blocked.add(stage)
            return False
        if init_stage is None or init_stage not in self._requests:
            return True
        if init_stage not in self._decisions:
            self._ask(self._requests[init_stage])
        if not self._decisions[init_stage].is_open:
            self._blocked.add(stage)
        return self._decisions[init_stage].is_open

    def evaluate(
        self, stage: str, checkpoint: Artifact, evaluations: Mapping[str, Artifact]
    ) -> None:
        """Decide whether other stages may start from a checkpoint, unless a reviewer must."""
        from components.registry.stage_gate import StageGateRequest, decide_stage

        gate = self._context.recipe.stage_gates[stage]
        request = StageGateRequest(stage, gate, checkpoint, evaluations)
        self._requests[stage] = request
        decided_by = f"{current_user()} (flow {flow_run.get_flow_name()})"
        if decision := decide_stage(request, self._context.run.tracking, decided_by):
            self._record(decision)

    def require_open(self) -> None:
        """Check that no gate kept a stage from being trained.

        Raises:
            StageGateError: a gate did; the error names every such gate.
        """
        closed = [decision for decision in self._decisions.values() if not decision.is_open]
        if closed:
            raise _stage_gate_error(closed, self._requests)

    def _ask(self, request: StageGateRequest) -> None:
        """Ask a reviewer in the Prefect UI, and record the answer."""
        from components.registry.gate import TIMED_OUT

        proposal = request.decision("stopped", "")
        text = decision_markdown(proposal, request)
        name = request.checkpoint.name
        publish_markdown(name, "stage-gate", text, f"stage {request.stage} waits for approval")
        answer = wait_for_answer(
            self._context,
            StageApprovalForm.with_initial_data(description=text),
            request.checkpoint.label,
            request.gate.approval_timeout_s,
            key=f"stage-gate-{request.key}",
        )
        if answer.name == TIMED_OUT and not answer.approve:
            self._record(request.decision("stopped", TIMED_OUT, answer.reason))
            return
        outcome: Outcome = "approved" if answer.approve else "rejected"
        decision = request.decision(outcome, answer.name, answer.reason)
        self._record(decision, is_answer=True)

    def _record(self, decision: StageDecision, *, is_answer: bool = False) -> None:
        from components.registry.stage_gate import record_stage_decision

        def step(run: TrackedRun) -> None:
            record_stage_decision(run, decision, is_answer=is_answer)

        self._context.task(f"gate of stage {decision.stage}", step)
        self._decisions[decision.stage] = decision
        self._context.print_step(f"gate of stage {decision.stage}", decision.outcome)
        text = decision_markdown(decision, self._requests[decision.stage])
        model = self._requests[decision.stage].checkpoint.name
        publish_markdown(model, "stage-gate", text, decision.summary)


def next_stage(
    waiting: Sequence[str], init_stages: Mapping[str, str | None], undecided: Collection[str]
) -> str:
    """Return the first stage whose initial stage is done and waits for no reviewer.

    If all of these wait for a reviewer, it is the first of them.

    Args:
        waiting: the stages that are not trained yet, in order; one of them can be trained.
        init_stages: the initial stage of each stage.
        undecided: trained stages with a gate that is not decided.
    """
    startable = [stage for stage in waiting if init_stages[stage] not in waiting]
    decided = [stage for stage in startable if init_stages[stage] not in undecided]
    return (decided or startable)[0]


def find_stage_decisions(
    context: FlowContext,
    checkpoints: Mapping[str, Artifact],
    evaluations: Mapping[str, Mapping[str, Artifact]],
) -> list[StageDecision]:
    """Return the recorded decisions at the gates of a recipe's stages.

    Args:
        checkpoints: by stage.
        evaluations: by stage and benchmark.
    """
    from components.registry.stage_gate import StageGateRequest, find_decision

    decisions = []
    for stage, gate in context.recipe.stage_gates.items():
        if stage in checkpoints:
            request = StageGateRequest(stage, gate, checkpoints[stage], evaluations[stage])
            decision = find_decision(context.run.tracking, request.key)
            decisions += [decision] if decision else []
    return decisions


def decision_markdown(decision: StageDecision, request: StageGateRequest) -> str:
    """Return the requirements and all metrics of a checkpoint as Markdown; text is escaped."""
    from components.registry.gate import metrics_of

    checks = [
        [check.rule, "yes" if check.passed else Markup("**no**"), check.detail]
        for check in decision.checks
    ]
    metrics = [[name, f"{value:.6g}"] for name, value in metrics_of(request.evaluations).items()]
    title = decision.summary if decision.decided_by else f"stage {decision.stage}"
    return "\n".join(
        [
            f"# {escape_inline(title)}",
            f"\nCheckpoint {escape_inline(decision.checkpoint)}.\n",
            escaped_table(["requirement", "met", "result"], checks),
            "",
            escaped_table(["metric", "value"], metrics),
        ]
    )


def release_gpu_memory() -> None:
    """Return the memory that evaluations of this process cached on a GPU, for the next stage."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _stage_gate_error(
    closed: Sequence[StageDecision], requests: Mapping[str, StageGateRequest]
) -> StageGateError:
    """Return the error that names every closed gate: values, limits and the commands to approve."""
    problems = [_describe_closed(decision, requests[decision.stage]) for decision in closed]
    limits = [check.rule for decision in closed for check in decision.checks if not check.passed]
    commands = [f"codegen approve {decision.checkpoint} --reason TEXT" for decision in closed]
    return StageGateError(
        "; ".join(problems),
        expected="; ".join(dict.fromkeys(limits)) or "the approval of a reviewer",
        fix=f"approve by hand with {' and '.join(commands)}, or change stage_gates; then run the "
        "same command again, which continues after the finished stages",
    )


def _describe_closed(decision: StageDecision, request: StageGateRequest) -> str:
    reasons = []
    if decision.outcome == "rejected":
        reason = decision.reason or "no reason given"
        reasons.append(f"{decision.decided_by} rejected it ({reason})")
    elif decision.reason:
        reasons.append(decision.reason)
    for requirement, check in zip(request.gate.requirements, decision.checks, strict=True):
        if not check.passed:
            reasons.append(f"{requirement.label} is {check.detail}")
    return f"stage {decision.stage} did not pass its gate: {'; '.join(reasons)}"
