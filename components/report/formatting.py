"""Numbers of the report as text: short, with units."""

from __future__ import annotations

import math
import re

DIGEST_LENGTH = 12
"""Characters of a SHA-256 that are compared by eye, as in the store's addresses."""


def short_digest(sha256: str) -> str:
    """The first characters of a digest."""
    return sha256[:DIGEST_LENGTH]


def count(value: float) -> str:
    """A count in three digits: `812`, `4.10k`, `1.26M`, `355B`."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{three_digits(value / limit)}{unit}"
    return f"{value:,.0f}"


def size(size_bytes: float) -> str:
    """Bytes in decimal units: `6.40 MB`."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= limit * 0.9995:
            return f"{three_digits(size_bytes / limit)} {unit}"
    return f"{size_bytes:,.0f} B"


def three_digits(value: float) -> str:
    """A number with three significant digits, never in scientific notation: `1.26`, `12.6`,
    `126`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    decimals = 2 - math.floor(math.log10(abs(float(f"{value:.3g}"))))
    return f"{value:.{max(0, decimals)}f}"


def duration(seconds: float) -> str:
    """A duration: `0.42 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest_s} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest_s:02d} s"


def percent(fraction: float) -> str:
    """A fraction in percent: `12.8 %`."""
    return f"{100 * fraction:.1f} %"


def join_words(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def plural(number: int, noun: str) -> str:
    """`1 artifact`, `2 artifacts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key by the numbers in a name: `HumanEval/2` before `HumanEval/10`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
