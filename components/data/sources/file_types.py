"""What the name of a file says: its format, its compression and its language.

Design decision: names decide, content is never sniffed, so that the same recipe reads the same files everywhere. A file
whose name says nothing is an error of the one who lists it, not a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from components.data.sources.config import Format

Compression = Literal["gzip", "zstd"]

_COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".tgz": "gzip",
    ".tzst": "zstd",
}
_FORMATS: dict[Format, tuple[str, ...]] = {
    "jsonl": tuple(
        name + end for name in (".jsonl", ".json", ".ndjson") for end in ("", ".gz", ".zst")
    ),
    "parquet": (".parquet",),
    "avro": (".avro",),
    "archive": (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"),
}
"""The endings of the names of each format; a folder is "files"."""


_MAGIC = re.compile(r"[*?\[]")


def format_of(name: str) -> Format | None:
    """The format of a file by its name, or None where the name says nothing."""
    return next(
        (known for known, endings in _FORMATS.items() if name.lower().endswith(endings)), None
    )


def known_endings(file_format: str) -> tuple[str, ...]:
    """How the names of files of a format end; none for "files" and "auto"."""
    return next((endings for known, endings in _FORMATS.items() if known == file_format), ())


def compression_of(name: str) -> Compression | None:
    """How a file is compressed, by its name."""
    return next(
        (kind for ending, kind in _COMPRESSIONS.items() if name.lower().endswith(ending)), None
    )


def is_zip(name: str) -> bool:
    """Whether an archive is a zip, a wheel included, rather than a tar."""
    return name.lower().endswith((".zip", ".whl"))


def language_by_extension(path: str, extensions: Mapping[str, str]) -> str | None:
    """The language of a path, or None. Upper case is looked up as lower case: old repositories hold `MAIN.PY`."""
    stem, dot, extension = path.rpartition("/")[2].rpartition(".")
    return extensions.get(dot + extension.lower()) if stem else None


def is_glob(uri: str) -> bool:
    """Whether a path has a special character of globs; where such a file exists, it is that file all the same."""
    return _MAGIC.search(uri) is not None


def folder_of(uri: str) -> str:
    """The folder of a file; of a glob, the part before its first special character; of what ends with a slash, itself.

    "" is the current folder. `join(folder_of(uri), rest)` is the URI again.
    """
    found = _MAGIC.search(uri)
    folder, slash, _ = (uri[: found.start()] if found else uri).rpartition("/")
    return folder + slash if not folder or folder.endswith(("/", ":")) else folder


def join(folder: str, path: str) -> str:
    """A path below a folder as `folder_of` gives it."""
    return f"{folder}{'' if folder.endswith('/') else '/'}{path}" if folder else path
