"""How a flow trains a stage: it writes `run.json`, starts the launchers, reads along, and reads the result.

A launcher is another process group, so that nothing of it can outlive a cancelled flow: every way out of `train_stage` ends
all groups, and should the flow itself be killed, the ranks see their standard input close and end by themselves, on other
hosts too. What tells success is `training.json`, never an exit status. Ranks that somebody else starts (launcher
environment) are only waited for: they are not the flow's to end.
"""

from __future__ import annotations

import json
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
from components.training.config import TrainingExecution
from components.training.deepspeed_config import require_division, require_shares
from components.training.launch.commands import launch_commands, master_port
from components.training.launch.failure import (
    clear_failure,
    explain_failure,
    was_reported,
    wrap_os_errors,
)
from components.training.metrics import StepMetrics
from components.training.run_file import (
    DEEPSPEED,
    LOG,
    METRICS,
    RESULT,
    RUN,
    WORK,
    RunFile,
    StageRun,
)

logger = logging.getLogger(__name__)

_POLL_S = 0.2
"""Between two looks at the metrics file."""
_GRACE_S = 10.0
"""For ranks to end after their step; cancelling has to be over within 20 s."""
_LAST_GRACE_S = 3.0
"""From the end of their standard input to SIGKILL: as long as ssh and DeepSpeed's launcher take to see that ranks ended."""
_PORTS_TRIED = 3
"""Between the choice of a port and the first rank's start somebody else may take it."""
_STEPS_BEFORE_MICRO_BATCH_FITS = 1
"""Steps after which a micro-batch fits: the second has all that any has, the optimizer's moments and activations."""


def train_stage(
    folder: Path, run: StageRun, place: TrainingExecution, on_step: Callable[[StepMetrics], None]
) -> dict[str, JsonValue]:
    """Train one stage, or go on with one that was killed, and leave its checkpoint in `folder`.

    Args:
        folder: the artifact's folder, or what a killed attempt left of it.
        on_step: called once for every step, in order; when a stage is resumed, first for the steps done before.

    Returns:
        Statistics: `steps`, `skipped_steps`, `tokens`, `final_loss` (nats per token, of the last batch that was not left
        out; None where all were), `num_parameters`.

    Raises:
        ArtifactError: an input is absent or damaged.
        ConfigError: the batch does not fit the place, or the corpus or the initial checkpoint does not fit the model.
        TrainingError: the loss diverged or a rank failed; the log is kept in `observed/train.log`.
        StorageFull: no room for a checkpoint.
    """
    require_division(run.config, place, run.model.context_length)
    _require_shares(run, place)
    _require_inputs(run)
    folder = folder.resolve()
    if (folder / RESULT).exists():
        _relay(_Tail(folder / METRICS), on_step)
    else:
        _run_trainer(folder, RunFile(run=run, place=place), on_step)
    shutil.rmtree(
        folder / WORK, ignore_errors=True
    )  # It is still there where a kill fell between the result and this.
    return _result(folder, run)


def _require_inputs(run: StageRun) -> None:
    for role in ("data", "tokenizer", "initial"):
        given = getattr(run, role)
        if given and _is_missing(given.folder):
            raise ArtifactError(
                f"stage {run.stage}: there is no folder {given.folder}",
                expected=f"the artifact {given.digest[:12]}, as its {role}",
                fix="make that artifact first: the pipeline's earlier steps do",
            )
    if run.config.optimizer_state == "kept" and run.initial is None:
        raise ConfigError(
            f"stage {run.stage} is to keep the optimizer of the stage before, and there is none",
            expected="a stage that starts from another one",
            fix="set its optimizer to reset",
        )


def _is_missing(folder: str) -> bool:
    """Of a folder on this machine. A corpus that is streamed from elsewhere is looked for by the ranks, who open it."""
    place = open_folder(folder)
    return isinstance(place, Path) and not place.is_dir()


def _require_shares(run: StageRun, place: TrainingExecution) -> None:
    if run.config.mask_documents and place.sequence_parallel > 1:
        raise ConfigError(
            f"stage {run.stage} masks documents, and sequence_parallel is {place.sequence_parallel}",
            expected="one of the two: slices of a sequence attend to all that comes before",
            fix="set sequence_parallel to 1, or mask_documents to false",
        )
    if run.config.optimizer_state == "kept" and place.tensor_parallel > 1:
        raise ConfigError(
            f"stage {run.stage} keeps the optimizer, and tensor_parallel is {place.tensor_parallel}",
            expected="one of the two: moments are not taken apart over ranks that share a copy",
            fix="set tensor_parallel to 1, or the stage's optimizer to reset",
        )
    require_shares(run.model, place)


