"""From the members of one archive to the records of the raw corpora, by the rules of its pin.

Design decision: a member that a rule selects becomes a record or a skipped entry with a reason, nothing in between; its text
is the member's own, byte for byte, except where the rule names a transformation. What is not covered: the filters of the
paper and deduplication, which come later (`documents`).
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from components.data.archives.archive_reader import Member, read_members
from components.data.archives.pins import ExtractionRule, Package

_WRAP_COLUMNS = 88
"""Width of prose that is made from JSON (assumption). One line a paragraph would be dropped by the paper's line filter."""
_TAG = re.compile(r"<[^>]+>")

Record = dict[str, str]


class ExtractionResult(NamedTuple):
    """What one archive gave: records by corpus, and what its rules selected but could not be used."""

    records: dict[str, list[Record]]
    skipped: list[Record]


def extract(package: Package, archive: Path) -> ExtractionResult:
    """All records of a package, in the order of its members' paths.

    Raises:
        FetchError: the archive cannot be read.
    """
    result = ExtractionResult({}, [])
    source = f"{package.name} {package.version}"
    for member in read_members(
        archive, lambda path: any(rule.selects(path) for rule in package.rules)
    ):
        for rule in package.rules:
            if not rule.selects(member.path):
                continue
            common = {"language": rule.language, "path": member.path, "source": source}
            text, reason = _text_of(member, rule)
            if reason:
                result.skipped.append({"corpus": rule.corpus, "reason": reason, **common})
            else:
                records = result.records.setdefault(rule.corpus, [])
                records.append({"license": package.license, "text": text, **common})
    return result


def _text_of(member: Member, rule: ExtractionRule) -> tuple[str, str | None]:
    """The text of a member, or why there is none."""
    content = member.content
    if content is None:
        return "", "a link"
    if rule.max_bytes is not None and len(content) > rule.max_bytes:
        return "", f"larger than {rule.max_bytes} bytes"
    if b"\0" in content:
        return "", f"binary: NUL at byte {content.index(0)}"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return "", f"not UTF-8: {error.reason} at byte {error.start}"
    if rule.require_text is not None and rule.require_text not in text:
        return "", f"does not contain {rule.require_text!r}"
    if rule.transform:
        try:
            text = botocore_docs(text, rule.max_characters or sys.maxsize)
        except json.JSONDecodeError as error:
            return "", f"not JSON: {error}"
    return text, None if text.strip() else "empty"


def botocore_docs(service: str, max_characters: int) -> str:
    """The prose of a botocore service description (JSON): each documentation string once, tags stripped, wrapped.

    It ends before the first paragraph with which it would be longer than `max_characters`.
    """
    kept: dict[str, None] = {}  # A dict is an ordered set.
    num_characters = 0
    for documentation in dict.fromkeys(_documentation(json.loads(service))):
        paragraph = _wrap(html.unescape(_TAG.sub("", documentation)))
        if not paragraph or paragraph in kept:
            continue
        num_characters += len(paragraph) + len("\n\n")
        if num_characters > max_characters:
            break
        kept[paragraph] = None
    return "\n\n".join(kept) + "\n"


def _wrap(text: str) -> str:
    """Words on lines of at most `_WRAP_COLUMNS` characters (a tenth of the time of `textwrap`, which splits words too)."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > _WRAP_COLUMNS:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def _documentation(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "documentation" and isinstance(value, str):
                yield value
            else:
                yield from _documentation(value)
    elif isinstance(node, list):
        for value in node:
            yield from _documentation(value)
