"""How a flow trains a stage: it writes `run.json`, starts the DeepSpeed launcher, reads along, and reads the result.

The trainer is another process group, so that nothing of it can outlive a cancelled flow: every way out of `train_stage`
ends the whole group, and should the flow itself be killed, the ranks see their standard input close and end by themselves.
What tells success is `training.json`, never an exit status. DeepSpeed's launcher for one host is started directly: the
`deepspeed` command would import everything once more (4 s) only to start the same. Not covered: several hosts.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import JsonValue

from components.core.errors import ArtifactError, TrainingError
from components.core.files import read_json
from components.core.network import free_port
from components.training.config import TrainingPlace
from components.training.deepspeed_config import accumulation_steps
from components.training.failure import explain_failure, forget_failure
from components.training.metrics import StepMetrics
from components.training.run import LOG, METRICS, RESULT, WORK, RunFile, StageRun

logger = logging.getLogger(__name__)

_POLL_S = 0.2
"""Between two looks at the metrics file."""
_GRACE_S = 10.0
"""From SIGTERM to SIGKILL; cancelling has to be over within 20 s."""


def train_stage(
    folder: Path, run: StageRun, place: TrainingPlace, on_step: Callable[[StepMetrics], None]
) -> dict[str, JsonValue]:
    """Train one stage, or go on with one that was killed, and leave its checkpoint in `folder`.

    Args:
        folder: the artifact's folder, or what a killed attempt left of it.
        on_step: called once for every step, in order; when a stage is resumed, first for the steps done before.

    Returns:
        Statistics: `steps`, `skipped_steps`, `tokens`, `final_loss` (nats per token, of the last batch that was not left
        out), `num_parameters`.

    Raises:
        ArtifactError: an input is absent or damaged.
        ConfigError: the batch does not fit the place, or the corpus or the initial checkpoint does not fit the model.
        TrainingError: the loss diverged or a rank failed; the log is kept in `observed/train.log`.
        StorageFull: no room for a checkpoint.
    """
    accumulation_steps(run.config, place, run.model.context_length)
    _require_inputs(run)
    folder = folder.resolve()
    if (folder / RESULT).exists():
        _relay(_Tail(folder / METRICS), on_step)
    else:
        _run_trainer(folder, RunFile(run=run, place=place), on_step)
    shutil.rmtree(folder / WORK, ignore_errors=True)  # It is still there where a kill fell between the result and this.
    return _result(folder, run)


def _require_inputs(run: StageRun) -> None:
    for role in ("data", "tokenizer", "initial"):
        given = getattr(run, role)
        if given and not Path(given.folder).is_dir():
            raise ArtifactError(
                f"stage {run.stage}: there is no folder {given.folder}",
                expected=f"the artifact {given.digest[:12]}, as its {role}",
                do="make that artifact first: the pipeline's earlier steps do",
            )


def trainer_command(run_file: Path, num_processes: int) -> list[str]:
    """The command that trains the stage of a `run.json`, the same by hand as from a flow."""
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(num_processes))}).encode()).decode()
    launcher = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", f"--master_port={free_port()}"]
    return [*launcher, "--no_local_rank", "--module", "components.training", str(run_file)]


def _run_trainer(folder: Path, file: RunFile, on_step: Callable[[StepMetrics], None]) -> None:
    forget_failure(folder / WORK)
    command = trainer_command(file.write(folder), file.place.num_processes)
    accelerator = {} if file.place.uses_gpu else {"DS_ACCELERATOR": "cpu"}
    by_hand = shlex.join([*(f"{name}={value}" for name, value in accelerator.items()), *command])
    logger.info("training stage %s; the same by hand: %s", file.run.stage, by_hand)
    tail = _Tail(folder / METRICS, not_before=_inode(folder / METRICS))
    with _process_group([*command, "--end-with-stdin"], folder / LOG, accelerator) as launcher:
        while launcher.poll() is None:
            _relay(tail, on_step)
            time.sleep(_POLL_S)
    _relay(tail, on_step)
    if not (folder / RESULT).exists():
        raise explain_failure(folder / WORK, folder / LOG, file.run.stage)


@contextmanager
def _process_group(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own, of which nothing is left after the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        launcher = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    try:
        yield launcher
    finally:
        _signal_group(launcher, signal.SIGTERM)  # The ranks save what they have, if they can in time.
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout=_GRACE_S)
        if launcher.stdin:
            launcher.stdin.close()
        _signal_group(launcher, signal.SIGKILL)
        launcher.wait()


def _signal_group(leader: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, number)


class _Tail:
    """Reads the lines that are appended to a metrics file."""

    def __init__(self, path: Path, not_before: int | None = None) -> None:
        """`not_before`: the inode of an earlier attempt's file, which the trainer will replace."""
        self._path, self._not_before, self._offset = path, not_before, 0

    def read(self) -> list[StepMetrics]:
        """The lines that were completed since the last call."""
        if _inode(self._path) in (None, self._not_before):
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [StepMetrics.parse(json.loads(line)) for line in whole.splitlines()]


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
            do="give an empty folder",
        )
    return dict(document["result"])
