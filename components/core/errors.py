"""The exception tree.

An error that a user can cause or fix is a `CodegenError` with three parts: got, expected, fix. The
command line prints these three lines without a traceback; any other exception is a bug.

    CodegenError
    |-- ConfigError                    an invalid recipe or execution config
    |-- DataError                      the corpus: archives, records, splits
    |   |-- FetchError                 an archive cannot be fetched, or is not the pinned archive
    |   |-- RecordError                a record that cannot be read
    |   |-- JsonError                  a JSON file that cannot be read
    |   `-- ValidationFailedError      a suite of expectations failed
    |-- ArtifactError                  the store: absent, damaged or unreadable artifacts
    |-- RemoteError                    remote storage does not answer, refuses, or holds other bytes
    |-- DiskFullError                  no space left on the device
    |-- TrainingError                  a stage that did not finish
    |   |-- PortInUseError             the rendezvous port of its ranks
    |   |-- StageLockedError           another trainer uses the folder of the stage
    |   |-- BudgetError                another step would exceed the budget
    |   |-- OutOfMemoryError           a rank ran out of device memory
    |   `-- StageInterruptedError      preempted, or a rank crashed: a restart may succeed
    |       `-- StageStalledError      no rank made progress
    |-- StageGateError                 a stage did not pass the gate to the next stages
    |-- EvaluationError                a benchmark that could not be run
    |   `-- SandboxUnavailableError    no isolation, so no execution
    `-- TrackingError                  MLflow did not answer, or refused
"""

from __future__ import annotations

from components.core.text import printable_name


class CodegenError(Exception):
    """`got` states the fact, `expected` the violated rule, `fix` the next action; none ends with a
    full stop. Bytes of file names that are not UTF-8 are escaped, so every output accepts them."""

    def __init__(self, got: str, *, expected: str, fix: str) -> None:
        self.got, self.expected, self.fix = map(printable_name, (got, expected, fix))
        super().__init__(self.got, self.expected, self.fix)

    def __str__(self) -> str:
        return f"{self.got}\n  expected: {self.expected}\n  fix:      {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would not survive the default pickling that process pools use.
        return (_rebuild, (type(self), self.got, self.expected, self.fix))


def _rebuild(kind: type[CodegenError], got: str, expected: str, fix: str) -> CodegenError:
    return kind(got, expected=expected, fix=fix)


class ConfigError(CodegenError):
    """A recipe or an execution config is invalid."""


class DataError(CodegenError):
    """The corpus is invalid."""


class FetchError(DataError):
    """An archive cannot be fetched, or is not the pinned archive."""


class RecordError(DataError):
    """A record of a corpus cannot be read."""


class JsonError(DataError, ValueError):
    """A JSON file cannot be read. Also a ValueError, like the errors of Python's parser."""


class ValidationFailedError(DataError):
    """A suite of expectations failed."""


class ArtifactError(CodegenError):
    """An artifact is absent, damaged or unreadable."""


class RemoteError(CodegenError):
    """Remote storage (a DVC remote, a shared store) does not answer, refuses, or holds wrong
    bytes."""


class DiskFullError(CodegenError):
    """The disk is full."""


class TrainingError(CodegenError):
    """A training stage did not finish."""


class PortInUseError(TrainingError):
    """The rendezvous port of the ranks is in use."""


class StageLockedError(TrainingError):
    """Another trainer uses the folder of the stage."""


class BudgetError(TrainingError):
    """Another step of the training would exceed its budget."""


class OutOfMemoryError(TrainingError):
    """A rank ran out of device memory."""


class StageInterruptedError(TrainingError):
    """A stage was preempted or a rank crashed; restarting it may succeed."""


class StageStalledError(StageInterruptedError):
    """No rank of a stage made progress."""


class StageGateError(CodegenError):
    """A stage did not pass its gate, so the stages that start from it were not trained."""


class EvaluationError(CodegenError):
    """A benchmark could not be run."""


class SandboxUnavailableError(EvaluationError):
    """This machine offers no isolation, so no generated code is executed."""


class TrackingError(CodegenError):
    """MLflow did not answer, or refused."""