def _run_trainer(folder: Path, file: RunFile, on_step: Callable[[StepMetrics], None]) -> None:
    given = file.place.master_port is not None or file.place.launcher == "environment"
    ports = 1 if given else _PORTS_TRIED
    tail = _Tail(folder / METRICS, not_before=_inode(folder / METRICS))
    while True:
        with wrap_os_errors(folder):
            clear_failure(folder / WORK)
            run_file = file.write(folder)
        try:
            if file.place.launcher == "environment":
                _wait_for_ranks(folder, file, tail, on_step)
            else:
                _start_ranks(folder, file, run_file, tail, on_step)
            return
        except PortInUseError as error:
            ports -= 1
            if not ports:
                raise
            logger.info("%s; trying another", error.got)
        except OutOfMemoryError as error:
            if (
                tail.last_step > _STEPS_BEFORE_MICRO_BATCH_FITS
                or file.place.micro_batch != "auto"
                or file.place.launcher == "environment"
            ):
                raise
            used = read_json(folder / DEEPSPEED)["train_micro_batch_size_per_gpu"]
            if used == 1:
                raise
            logger.info("micro-batch %d did not fit, trying a smaller one: %s", used, error.got)
            file = file.replace(micro_batch_upper_bound=used)
            tail.restart()


def _start_ranks(
    folder: Path, file: RunFile, run_file: Path, tail: _Tail, on_step: Callable[[StepMetrics], None]
) -> None:
    commands = launch_commands(run_file, file.place, master_port(file.place), os.environ)
    by_hand = " & ".join(shlex.join(command) for command in commands)
    logger.info("training stage %s; the same by hand: %s", file.run.stage, by_hand)
    log_start = (folder / LOG).stat().st_size if (folder / LOG).exists() else 0
    with _process_groups(
        [[*command, "--end-with-stdin"] for command in commands], folder / LOG
    ) as launchers:
        while any(one.poll() is None for one in launchers) and not any(
            one.poll() for one in launchers
        ):
            _relay(tail, on_step)
            time.sleep(_POLL_S)
    _relay(tail, on_step)
    if not (folder / RESULT).exists():
        raise explain_failure(folder / WORK, folder / LOG, file.run.stage, log_start)


def _wait_for_ranks(
    folder: Path, file: RunFile, tail: _Tail, on_step: Callable[[StepMetrics], None]
) -> None:
    logger.info(
        "stage %s waits for %d ranks that run: python -m components.training %s",
        *(file.run.stage, file.place.world_size, folder / RUN),
    )
    while not was_reported(folder / WORK):
        _relay(tail, on_step)
        if (folder / RESULT).exists() and not (folder / WORK).exists():  # The ranks' last act.
            return
        time.sleep(_POLL_S)
    raise explain_failure(folder / WORK, folder / LOG, file.run.stage)


@contextmanager
def _process_groups(
    commands: list[list[str]], log: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Commands in sessions of their own, of which nothing is left after the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    launchers: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("ab") as output:
            for command in commands:
                launchers.append(_spawn(command, output))  # noqa: PERF401 - those before a failed one have to be known
        yield launchers
    finally:
        _end(launchers)


def _spawn(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _end(launchers: list[subprocess.Popen[bytes]]) -> None:
    inputs = [cast("IO[bytes]", one.stdin) for one in launchers]
    for one in inputs:
        with suppress(BrokenPipeError):
            os.write(one.fileno(), b"\n")  # The ranks save what they have, if they can in time.
    deadline = time.monotonic() + _GRACE_S
    for launcher in launchers:
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout=max(0.0, deadline - time.monotonic()))
    for one in inputs:
        one.close()
    for launcher in launchers:
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout=_LAST_GRACE_S)
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


class _Tail:
    """Reads the lines that are appended to a metrics file."""

    def __init__(self, path: Path, not_before: int | None = None) -> None:
        """`not_before`: the inode of an earlier attempt's file, which the trainer will replace."""
        self._path, self._not_before, self._offset = path, not_before, 0
        self.last_step = 0

    def restart(self) -> None:
        """The trainer writes a new file; steps that were read already are left out of it."""
        self._not_before, self._offset = _inode(self._path), 0

    def read(self) -> list[StepMetrics]:
        """The lines that were completed since the last call."""
        if _inode(self._path) in (None, self._not_before):
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        every = (StepMetrics.parse(json.loads(line)) for line in whole.splitlines())
        new_steps = [one for one in every if one.step > self.last_step]
        self.last_step = new_steps[-1].step if new_steps else self.last_step
        return new_steps


def _relay(tail: _Tail, on_step: Callable[[StepMetrics], None]) -> None:
    for metrics in tail.read():
        on_step(metrics)


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _result(folder: Path, run: StageRun) -> dict[str, JsonValue]:
    document = read_json(folder / RESULT)
    if document["run"] != run.identity():
        raise TrainingError(
            f"{folder} holds the result of another run",
            expected="a folder of its own for every run",
            fix="give an empty folder",
        )
    return dict(document["result"])
