"""Logs of DeepSpeed's monitors (TensorBoard, CSV, Weights & Biases, Comet) and its flops profiler.

All metrics of a step are passed to the monitors, over samples: the axis of DeepSpeed's own metrics.
A resumed stage removes the steps after its checkpoint from CSV files and marks them as replaced in
TensorBoard's. Weights & Biases continues its run and ignores repeated steps. Comet starts another
experiment. Rank 0 writes; the other ranks have no monitor.
"""

from __future__ import annotations

import csv
import io
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.core.artifact import OBSERVED_DIR
from components.core.files import write_atomic
from components.training.metrics import StepMetrics

_PROFILE_FILE = f"{OBSERVED_DIR}flops_profile.txt"
_FILE_MONITORS = ("tensorboard", "csv_monitor")
_PREFIX = "Train/Samples/"
"""Prefix of DeepSpeed's own metrics."""
_WANDB_RUN_FILE = "wandb-run.txt"
"""In the work folder: the id of the W&B run, for an interrupted stage that is resumed."""


def with_log_paths(config: dict[str, Any], folder: Path, monitor_folder: Path) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a stage with the paths of its logs.

    Args:
        config: the configuration.
        folder: the folder of the stage, for the flops profile.
        monitor_folder: for monitors without an `output_path`. Its name is the name of the stage's
            logs below an `output_path`.
    """
    paths: dict[str, Any] = {}
    if profiler := config.get("flops_profiler"):
        paths["flops_profiler"] = profiler | {"output_file": str(folder / _PROFILE_FILE)}
    for monitor in _FILE_MONITORS:
        if options := config.get(monitor):
            output_path = monitor_folder
            job_name = options.get("job_name", monitor)
            if "output_path" in options:
                output_path = Path(options["output_path"], options.get("job_name", "")).absolute()
                job_name = monitor_folder.name
            paths[monitor] = options | {"output_path": str(output_path), "job_name": job_name}
    return config | paths


def wandb_variables(monitor_folder: Path, work: Path) -> dict[str, str]:
    """Return the environment variables that W&B reads for a stage; DeepSpeed cannot pass them."""
    path = work / _WANDB_RUN_FILE
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex)
    monitor_folder.mkdir(parents=True, exist_ok=True)
    return {
        "WANDB_DIR": str(monitor_folder),
        "WANDB_NAME": monitor_folder.name,
        "WANDB_RUN_ID": path.read_text(),
        "WANDB_RESUME": "allow",
    }


def set_wandb_variables(config: Mapping[str, Any], monitor_folder: Path, work: Path) -> None:
    """Set W&B's environment variables on rank 0, except those that the user has set."""
    if config.get("wandb", {}).get("enabled"):
        for name, value in wandb_variables(monitor_folder, work).items():
            os.environ.setdefault(name, value)


def rewind_monitors(monitor: Any, num_samples: int) -> None:
    """Remove what an earlier attempt logged after `num_samples`, the samples of the checkpoint.

    Args:
        monitor: DeepSpeed's `MonitorMaster` of rank 0.
    """
    if monitor.csv_monitor:
        for path in Path(monitor.csv_monitor.log_dir).glob("*.csv"):
            _truncate_csv(path, num_samples)
            monitor.csv_monitor.filenames.append(path.stem)  # DeepSpeed adds no second header.
    if monitor.tb_monitor:
        # Imports TensorBoard.
        from torch.utils.tensorboard import SummaryWriter

        folder = monitor.tb_monitor.summary_writer.log_dir
        monitor.tb_monitor.summary_writer.close()
        monitor.tb_monitor.summary_writer = SummaryWriter(folder, purge_step=num_samples + 1)


def log_step(monitor: Any, metrics: StepMetrics, num_samples: int) -> None:
    """Pass the metrics of a step to the monitors.

    Args:
        monitor: DeepSpeed's `MonitorMaster`.
        num_samples: sequences of the stage so far.
    """
    if monitor.enabled:
        values = metrics.model_dump(exclude={"step"})
        monitor.write_events(
            [(f"{_PREFIX}{name}", value, num_samples) for name, value in _numbers(values)]
        )


def close_monitors(monitor: Any) -> None:
    """Write buffered metrics and end the runs of trackers."""
    if monitor.tb_monitor:
        monitor.tb_monitor.summary_writer.close()
    if monitor.wandb_monitor:
        import wandb

        wandb.finish()
    if monitor.comet_monitor:
        monitor.comet_monitor.experiment.end()


def _truncate_csv(path: Path, num_samples: int) -> None:
    """Keep the header and the rows up to `num_samples`. A crash may have truncated the last row."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept_rows = [
        row
        for row in rows
        if len(row) == len(header) and row[0].isdecimal() and int(row[0]) <= num_samples
    ]
    lines = io.StringIO()
    csv.writer(lines).writerows([header, *kept_rows])
    write_atomic(path, lines.getvalue().encode())


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested mappings, as `held_out/English`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif value is not None:
            yield f"{prefix}{name}", float(value)
