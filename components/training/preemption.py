"""A rank that is told to end (SIGTERM: a preempted node, a cancelled flow) takes its step to the end and saves first.

The signal only sets a flag. Ranks tell one another at every step, with the losses, so all of them stop after the same one,
whoever was told. Not covered: a node that gives less time than a step and a checkpoint take; then the checkpoint before
counts.
"""

from __future__ import annotations

import signal
import threading

from components.core.errors import TrainingError

_told = threading.Event()


def install_sigterm_handler() -> None:
    """From now on SIGTERM only sets the flag. To be called by the main thread."""
    signal.signal(signal.SIGTERM, lambda *_: _told.set())


def preemption_requested() -> bool:
    """Whether this rank is to end."""
    return _told.is_set()


def preempted_error(stage: str, step: int) -> TrainingError:
    """What ends the stage, once it is saved."""
    return TrainingError(
        f"stage {stage} was told to end (SIGTERM) and is saved as of step {step}",
        expected="to be left alone until the last step",
        fix="run the same command again: it goes on from there",
    )
