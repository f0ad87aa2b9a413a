"""Names that are not UTF-8."""

from __future__ import annotations

import os
import pickle

from components.core.errors import DataError
from components.core.text import printable_name


def test_bytes_that_are_not_utf8_are_escaped():
    assert printable_name(os.fsdecode(b"donn\xe9es/\xc3\xa4.py")) == "donn\\xe9es/ä.py"
    assert printable_name("half \ud83d") == "half \\ud83d"


def test_every_part_of_an_error_is_valid_utf8():
    name = os.fsdecode(b"\xff")
    error = DataError(f"{name} is bad", expected=name, fix=f"rename {name}")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (copy.got, copy.expected, copy.fix) == ("\\xff is bad", "\\xff", "rename \\xff")
