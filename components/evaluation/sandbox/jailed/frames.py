"""Length-prefixed JSON frames of bounded size, between processes that do not trust each other.

No pickle is used. `parse` is the only place where JSON of another process becomes objects: it
bounds the size, the depth and the number of containers before it parses, so that a message costs
its reader a few megabytes at most. `values` and `shared_objects` give the JSON its meaning.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

MAX_FRAME_BYTES = 1 << 20
"""Longest message (assumption: arguments and results of an honest HumanEval solution take
kilobytes)."""

MAX_REPORT_BYTES = 1 << 17
"""Longest report of a printed value. The launcher keeps the reports of all programs until they are
graded. (The longest expected value of MTPB has 285 bytes.)"""
MAX_DEPTH = 256
"""Deepest nesting of a message; Python's parser fails near 1,000."""
HEADER_BYTES = 4
"""Size of the length before every message, an unsigned big-endian integer."""

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class FrameError(Exception):
    """The other side closed the channel, or sent no frame of plain data."""


class NotSendable(FrameError):
    """The message exceeds a limit, or has a value that cannot be encoded. Nothing was sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """A short name, such as `message.length`, `message.depth` or `message.containers`."""


def encode_frame(message: Any, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """Return the length and the JSON of a message.

    Raises:
        NotSendable: the message exceeds a limit of `parse`.
    """
    body = _encode(message).encode()
    if limit := _exceeded_limit(body, max_bytes):
        raise NotSendable(limit)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def send(fd: int, message: Any) -> None:
    """Write a message.

    Raises:
        NotSendable: the message exceeds a limit of `parse`.
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


def parse(body: bytes, max_bytes: int = MAX_FRAME_BYTES) -> Any:
    """Parse the JSON of a frame.

    Raises:
        FrameError: it is not JSON, or exceeds a limit.
    """
    if limit := _exceeded_limit(body, max_bytes):
        raise FrameError(limit)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {type(error).__name__}") from None


def _exceeded_limit(body: bytes, max_bytes: int) -> str:
    """Return the name of the limit that the JSON in `body` exceeds; empty if there is none."""
    if len(body) > max_bytes:
        return "message.length"
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return ""
    # An empty list takes 56 bytes, so that the objects take about ten times the longest message.
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    if brackets.count(b"[") + brackets.count(b"{") > max_bytes // 16:
        return "message.containers"
    depth = deepest = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return "message.depth" if deepest > MAX_DEPTH else ""


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
