"""Redaction: replaces secrets and personal data by placeholders. Off by default.

Maintained detectors decide: Kingfisher's rules for credentials (offline), email-validator for
e-mail addresses, `ipaddress` for IP addresses. Their results are equal on every machine, and a text
without findings is not changed.

Limits: no names, telephone numbers, passwords without a known format, e-mail addresses outside
ASCII, or spelled-out addresses ("jane at ..."). A version number of four parts may be taken for an
IP address.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from components.core.extras import require_extra
from components.data.config import REDACTION_KINDS, RedactionConfig, RedactionKind
from components.data.filters.ngrams import Counts

if TYPE_CHECKING:
    from kingfisher_sdk import Scanner


PLACEHOLDERS: dict[RedactionKind, str] = {
    "secret": "<SECRET>",
    "email": "<EMAIL>",
    "ip_address": "<IP_ADDRESS>",
}
"""Replacement of each kind (assumption: words without a meaning in any programming language)."""

_EMAIL_DOMAIN = re.compile(rb"@((?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,63})(?![\w-])")
_EMAIL_LOCAL = re.compile(rb"[A-Za-z0-9._+-]+\Z")
_EMAIL_LOCAL_BYTES = 64
"""Longest local part of an address (RFC 5321, section 4.5.3.1.1)."""
_EXAMPLE_DOMAINS = re.compile(r"(?:^|\.)example(?:\.(?:com|net|org))?$", re.IGNORECASE)
"""Domains reserved for examples (RFC 2606, sections 2 and 3)."""
# The lookbehind follows the first digit, so that `re` searches for a digit first: three times
# faster.
_IPV4 = re.compile(rb"\d(?<![\w.].)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\w)")
_IPV6 = re.compile(rb"[23](?<![\w:.].)[0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
"""Allocated global unicast addresses start with the digit 2 or 3 (2000::/3: RFC 4291, section
2.4)."""


class RedactionResult(NamedTuple):
    """A redacted column."""

    texts: pa.LargeStringArray
    """The input column itself if nothing was replaced."""
    counts: dict[RedactionKind, Counts]
    """Number of replaced spans by requested kind, [number of texts]."""


class _Span(NamedTuple):
    """A range of bytes in a text."""

    start: int
    end: int
    kind: RedactionKind


def require_detectors(config: RedactionConfig) -> None:
    """Check that the packages of the configured detectors are installed.

    Raises:
        ConfigError: see `require_extra`.
    """
    if config.enabled and set(config.kinds) - {"ip_address"}:
        require_extra("redaction", "redaction of a corpus")


def redact(texts: pa.LargeStringArray, config: RedactionConfig) -> RedactionResult:
    """Replace all spans of the configured kinds.

    Raises:
        ConfigError: see `require_detectors`.
    """
    require_detectors(config)
    kinds: list[RedactionKind] = []
    if config.enabled:
        kinds = [kind for kind in REDACTION_KINDS if kind in config.kinds]
    counts: dict[RedactionKind, Counts] = {
        kind: np.zeros(len(texts), dtype=np.int64) for kind in kinds
    }
    redacted: dict[int, str] = {}
    for index in range(len(texts) if kinds else 0):
        content = texts[index].as_buffer().to_pybytes()
        spans = _merge_overlaps([span for kind in kinds for span in _DETECTORS[kind](content)])
        for span in spans:
            counts[span.kind][index] += 1
        if spans:
            redacted[index] = _replace(content, spans)
    if redacted:
        values = [redacted.get(index, text.as_py()) for index, text in enumerate(texts)]
        texts = pa.array(values, type=pa.large_string())
    return RedactionResult(texts, counts)


def _merge_overlaps(spans: list[_Span]) -> list[_Span]:
    """Sort spans and merge overlapping spans, with the kind that precedes in `REDACTION_KINDS`."""
    merged: list[_Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            last = merged.pop()
            kind = min(last.kind, span.kind, key=REDACTION_KINDS.index)
            merged.append(_Span(last.start, max(last.end, span.end), kind))
        else:
            merged.append(span)
    return merged


def _replace(content: bytes, spans: list[_Span]) -> str:
    pieces: list[bytes] = []
    position = 0
    for span in spans:
        pieces += [content[position : span.start], PLACEHOLDERS[span.kind].encode()]
        position = span.end
    return b"".join([*pieces, content[position:]]).decode()


def _find_secrets(content: bytes) -> Iterator[_Span]:
    """Credentials. A part of a pair, such as AWS's secret key, counts if the other part is
    present."""
    findings = _scanner().scan(content)
    if any(finding.visible for finding in findings):
        for finding in findings:
            location = finding.location
            yield _secret_span(content, location["start_offset"], location["end_offset"])


def _secret_span(content: bytes, start: int, end: int) -> _Span:
    """Extend a match to whole characters, because Kingfisher matches bytes."""
    while start > 0 and content[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(content) and content[end] & 0xC0 == 0x80:
        end += 1
    return _Span(start, end, "secret")


@functools.cache
def _scanner() -> Scanner:
    """The scanner of this process. Kingfisher compiles its rules for seconds and caches the result
    in the user's cache folder.
    """
    from kingfisher_sdk import Rules, Scanner

    return Scanner(Rules())


def _find_emails(content: bytes) -> Iterator[_Span]:
    for domain in _EMAIL_DOMAIN.finditer(content):
        end = domain.start()
        local = _EMAIL_LOCAL.search(content, max(0, end - _EMAIL_LOCAL_BYTES), end)
        if local is None or _EXAMPLE_DOMAINS.search(domain[1].decode()):
            continue
        if _is_email((local[0] + domain[0]).decode()):
            yield _Span(local.start(), domain.end(), "email")


def _is_email(address: str) -> bool:
    from email_validator import EmailNotValidError, validate_email

    try:
        validate_email(address, check_deliverability=False)
    except EmailNotValidError:
        return False
    return True


def _find_ip_addresses(content: bytes) -> Iterator[_Span]:
    """Addresses that are routed in the Internet; others do not identify a person."""
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(content):
            if _is_global(match[0].decode()):
                yield _Span(match.start(), match.end(), "ip_address")


def _is_global(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


_DETECTORS: dict[RedactionKind, Callable[[bytes], Iterator[_Span]]] = {
    "secret": _find_secrets,
    "email": _find_emails,
    "ip_address": _find_ip_addresses,
}
