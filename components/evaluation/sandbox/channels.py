"""How the launcher speaks with jailed processes: a file that lies nowhere goes in, one bounded frame comes out."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Any

from components.evaluation.sandbox.jailed.frames import HEADER_BYTES, MAX_FRAME_BYTES, FrameError, parse


@contextlib.contextmanager
def memory_file(content: Any) -> Iterator[int]:
    """A file with `content` as JSON, open for reading: a pipe could fill up before its reader starts, or after it died."""
    fd = os.memfd_create("setup")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(json.dumps(content).encode())
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def read_frame(channel: socket.socket, deadline: float) -> Any:
    """The JSON of one frame from `channel`, or None where none came until `deadline` (monotonic) or what came is none."""
    data = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while (size := _size(data)) is None or len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                return None
            piece = _piece(channel)
            data += piece
            if not piece or (_size(data) or 0) > HEADER_BYTES + MAX_FRAME_BYTES:
                return None
    try:
        return parse(bytes(data[HEADER_BYTES:size]))
    except FrameError:
        return None


def _size(data: bytearray) -> int | None:
    """Bytes of the whole frame that `data` begins, once they are known."""
    return HEADER_BYTES + int.from_bytes(data[:HEADER_BYTES], "big") if len(data) >= HEADER_BYTES else None


def _piece(channel: socket.socket) -> bytes:
    try:
        return channel.recv(1 << 16)
    except OSError:
        return b""
