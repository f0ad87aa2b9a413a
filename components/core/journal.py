"""What a killed run has done: a line for every finished piece of work, read again by the run that goes on.

A line that the kill has torn is cut off. One that is no record, as a machine that lost its power may leave, is passed over:
its piece of work is done again. So whatever is kept here has to come out the same when it is done twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class Journal(AbstractContextManager["Journal"]):
    """A file of records that grows; use it in a `with` block."""

    def __init__(self, path: Path, keep: Callable[[Any], None]) -> None:
        """Open the file at `path`, and give `keep` the records that are there; it raises ValueError, KeyError or TypeError
        where one is none of its own."""
        self.path = path
        if path.exists():
            self._replay(keep)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, records: Iterable[Any]) -> None:
        """Write records, and do not go on before the system has them: a kill loses none."""
        self._file.writelines(json.dumps(record) + "\n" for record in records)
        self._file.flush()

    def _replay(self, keep: Callable[[Any], None]) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        num_damaged = 0
        for line in whole.splitlines():
            try:
                keep(json.loads(line))
            except (ValueError, KeyError, TypeError):
                num_damaged += 1
        if num_damaged:
            logger.warning(
                "%s has %d damaged lines; what they held is done again", self.path, num_damaged
            )
