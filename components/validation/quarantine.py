"""The page of the records that were set aside while a corpus was read: which, where, and why.

Design decision: a plain page without scripts in the folder of the run that it belongs to. What stands in such records is
hostile until shown otherwise, so every character of it is shown as text, and those that cannot be seen by their number.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from components.core.files import write_atomic

QUARANTINE_PAGE = "quarantine.html"
_MAX_SHOWN = 1000
"""Records on the page; further ones are counted (assumption: more is for a program to read, not for a person)."""
_MAX_EXCERPT = 2000
"""Characters of an excerpt that are shown (assumption: a screen full)."""
_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Quarantine</title>
<style>body {{ font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
pre {{ background: #f6f8fa; overflow: auto; padding: 0.5rem; white-space: pre-wrap; word-break: break-all }}
h2 {{ font-size: 1rem; margin-bottom: 0 }} p {{ margin: 0 }}</style>
<h1>Records that were set aside</h1>
<p><a href="index.html">All pages of this run</a></p>
<ul>
{reasons}
</ul>
{records}
</html>
"""


def write_quarantine(site: Path, records: Sequence[Mapping[str, JsonValue]]) -> None:
    """Write `QUARANTINE_PAGE` into the folder of a run's pages.

    Args:
        site: an existing folder.
        records: each with `file`, `offset` (bytes from the file's start), `reason` and `excerpt`.
    """
    reasons = Counter(_visible(record["reason"]) for record in records)
    counts = "\n".join(f"<li>{reason}: {num:,}</li>" for reason, num in sorted(reasons.items(), key=lambda item: -item[1]))
    shown = [_record(number, record) for number, record in enumerate(records[:_MAX_SHOWN], start=1)]
    if len(records) > _MAX_SHOWN:
        shown.append(f"<p>and {len(records) - _MAX_SHOWN:,} more</p>")
    write_atomic(site / QUARANTINE_PAGE, _PAGE.format(reasons=counts, records="\n".join(shown)))


def _record(number: int, record: Mapping[str, JsonValue]) -> str:
    place = f"{_visible(record['file'])}, byte {_visible(record['offset'])}"
    excerpt = _visible(str(record["excerpt"])[:_MAX_EXCERPT], but="\n\t")
    return f'<h2 id="record-{number}">{place}</h2>\n<p>{_visible(record["reason"])}</p>\n<pre>{excerpt}</pre>'


def _visible(value: JsonValue, but: str = "") -> str:
    """A value as HTML text, in which no character is a tag, moves other text, or cannot be seen."""
    shown = (char if char.isprintable() or char in but else f"\\u{{{ord(char):x}}}" for char in str(value))
    return html.escape("".join(shown))
