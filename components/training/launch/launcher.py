"""Trains a stage from a flow: write `run.json`, start the ranks, read metrics and result.

Each command that starts ranks has its own process group. `train_stage` ends all groups, whether it
returns or raises; if the flow itself is killed, the ranks' standard input closes and they exit, on
other hosts too. A stage has succeeded if `training.json` exists; exit codes are ignored. With
launcher environment, `train_stage` starts no process and only waits for the ranks.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from pydantic import JsonValue

from components.core.errors import (
    ArtifactError,
    ConfigError,
    OutOfMemoryError,
    PortInUseError,
    TrainingError,
)
from components.core.files import read_json
from components.dataset.remote_folder import open_folder
from components.training.budget import Usage, budget_error, is_spent
from components.training.config import TrainingExecution
from components.training.deepspeed_config import (
    check_batch_division,
    check_deepspeed_options,
    check_model_division,
)
from components.training.launch.commands import launch_commands, select_master_port
from components.training.launch.failure import (
    clear_failure,
    explain_failure,
    has_failure_report,
    wrap_os_errors,
)
from components.training.launch.heartbeat import clear_heartbeats
from components.training.launch.watchdog import Watchdog
from components.training.metrics import MetricsTail, StepMetrics, read_metrics, read_usage
from components.training.run_file import (
    DEEPSPEED_FILE,
    LOG_FILE,
    METRICS_FILE,
    RESULT_FILE,
    RUN_FILE,
    USAGE_FILE,
    WORK_FOLDER,
    RunFile,
    StageRun,
)

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.2
_STEP_GRACE_S = 8.0
"""For ranks to finish their step and save; a command has to end within 20 s of a signal."""
_EXIT_GRACE_S = 2.0
"""From closing standard input to SIGKILL: the time that ssh and DeepSpeed's launcher need to notice
that their ranks have exited."""
_MAX_PORT_ATTEMPTS = 3
"""Another process may take the port before rank 0 listens at it."""
_NUM_STEPS_WITHOUT_OOM = 2
"""Steps after which a micro-batch counts as fitting; optimizer state exists from the second on."""

OnStep = Callable[[StepMetrics], None]


def train_stage(
    folder: Path,
    run: StageRun,
    execution: TrainingExecution,
    on_step: OnStep,
    monitor_folder: Path | None = None,
    earlier_stages: Usage | None = None,
) -> dict[str, JsonValue]:
    """Train a stage, or resume an interrupted stage, and write its checkpoint to `folder`.

    Args:
        folder: the artifact's folder, empty or with the files of an interrupted attempt.
        on_step: called once for every step, in order, first for the steps of earlier attempts.
        monitor_folder: for the logs of DeepSpeed's monitors; by default a folder in `folder`.
        earlier_stages: usage of the stages that were trained before; counts towards the budget.

    Returns:
        Statistics: `steps`, `skipped_steps`, `tokens`, `final_loss` (nats per token of the last
        batch that was not skipped; None if all were), `num_parameters`.

    Raises:
        ArtifactError: an input is absent or damaged.
        ConfigError: batch, execution config, corpus or initial checkpoint do not fit together, or
            DeepSpeed options cannot be used.
        TrainingError: the loss diverged; the log is in `observed/train.log`.
        StageInterruptedError: the stage was preempted or stalled, or a rank crashed.
        BudgetError: another step would exceed the budget. The stage has a checkpoint, unless the
            earlier stages have used the budget.
        DiskFullError: no space for a checkpoint.
    """
    _check_compatibility(run, execution)
    _check_inputs(run)
    folder = folder.resolve()
    if (folder / RESULT_FILE).exists():
        _report_steps(MetricsTail(folder / METRICS_FILE), on_step)
    else:
        monitors = str(monitor_folder.resolve()) if monitor_folder else None
        file = RunFile(
            run=run,
            execution=execution,
            monitor_folder=monitors,
            earlier_stages=earlier_stages or Usage(),
        )
        _check_budget(folder, file)
        _run_trainer(folder, file, on_step)
    # The work folder still exists if the trainer was killed after it had written the result.
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    return _read_result(folder, run)


def _check_compatibility(run: StageRun, execution: TrainingExecution) -> None:
    check_batch_division(run.config, execution, run.model.context_length)
    check_deepspeed_options(run.config, execution, run.model.context_length)
    if run.config.mask_documents and execution.sequence_parallel > 1:
        raise ConfigError(
            f"stage {run.stage} masks documents, and sequence_parallel is "
            f"{execution.sequence_parallel}",
            expected="not both: with sequence_parallel attention is causal without a mask",
            fix="set sequence_parallel to 1, or mask_documents to false",
        )
    if run.config.optimizer_state == "inherit" and execution.tensor_parallel > 1:
        raise ConfigError(
            f"stage {run.stage} inherits the optimizer state, and tensor_parallel is "
            f"{execution.tensor_parallel}",
            expected="not both: optimizer state cannot be partitioned by tensor parallelism",
            fix="set tensor_parallel to 1, or the stage's optimizer_state to reset",
        )
    check_model_division(run.model, execution)


def _check_budget(folder: Path, file: RunFile) -> None:
    """Refuse to start ranks if the budget does not allow another step.

    Raises:
        BudgetError: the usage and a step like the last would exceed a limit.
    """
    budget, num_devices = file.execution.budget, file.execution.world_size
    step_s, time_left_s = 0.0, None
    steps = read_metrics(folder / METRICS_FILE)
    usage = file.earlier_stages.plus(read_usage(folder / USAGE_FILE, steps))
    if steps:
        step_s = file.run.config.global_batch_tokens / steps[-1].tokens_per_s
        time_left_s = steps[-1].time_left_s
    if is_spent(budget, usage, num_devices, step_s):
        raise budget_error(f"stage {file.run.stage} did not start", budget, usage, time_left_s)


def _check_inputs(run: StageRun) -> None:
    for role, source in run.inputs().items():
        if source and not _is_available(source.folder):
            raise ArtifactError(
                f"stage {run.stage}: the folder {source.folder} does not exist",
                expected=f"the artifact {source.digest[:12]}, as the input {role}",
                fix="build that artifact first: the earlier steps of the pipeline do",
            )
    if run.config.optimizer_state == "inherit" and run.init_from is None:
        raise ConfigError(
            f"stage {run.stage} inherits the optimizer state, and has no previous stage",
            expected="a stage that starts from a checkpoint",
            fix="set its optimizer_state to reset",
        )


def _is_available(folder: str) -> bool:
    """Whether a local folder exists. A remote corpus is checked by the ranks that stream it."""
    location = open_folder(folder)
    return not isinstance(location, Path) or location.is_dir()


def _run_trainer(folder: Path, file: RunFile, on_step: OnStep) -> None:
    """Run the ranks until the result exists; retry with another port or a smaller micro-batch."""
    is_external = file.execution.launcher == "environment"
    is_port_fixed = file.execution.master_port is not None or is_external
    attempts_left = 1 if is_port_fixed else _MAX_PORT_ATTEMPTS
    tail = MetricsTail(folder / METRICS_FILE, skip_existing=True)
    while True:
        with wrap_os_errors(folder):
            clear_failure(folder / WORK_FOLDER)
            if not is_external:
                clear_heartbeats(folder / WORK_FOLDER)
            file.write(folder)
        try:
            if is_external:
                _wait_for_ranks(folder, file, tail, on_step)
            else:
                _start_ranks(folder, file, tail, on_step)
            return
        except PortInUseError as error:
            attempts_left -= 1
            if not attempts_left:
                raise
            logger.info("%s; trying another port", error.got)
        except OutOfMemoryError as error:
            has_fitted = tail.last_step >= _NUM_STEPS_WITHOUT_OOM
            if has_fitted or is_external or file.execution.micro_batch != "auto":
                raise
            micro_batch = read_json(folder / DEEPSPEED_FILE)["train_micro_batch_size_per_gpu"]
            if micro_batch == 1:
                raise
            logger.info(
                "micro-batch %d does not fit, trying a smaller micro-batch: %s",
                micro_batch,
                error.got,
            )
            file = file.replace(micro_batch_upper_bound=micro_batch)
            tail.restart()


def _start_ranks(folder: Path, file: RunFile, tail: MetricsTail, on_step: OnStep) -> None:
    port = select_master_port(file.execution)
    commands = launch_commands(folder / RUN_FILE, file.execution, port, os.environ)
    shell_command = " & ".join(shlex.join(command) for command in commands)
    logger.info("training stage %s; equivalent command: %s", file.run.stage, shell_command)
    log = folder / LOG_FILE
    log_start = log.stat().st_size if log.exists() else 0
    supervised_commands = [[*command, "--end-with-stdin"] for command in commands]
    watchdog = Watchdog(folder, file)
    with _process_groups(supervised_commands, log) as processes:
        while _all_running(processes):
            _report_steps(tail, on_step, watchdog)
            watchdog.check()
            time.sleep(_POLL_INTERVAL_S)
    _report_steps(tail, on_step)
    if not (folder / RESULT_FILE).exists():
        raise explain_failure(folder / WORK_FOLDER, log, file.run.stage, log_start)


def _all_running(processes: list[subprocess.Popen[bytes]]) -> bool:
    """Whether ranks are running and none has failed."""
    exit_codes = [process.poll() for process in processes]
    return None in exit_codes and not any(exit_codes)


def _wait_for_ranks(folder: Path, file: RunFile, tail: MetricsTail, on_step: OnStep) -> None:
    logger.info(
        "stage %s waits for %d ranks that run: python -m components.training %s",
        file.run.stage,
        file.execution.world_size,
        folder / RUN_FILE,
    )
    watchdog = Watchdog(folder, file)
    while not has_failure_report(folder / WORK_FOLDER):
        _report_steps(tail, on_step, watchdog)
        watchdog.check()
        # The ranks remove the work folder last.
        if (folder / RESULT_FILE).exists() and not (folder / WORK_FOLDER).exists():
            return
        time.sleep(_POLL_INTERVAL_S)
    raise explain_failure(folder / WORK_FOLDER, folder / LOG_FILE, file.run.stage)


@contextmanager
def _process_groups(
    commands: list[list[str]], log: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run commands in sessions of their own, and end all their processes after the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("ab") as output:
            for command in commands:
                # Not a comprehension: processes before a failed start must be ended.
                processes.append(_spawn(command, output))  # noqa: PERF401
        yield processes
    finally:
        _end_process_groups(processes)


def _spawn(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _end_process_groups(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask the ranks to save and stop; then close their standard input; then kill the groups."""
    inputs = [cast("IO[bytes]", process.stdin) for process in processes]
    for stdin in inputs:
        with suppress(BrokenPipeError):
            os.write(stdin.fileno(), b"\n")
    deadline = time.monotonic() + _STEP_GRACE_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
    for stdin in inputs:
        stdin.close()
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_EXIT_GRACE_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _report_steps(tail: MetricsTail, on_step: OnStep, watchdog: Watchdog | None = None) -> None:
    steps = tail.read()
    if watchdog:
        watchdog.record_steps(steps)
    for metrics in steps:
        on_step(metrics)


def _read_result(folder: Path, run: StageRun) -> dict[str, JsonValue]:
    document = read_json(folder / RESULT_FILE)
    if document["run"] != run.identity():
        raise TrainingError(
            f"{folder} contains the result of another run",
            expected="a separate folder for every run",
            fix="use an empty folder",
        )
    return dict(document["result"])
