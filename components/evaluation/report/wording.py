"""How figures and foreign text are written on the page: short, with units, and harmless.

One decision: text that a model or a file name brought along is made visible instead of being removed, so a control
character can neither move a terminal's cursor nor hide what a program says.
"""

from __future__ import annotations

import math
import re

DIGEST_LENGTH = 12
"""Characters of a SHA-256 that people compare by eye, as in the store's addresses."""

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 (but tab and newline), DEL, C1: a terminal acts on them
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"  # zero-width and bidirectional controls: they hide and reorder
    "\ud800-\udfff]"  # lone surrogates: no encoding has them
)


def printable(text: str) -> str:
    """`text` with every control character replaced by a visible one of the same length; tabs and newlines stay."""
    return _UNPRINTABLE.sub(_visible, text)


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures
    return "\u2421" if code == 0x7F else "\ufffd"


def digest(sha256: str) -> str:
    """The first characters of a digest."""
    return sha256[:DIGEST_LENGTH]


def count(value: float) -> str:
    """A count in three digits: `812`, `4.10k`, `1.26M`, `354.7B` shortens to `355B`."""
    size = abs(value)
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= limit * 0.9995:
            return f"{three_digits(value / limit)}{unit}"
    return f"{value:,.0f}"


def size(size_bytes: float) -> str:
    """Bytes in decimal units: `6.40 MB`."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= limit * 0.9995:
            return f"{three_digits(size_bytes / limit)} {unit}"
    return f"{size_bytes:,.0f} B"


def three_digits(value: float) -> str:
    """A number with three significant digits, never in scientific notation: `1.26`, `12.6`, `126`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    decimals = 2 - math.floor(math.log10(abs(float(f"{value:.3g}"))))
    return f"{value:.{max(0, decimals)}f}"


def duration(seconds: float) -> str:
    """A time as people say it: `0.42 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{whole} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole:02d} s"


def percent(fraction: float) -> str:
    """A share in percent with one decimal: `12.8 %`."""
    return f"{100 * fraction:.1f} %"


def listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
