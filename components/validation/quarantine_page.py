"""The page of the records that were set aside while corpora were read: how many, which, where, and why.

Design decision: a plain page without scripts in the folder of the run that it belongs to. What stands in such records is
hostile until shown otherwise, so every character of it is shown as text, and those that cannot be seen by their number.
All are counted; some of each kind are shown, so that no kind hides the others.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from components.core.files import write_atomic

QUARANTINE_PAGE = "quarantine.html"
MAX_EXAMPLES = 100
"""Records of a kind and corpus that are shown (assumption: more is for a program to read, not for a person)."""
_MAX_EXCERPT = 2000
"""Characters of an excerpt that are shown (assumption: a screen full)."""
_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Quarantine</title>
<style>body {{ font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
pre {{ background: #f6f8fa; overflow: auto; padding: 0.5rem; white-space: pre-wrap; word-break: break-all }}
h2 {{ font-size: 1.2rem }} h3 {{ font-size: 1rem; margin-bottom: 0 }} h3 + p {{ margin: 0 }}</style>
<h1>Records that were set aside</h1>
<p>They are in no corpus, and no rule is about them. Each stands with its place, the reason, and how it begins.
An offset counts bytes of a file of lines, and rows of a table.
<a href="index.html">All pages of this run</a></p>
{corpora}
</html>
"""


class QuarantineSummary(NamedTuple):
    """What was set aside while a corpus was read."""

    nums: Mapping[str, int]
    """By the kind of reason: how many records."""
    examples: Sequence[Mapping[str, Any]]
    """The first `MAX_EXAMPLES` of every kind: `file`, `offset`, `kind`, `reason`, `excerpt`."""

    @property
    def num(self) -> int:
        """All of them."""
        return sum(self.nums.values())


def merge_quarantined(parts: Iterable[QuarantineSummary]) -> QuarantineSummary:
    """What was set aside in all parts of a corpus; the same in whichever parts and order it was read."""
    nums: Counter[str] = Counter()
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for part in parts:
        nums.update(part.nums)
        for example in part.examples:
            kept.setdefault(example["kind"], []).append(example)
        kept = {kind: sorted(some, key=_place)[:MAX_EXAMPLES] for kind, some in kept.items()}
    return QuarantineSummary(
        dict(sorted(nums.items())),
        [example for _, some in sorted(kept.items()) for example in some],
    )


def _place(example: Mapping[str, Any]) -> tuple[str, int]:
    return example["file"], example["offset"]


def write_quarantine(site: Path, corpora: Mapping[str, QuarantineSummary]) -> None:
    """Write `QUARANTINE_PAGE` into an existing folder of pages, with an anchor for each corpus that has records there."""
    sections = "\n".join(_corpus(name, one) for name, one in corpora.items() if one.num)
    write_atomic(site / QUARANTINE_PAGE, _PAGE.format(corpora=sections))


def _corpus(name: str, one: QuarantineSummary) -> str:
    counts, shown = [], []
    for kind, num in sorted(one.nums.items(), key=lambda item: (-item[1], item[0])):
        some = [record for record in one.examples if record["kind"] == kind]
        counts.append(
            f"<li>{_visible(kind)}: {num:,}{f', {len(some):,} of them below' if len(some) < num else ''}</li>"
        )
        shown += some
    lines = [
        f'<h2 id="{_visible(name)}">{_visible(name)}: {one.num:,}</h2>',
        "<ul>",
        *counts,
        "</ul>",
        *map(_record, shown),
    ]
    return "\n".join(lines)


def _record(record: Mapping[str, Any]) -> str:
    place = f"{_visible(record['file'])}, offset {_visible(record['offset'])}"
    excerpt = _visible(str(record["excerpt"])[:_MAX_EXCERPT], but="\n\t")
    return f"<h3>{place}</h3>\n<p>{_visible(record['reason'])}</p>\n<pre>{excerpt}</pre>"


def _visible(value: JsonValue, but: str = "") -> str:
    """A value as HTML text, in which no character is a tag, moves other text, or cannot be seen."""
    shown = (
        char if char.isprintable() or char in but else f"\\u{{{ord(char):x}}}"
        for char in str(value)
    )
    return html.escape("".join(shown))
