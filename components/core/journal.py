"""An append-only file of finished work, replayed when an interrupted run resumes.

A line that was torn by a kill is cut off. A line that is no record, which a power failure can
leave, is skipped, and its work is repeated; so recorded work must be repeatable.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from components.core.files import parse_json

logger = logging.getLogger(__name__)


class Journal(AbstractContextManager["Journal"]):
    """A file of records that grows; use it in a `with` block."""

    def __init__(self, path: Path, on_record: Callable[[Any], None]) -> None:
        """Open the file at `path` and call `on_record` for each record in it.

        `on_record` raises ValueError, KeyError or TypeError for a value that is no record.
        """
        self.path = path
        if path.exists():
            self._replay(on_record)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, records: Iterable[Any]) -> None:
        """Append records and flush them to the operating system, so that a kill loses none."""
        self._file.writelines(json.dumps(record) + "\n" for record in records)
        self._file.flush()

    def _replay(self, on_record: Callable[[Any], None]) -> None:
        content = self.path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(complete))
        num_damaged = 0
        for line in complete.splitlines():
            try:
                on_record(parse_json(line))
            except (ValueError, KeyError, TypeError):
                num_damaged += 1
        if num_damaged:
            logger.warning(
                "%s has %d damaged lines; their work is repeated", self.path, num_damaged
            )
