"""Redaction: secrets and personal data become a placeholder that names their kind. Off unless a recipe asks for it.

One decision: every verdict is a well-kept detector's, none is ours. Credentials are found by Kingfisher's rules, offline.
What looks like an e-mail address is judged by email-validator, what looks like an IP address by Python's `ipaddress`. All
say the same on every machine, and a text in which nothing is found comes back byte for byte.

What is not covered: names, telephone numbers and passwords that follow no known format; e-mail addresses that are not ASCII;
addresses that a text spells out ("jane at ..."). A version number of four parts may pass for an IP address and is replaced.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from components.data.config import KINDS, Kind, RedactionConfig
from components.data.filters.arrow_text import Counts

if TYPE_CHECKING:
    from kingfisher_sdk import Scanner


PLACEHOLDERS: dict[Kind, str] = {
    "secret": "<SECRET>",
    "email": "<EMAIL>",
    "ip_address": "<IP_ADDRESS>",
}
"""What takes the place of a find (assumption: words that no programming language gives a meaning to)."""

_EMAIL_DOMAIN = re.compile(rb"@((?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,63})(?![\w-])")
_EMAIL_LOCAL = re.compile(rb"[A-Za-z0-9._+-]+\Z")
_EMAIL_LOCAL_BYTES = 64
"""Longest part before the @ (RFC 5321, section 4.5.3.1.1)."""
_EXAMPLE_DOMAINS = re.compile(r"(?:^|\.)example(?:\.(?:com|net|org))?$", re.IGNORECASE)
"""Domains reserved for examples, in which nobody has an address (RFC 2606, sections 2 and 3)."""
# What may not stand before is asked after the first digit: so `re` looks for a digit first, and runs three times as fast.
_IPV4 = re.compile(rb"\d(?<![\w.].)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\w)")
_IPV6 = re.compile(rb"[23](?<![\w:.].)[0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
"""All global unicast addresses given out so far begin with the digit 2 or 3 (2000::/3: RFC 4291, section 2.4)."""


class RedactionResult(NamedTuple):
    """A column without what was found, and how much was found."""

    texts: pa.LargeStringArray
    """The column that was given where nothing was found in it."""
    counts: dict[Kind, Counts]
    """By kind that was asked for: how many finds were replaced, [number of texts]."""


class _Span(NamedTuple):
    """Bytes of a text, and what they are."""

    start: int
    end: int
    kind: Kind


def redact(texts: pa.LargeStringArray, config: RedactionConfig) -> RedactionResult:
    """Replace every find of the kinds asked for. With a configuration that is not enabled, nothing is looked for."""
    kinds = tuple(kind for kind in KINDS if kind in config.kinds) if config.enabled else ()
    counts: dict[Kind, Counts] = {kind: np.zeros(len(texts), dtype=np.int64) for kind in kinds}
    redacted: dict[int, str] = {}
    for index in range(len(texts) if kinds else 0):
        content = texts[index].as_buffer().to_pybytes()
        finds = _without_overlap([find for kind in kinds for find in _FINDERS[kind](content)])
        for find in finds:
            counts[find.kind][index] += 1
        if finds:
            redacted[index] = _replace(content, finds)
    if redacted:
        texts = pa.array(
            [redacted.get(i, text.as_py()) for i, text in enumerate(texts)], type=pa.large_string()
        )
    return RedactionResult(texts, counts)


def _without_overlap(finds: list[_Span]) -> list[_Span]:
    """In order of place. Finds that overlap become one that covers them all, of the first of their kinds in `KINDS`."""
    merged: list[_Span] = []
    for find in sorted(finds):
        if merged and find.start < merged[-1].end:
            last = merged.pop()
            find = _Span(  # noqa: PLW2901
                last.start, max(last.end, find.end), min(last.kind, find.kind, key=KINDS.index)
            )
        merged.append(find)
    return merged


def _replace(content: bytes, finds: list[_Span]) -> str:
    pieces, done = [], 0
    for find in finds:
        pieces += [content[done : find.start], PLACEHOLDERS[find.kind].encode()]
        done = find.end
    return b"".join([*pieces, content[done:]]).decode()


def _secrets(content: bytes) -> Iterator[_Span]:
    """Credentials. One that is only half of a pair, e.g. AWS's secret key, counts where the rest of the pair is there."""
    findings = _scanner().scan(content)
    if any(finding.visible for finding in findings):
        for finding in findings:
            yield _whole_characters(
                content, finding.location["start_offset"], finding.location["end_offset"]
            )


def _whole_characters(content: bytes, start: int, end: int) -> _Span:
    """Kingfisher matches bytes, so a find may end within a character."""
    while start > 0 and content[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(content) and content[end] & 0xC0 == 0x80:
        end += 1
    return _Span(start, end, "secret")


@functools.cache
def _scanner() -> Scanner:
    """Once a process. Kingfisher compiles its rules for some seconds, and keeps the result in the user's cache folder."""
    from kingfisher_sdk import Rules, Scanner

    return Scanner(Rules())


def _emails(content: bytes) -> Iterator[_Span]:
    for domain in _EMAIL_DOMAIN.finditer(content):
        at = domain.start()
        local = _EMAIL_LOCAL.search(content, max(0, at - _EMAIL_LOCAL_BYTES), at)
        if (
            local
            and not _EXAMPLE_DOMAINS.search(domain[1].decode())
            and _is_email((local[0] + domain[0]).decode())
        ):
            yield _Span(local.start(), domain.end(), "email")


def _is_email(address: str) -> bool:
    from email_validator import EmailNotValidError, validate_email

    try:
        validate_email(address, check_deliverability=False)
    except EmailNotValidError:
        return False
    return True


def _ip_addresses(content: bytes) -> Iterator[_Span]:
    """Those that are routed in the Internet. A private or reserved address says nothing about anyone."""
    for shape in (_IPV4, _IPV6):
        for match in shape.finditer(content):
            if _is_global(match[0].decode()):
                yield _Span(match.start(), match.end(), "ip_address")


def _is_global(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


_FINDERS = {"secret": _secrets, "email": _emails, "ip_address": _ip_addresses}
