"""Reads archives in memory and extracts documents by the rules of a package.

Nothing is unpacked to disk. A member that a rule selects becomes a record or a skipped entry with a
reason. Its text is not changed, unless the rule has a transform. Links have no content.
"""

from __future__ import annotations

import html
import json
import re
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import FetchError
from components.core.text import printable_name
from components.data.archives.pins import ExtractionRule, Package
from components.data.sources.location import is_zip

_WRAP_COLUMNS = 88
"""Width of prose from JSON (assumption). The paper's filter would reject a line for each
paragraph."""
_TAG = re.compile(r"<[^>]+>")

Record = dict[str, str]


class Member(NamedTuple):
    """A file inside an archive."""

    path: str
    """Without the archive's top folder."""
    content: bytes | None
    """None for a link."""


class ExtractionResult(NamedTuple):
    """Records of an archive by corpus, and the selected members that could not be used."""

    records: dict[str, list[Record]]
    skipped: list[Record]


def read_members(archive: Path, is_selected: Callable[[str], bool]) -> list[Member]:
    """The selected members, sorted by path. The last of several members with the same path counts.

    Raises:
        FetchError: the file is not an archive, or is damaged.
    """
    walk = _walk_zip if is_zip(archive.name) else _walk_tar
    damage = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)
    try:
        members = {member.path: member for member in walk(archive, is_selected)}
    except damage as error:
        raise FetchError(
            f"{archive} cannot be read: {error}",
            expected="a complete .tar.gz, .zip or .whl archive",
            fix="remove the file and run the command again; if the error repeats, pin another "
            "release",
        ) from error
    return [members[path] for path in sorted(members)]


def _walk_tar(archive: Path, is_selected: Callable[[str], bool]) -> Iterator[Member]:
    with tarfile.open(archive, "r:gz") as tar:
        for info in tar:
            path = _without_top_folder(info.name)
            if not is_selected(path):
                continue
            if info.isreg():
                with tar.extractfile(info) as file:  # type: ignore[union-attr]  # never None for a regular file
                    yield Member(path, file.read())
            elif not info.isdir():
                yield Member(path, None)


def _walk_zip(archive: Path, is_selected: Callable[[str], bool]) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            # A wheel has no top folder (PEP 427).
            is_wheel = archive.suffix == ".whl"
            path = info.filename if is_wheel else _without_top_folder(info.filename)
            if not info.is_dir() and is_selected(path):
                is_link = stat.S_ISLNK(info.external_attr >> 16)
                yield Member(path, None if is_link else file.read(info))


def _without_top_folder(name: str) -> str:
    return printable_name(name).partition("/")[2]


def extract_records(package: Package, archive: Path) -> ExtractionResult:
    """All records of a package, in the order of its members' paths.

    Raises:
        FetchError: the archive cannot be read.
    """
    result = ExtractionResult({}, [])
    source = f"{package.name} {package.version}"

    def is_selected(path: str) -> bool:
        return any(rule.selects(path) for rule in package.rules)

    for member in read_members(archive, is_selected):
        for rule in package.rules:
            if not rule.selects(member.path):
                continue
            common = {"language": rule.language, "path": member.path, "source": source}
            text, reason = _extract_text(member, rule)
            if reason:
                result.skipped.append({"corpus": rule.corpus, "reason": reason, **common})
            else:
                records = result.records.setdefault(rule.corpus, [])
                records.append({"license": package.license, "text": text, **common})
    return result


def _extract_text(member: Member, rule: ExtractionRule) -> tuple[str, str | None]:
    """The text of a member, or the reason why the member is skipped."""
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
    """The prose of a botocore service description (JSON): distinct documentation strings, without
    tags, wrapped. The text ends before the paragraph that would exceed `max_characters`.
    """
    paragraphs: dict[str, None] = {}  # An ordered set.
    num_characters = 0
    for documentation in dict.fromkeys(_documentation_strings(json.loads(service))):
        paragraph = _wrap(html.unescape(_TAG.sub("", documentation)))
        if not paragraph or paragraph in paragraphs:
            continue
        num_characters += len(paragraph) + len("\n\n")
        if num_characters > max_characters:
            break
        paragraphs[paragraph] = None
    return "\n\n".join(paragraphs) + "\n"


def _wrap(text: str) -> str:
    """Wrap at `_WRAP_COLUMNS` characters, in a tenth of the time of `textwrap`, which also splits
    words.
    """
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > _WRAP_COLUMNS:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def _documentation_strings(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "documentation" and isinstance(value, str):
                yield value
            else:
                yield from _documentation_strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _documentation_strings(value)
