"""How the launcher hands work to jailed processes and gets answers: in files that lie nowhere.

One decision: files in memory rather than pipes. What a program says may be long, and nobody has to read along while it
runs; when it is gone, what it left is read once, up to the length of one frame, and parsed as one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from components.evaluation.sandbox.jailed.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    FrameError,
    parse,
)


@contextlib.contextmanager
def memory_file(content: bytes = b"") -> Iterator[int]:
    """A file with `content`, open for reading and writing."""
    fd = os.memfd_create("work")
    try:
        while content:
            content = content[os.write(fd, content) :]
        yield fd
    finally:
        os.close(fd)


def read_answer(fd: int) -> Any:
    """The JSON of the one frame that a program, now gone, left in a file; None where it left none."""
    content = os.pread(fd, HEADER_BYTES + MAX_FRAME_BYTES, 0)
    body = content[HEADER_BYTES : HEADER_BYTES + int.from_bytes(content[:HEADER_BYTES], "big")]
    try:
        return parse(body)
    except FrameError:
        return None
