"""Length-prefixed JSON frames of bounded size, between processes that do not trust each other.

No pickle is used, and a reader never allocates more than a frame. `values` gives the JSON its
meaning.
"""

from __future__ import annotations

import json
import os
from typing import Any

MAX_FRAME_BYTES = 1 << 20
"""Longest message (assumption: arguments and results of an honest HumanEval solution take
kilobytes)."""

HEADER_BYTES = 4
"""Size of the length before every message, an unsigned big-endian integer."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


class FrameError(Exception):
    """The other side closed the channel, or sent no frame of plain data."""


class MessageTooLong(FrameError):
    """The message does not fit into a frame. Nothing was sent."""


def encode_frame(message: Any) -> bytes:
    """Return the length and the JSON of a message.

    Raises:
        MessageTooLong: the message is longer than a frame.
    """
    body = _encode(message).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise MessageTooLong(f"{len(body)} bytes in one message")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def send(fd: int, message: Any) -> None:
    """Write a message.

    Raises:
        MessageTooLong: the message is longer than a frame.
        FrameError: the other side closed the channel.
    """
    write(fd, encode_frame(message))


def write(fd: int, frame: bytes) -> None:
    """Write an encoded frame.

    Raises:
        FrameError: the other side closed the channel.
    """
    view = memoryview(frame)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise FrameError(str(error)) from None


def receive(fd: int) -> Any:
    """Read a message.

    Raises:
        FrameError: the other side closed the channel, or sent no valid frame.
    """
    size = int.from_bytes(_read_exactly(fd, HEADER_BYTES), "big")
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {size} bytes was announced")
    return parse(_read_exactly(fd, size))


def parse(body: bytes) -> Any:
    """Parse the JSON of a frame. Raises `FrameError` for anything else."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {type(error).__name__}") from None


def _read_exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            chunk = os.read(fd, min(size - len(data), 1 << 16))
        except OSError as error:
            raise FrameError(str(error)) from None
        if not chunk:
            raise FrameError("the other side closed the channel")
        data += chunk
    return bytes(data)
