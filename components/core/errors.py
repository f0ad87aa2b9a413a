"""The one exception tree.

Every error that a user can cause or mend is a `CodegenError`, and its message has three parts: what was got, what was
expected, and what to do. The command line prints those three lines and no traceback; anything else that escapes is a bug.

    CodegenError
    |-- ConfigError             a recipe or an execution that cannot be
    |-- DataError               the corpus: archives, records, splits
    |   |-- FetchError          an archive that could not be had, or is not the pinned one
    |   |-- RecordError         a record that cannot be read
    |   `-- ValidationFailed    a suite of expectations that did not hold
    |-- ArtifactError           the store: absent, damaged or unreadable artifacts
    |-- RemoteError             storage elsewhere that does not answer, refuses, or holds other bytes
    |-- StorageFull             no room left on the device
    |-- TrainingError           a stage that did not finish
    |   |-- PortTaken           the port at which its ranks were to meet
    |   |-- FolderInUse         another trainer is at work in its folder
    |   `-- OutOfMemory         no memory left on a rank's device
    |-- EvaluationError         a benchmark that could not be run
    |   `-- SandboxUnavailable  no isolation, so no execution
    `-- TrackingError           MLflow did not answer, or refused
"""

from __future__ import annotations


class CodegenError(Exception):
    """What went wrong, in the three parts a person needs.

    `got` states the fact, `expected` the rule it breaks, `fix` the next action, each a sentence without a final full stop.
    """

    def __init__(self, got: str, *, expected: str, fix: str) -> None:
        self.got, self.expected, self.fix = got, expected, fix
        super().__init__(got, expected, fix)

    def __str__(self) -> str:
        return f"{self.got}\n  expected: {self.expected}\n  fix:      {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would not survive the default pickling that process pools use.
        return (_rebuild, (type(self), self.got, self.expected, self.fix))


def _rebuild(kind: type[CodegenError], got: str, expected: str, fix: str) -> CodegenError:
    return kind(got, expected=expected, fix=fix)


class ConfigError(CodegenError):
    """A recipe or an execution that cannot be."""


class DataError(CodegenError):
    """Something about the corpus is wrong."""


class FetchError(DataError):
    """An archive could not be had, or is not the one that was pinned."""


class RecordError(DataError):
    """A record of a corpus cannot be read."""


class ValidationFailedError(DataError):
    """A suite of expectations did not hold."""


class ArtifactError(CodegenError):
    """An artifact is absent, damaged or unreadable."""


class RemoteError(CodegenError):
    """Storage elsewhere (a DVC remote, a second store) does not answer, refuses, or holds other bytes than it should."""


class DiskFullError(CodegenError):
    """No room is left on a device that has to be written to."""


class TrainingError(CodegenError):
    """A training stage did not finish."""


class PortInUseError(TrainingError):
    """Somebody else listens at the port at which the ranks were to meet."""


class StageLockedError(TrainingError):
    """Another trainer is at work in a stage's folder, and is not to be disturbed."""


class OutOfMemoryError(TrainingError):
    """No memory was left on a rank's device."""


class EvaluationError(CodegenError):
    """A benchmark could not be run."""


class SandboxUnavailableError(EvaluationError):
    """No isolation can be had on this machine, so nothing that a model wrote is executed."""


class TrackingError(CodegenError):
    """MLflow did not answer, or refused."""
