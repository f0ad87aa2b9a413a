"""Plain data between processes: values arrive equal or as harmless foreign objects."""

import functools
import json
import os
import socket
from collections import OrderedDict, namedtuple
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluation.sandbox.jailed import frames
from components.evaluation.sandbox.jailed.values import ForeignObject, decode, encode

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
)
keys = st.one_of(st.booleans(), st.integers(), st.text(), st.tuples(st.integers(), st.text()))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(keys, inner),
        st.sets(keys),
        st.frozensets(keys),
    ),
    max_leaves=20,
)


def send_and_receive(value: Any, **options: Any) -> Any:
    sender, receiver = socket.socketpair()
    with sender, receiver:
        frames.send(sender.fileno(), encode(value))
        return decode(frames.receive(receiver.fileno()), **options)


def describe(value: Any) -> Any:
    """Return types and representations, which distinguish NaN, -0.0, and 1 from True."""
    if isinstance(value, list | tuple):
        return type(value), [describe(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, value))
    if isinstance(value, dict):
        return [(describe(key), describe(item)) for key, item in value.items()]
    return type(value), repr(value)


@given(values)
def test_plain_data_arrives_unchanged(value: Any) -> None:
    assert describe(decode(encode(value))) == describe(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (OrderedDict(a=1), {"a": 1}),
        (namedtuple("Pair", "x y")(1, 2), (1, 2)),
        (IntEnum("Colour", "RED").RED, 1),
        (2**80, 2**80),
        (-(2**80), -(2**80)),
        ("\ud800 lone", "\ud800 lone"),
        ({"a": 1}.keys(), {"a"}),
        (bytearray(b"ab"), bytearray(b"ab")),
    ],
)
def test_subclasses_arrive_as_their_base_types(value: Any, expected: Any) -> None:
    arrived = send_and_receive(value)
    assert arrived == expected
    assert type(arrived) is type(expected)


class EqualToAll:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class EqualInt(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


@pytest.mark.parametrize("value", [EqualToAll(), [EqualToAll()], EqualInt(7), {"a": EqualToAll()}])
def test_a_custom_equality_does_not_cross(value: Any) -> None:
    arrived = send_and_receive(value)
    assert arrived != 42
    assert arrived != [42]
    assert arrived != {"a": 42}


def test_iterators_arrive_with_their_items_unless_endless() -> None:
    assert list(send_and_receive(range(3))) == [0, 1, 2]
    assert sorted(send_and_receive(char for char in "ba")) == ["a", "b"]
    endless = send_and_receive(iter(int, 1))
    assert isinstance(endless, ForeignObject)
    with pytest.raises(TypeError, match="not iterable"):
        list(endless)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.array([1.5, np.inf]),
        np.array([[True], [False]]),
        np.zeros((0, 4)),
        np.array(["a", "bc"], dtype=object),
    ],
)
def test_arrays_keep_shape_and_type(array: np.ndarray) -> None:
    arrived = send_and_receive(array)
    assert arrived.dtype == array.dtype
    assert arrived.shape == array.shape
    assert np.array_equal(arrived, array)


def test_numpy_scalars_keep_their_type() -> None:
    for value in (np.int64(3), np.float32(0.5), np.bool_(True)):
        arrived = send_and_receive(value)
        assert arrived == value
        assert type(arrived) is type(value)


def test_sets_and_dictionaries_are_not_hashed_outside_a_jail() -> None:
    for value in ({3, 1, 2}, {3: "x", 1: "y", 2: "z"}):
        arrived = send_and_receive([value], hashed=False)[0]
        assert isinstance(arrived, ForeignObject)
        assert list(arrived) == list(value)


@pytest.mark.parametrize(
    "data",
    [
        [],
        {},
        {"t": "list"},
        {"t": "list", "v": "abc"},
        {"t": "__class__", "v": 1},
        {"t": ["list"], "v": []},
        {"t": "int", "v": "zz"},
        {"t": "int", "v": 5},
        {"t": "dict", "v": [[1]]},
        {"t": "set", "v": [{"t": "list", "v": []}]},
        {"t": "array", "dtype": "O", "shape": [9], "v": []},
        {"t": "array", "dtype": "U99999999", "shape": [1], "v": ["a"]},
        # as a list: a million empty lists
        {"t": "array", "dtype": "f8", "shape": [10**6, 0], "v": []},
        {"t": "array", "dtype": "f8", "shape": [1], "v": [{"t": "object", "type": "x", "str": ""}]},
        {"t": "bytes", "v": "0"},
    ],
)
def test_data_that_encode_never_returns_is_refused(data: Any) -> None:
    with pytest.raises(frames.FrameError):
        decode(data)


def test_deep_nesting_is_cut_or_refused() -> None:
    recursive: list[Any] = []
    recursive.append(recursive)
    decode(encode(recursive))
    deep: Any = {"t": "list", "v": []}
    for _ in range(5000):
        deep = {"t": "list", "v": [deep]}
    with pytest.raises(frames.FrameError):
        decode(deep)
    with pytest.raises(frames.FrameError):
        frames.parse(b"[" * 200_000)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\x00\x00", b"\xff\xff\xff\xff{}", b"\x00\x00\x00\x02{", b"\x00\x00\x00\x01x"],
)
def test_broken_frames_are_refused(data: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with pytest.raises(frames.FrameError):
        frames.receive(reader)
    os.close(reader)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("x" * (frames.MAX_FRAME_BYTES + 1), "message.length"),
        ([[]] * (frames.MAX_FRAME_BYTES // 8), "message.containers"),
        (functools.reduce(lambda inner, _: [inner], range(frames.MAX_DEPTH), []), "message.depth"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 99 else "",
)
def test_a_message_that_exceeds_a_limit_is_neither_sent_nor_parsed(
    message: Any, reason: str
) -> None:
    with pytest.raises(frames.NotSendable) as refused:
        frames.send(1, message)
    assert refused.value.reason == reason
    with pytest.raises(frames.FrameError, match=reason):
        frames.parse(json.dumps(message).encode())


def test_brackets_in_texts_are_no_containers() -> None:
    message = ["[{" * 100_000, '"\\[' * 50_000, "\\", '[[["']
    assert frames.parse(frames.encode_frame(message)[frames.HEADER_BYTES :]) == message
