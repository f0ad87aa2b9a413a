"""Messages between processes that do not trust each other: JSON in length-prefixed frames of bounded size.

One decision: no pickle, and no announcement is believed: a reader never allocates more than a frame may hold. What the
JSON means is `values`' matter.
"""

from __future__ import annotations

import json
import os
from typing import Any

MAX_FRAME_BYTES = 1 << 20
"""Longest message, in bytes (assumption: the longest argument or answer of an honest HumanEval solution takes kilobytes)."""

HEADER_BYTES = 4
"""Length of the length: an unsigned big-endian integer before every message."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


class FrameError(Exception):
    """The other side sent what is no frame of plain data, sent too much, or went away."""


class MessageTooLong(FrameError):
    """What was to be sent does not fit a frame. Nothing was sent."""


def framed(message: Any) -> bytes:
    """One message as it is sent: four bytes of length, then JSON.

    Raises:
        MessageTooLong: the message is longer than a frame may be.
    """
    body = _encode(message).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise MessageTooLong(f"{len(body)} bytes in one message")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def send(fd: int, message: Any) -> None:
    """Write one message.

    Raises:
        MessageTooLong: the message is longer than a frame may be.
        FrameError: the other side has gone.
    """
    write(fd, framed(message))


def write(fd: int, frame: bytes) -> None:
    """Write what `framed` made.

    Raises:
        FrameError: the other side has gone.
    """
    view = memoryview(frame)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise FrameError(str(error)) from None


def receive(fd: int) -> Any:
    """Read one message.

    Raises:
        FrameError: the other side has gone, or what it sent is no frame.
    """
    size = int.from_bytes(_exactly(fd, HEADER_BYTES), "big")
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {size} bytes was announced")
    return parse(_exactly(fd, size))


def parse(body: bytes) -> Any:
    """The JSON of one frame. Raises `FrameError` for anything else."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {type(error).__name__}") from None


def _exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            piece = os.read(fd, min(size - len(data), 1 << 16))
        except OSError as error:
            raise FrameError(str(error)) from None
        if not piece:
            raise FrameError("the other side has gone")
        data += piece
    return bytes(data)
