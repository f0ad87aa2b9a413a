"""Layouts of published data sets: their files, columns, and the rules and limits that fit them.

`flows.settings.source_layouts` expands a layout into ordinary fields of a recipe, so nothing here
is part of an identity. docs/sources.md describes each layout.

Shares without another source are assumptions: a data set of millions of files from the public
internet has a few that are binary, large or damaged, which the starter corpus does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.data.sources.config import Source
from components.data.sources.location import format_of, is_glob, join_path

_COLUMN_FIELDS = ("text", "path", "name", "license", "language")
"""Fields of `Source` that name a column."""

_RARE_DEFECTS: dict[str, float] = {
    "max_binary_fraction": 0.001,
    "max_large_fraction": 0.001,
    "max_undecoded_fraction": 0.001,
}
"""Limits of a data set of millions of files (assumption)."""
_GITHUB_DEFECTS: dict[str, float] = {**_RARE_DEFECTS, "max_duplicate_path_fraction": 0.01}
"""A repository can be listed with several branches, so that a path occurs twice (assumption)."""
_BIGQUERY_DEFECTS: dict[str, float] = {**_GITHUB_DEFECTS, "max_undecoded_fraction": 0.01}
"""BigQuery stores text only, so files in other encodings contain U+FFFD (assumption)."""
_GITHUB_RULES: dict[str, Any] = {"max_dropped_share": {"filters": 0.9}}
"""Minified and generated files have most of the bytes of some languages (assumption; all steps of
the paper together reject 98 % of the JavaScript of BigQuery: docs/paper.md, section 1)."""

_GITHUB_COLUMNS = {"text": "content", "path": "path", "name": "repo_name", "license": "license"}


@dataclass(frozen=True, kw_only=True)
class SourceLayout:
    """The layout of a published data set."""

    corpus: str
    """The corpus of CodeGen that it is for."""
    files: str
    """Glob of its files below the folder of the data set; `{language}` is a language of the corpus
    in lower case."""
    fields: Mapping[str, Any]
    """Fields of `Source`, without `uri` and `title`."""
    rules: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `CorpusConfig`."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Limits of `ValidationConfig` for the corpus."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read; a dot selects a field of an object."""
        return tuple(self.fields[name] for name in _COLUMN_FIELDS if name in self.fields)

    def sources(self, title: str, uri: str, languages: Sequence[str]) -> tuple[Source, ...]:
        """Return the sources at a file, a glob of files, or the folder of the data set.

        Args:
            title: name of the sources in statistics.
            uri: a local path or an fsspec URI.
            languages: languages of the corpus.
        """
        uris = [uri]
        if not is_glob(uri) and format_of(uri) is None:
            names = [self.files.format(language=language.lower()) for language in languages]
            uris = [join_path(uri.rstrip("/") or "/", name) for name in dict.fromkeys(names)]
        return tuple(Source.parse({"uri": item, "title": title, **self.fields}) for item in uris)


LAYOUTS: dict[str, SourceLayout] = {
    "pile": SourceLayout(
        corpus="nl",
        files="train/*.jsonl.zst",
        fields={
            "text": "text",
            "name": "meta.pile_set_name",
            "group_by_name": True,
            "fixed_language": "English",
        },
        # The files repeat the documents of up-weighted components; exact deduplication would undo
        # the weights (docs/paper.md, section 1).
        rules={"exact_dedup": False},
        limits={
            **_RARE_DEFECTS,
            "max_without_license_fraction": 1.0,
            "max_without_path_fraction": 1.0,
        },
    ),
    "bigquery": SourceLayout(
        corpus="multi",
        files="*.parquet",
        fields=_GITHUB_COLUMNS,
        rules=_GITHUB_RULES,
        limits=_BIGQUERY_DEFECTS,
    ),
    "bigquery-contents": SourceLayout(
        corpus="multi",
        files="*.parquet",
        fields={
            "text": "content",
            "path": "sample_path",
            "name": "sample_repo_name",
            "skip_null_text": True,
        },
        rules=_GITHUB_RULES,
        limits={**_BIGQUERY_DEFECTS, "max_without_license_fraction": 1.0},
    ),
    "python-crawl": SourceLayout(
        corpus="mono",
        files="*.jsonl.zst",
        fields=_GITHUB_COLUMNS,
        rules=_GITHUB_RULES,
        limits=_GITHUB_DEFECTS,
    ),
    "the-stack": SourceLayout(
        corpus="multi",
        files="data/{language}/*.parquet",
        fields={
            "text": "content",
            "path": "max_stars_repo_path",
            "name": "max_stars_repo_name",
            "license": "max_stars_repo_licenses",
            "language": "lang",
        },
        rules=_GITHUB_RULES,
        limits=_GITHUB_DEFECTS,
    ),
}
"""By the name of `--sources`."""

_STACK_V2_COLUMNS = frozenset({"blob_id", "src_encoding"})
"""Columns of The Stack v2, which has identifiers of files at Software Heritage, but no contents."""


def layout_advice(columns: Iterable[str]) -> str:
    """Return what to do about a file with these columns, if a layout is known; else ""."""
    existing = set(columns)
    if existing >= _STACK_V2_COLUMNS and "content" not in existing:
        return (
            "The Stack v2 has no file contents, only their identifiers at Software Heritage: "
            "download the contents first, and store them in a column `content`"
        )
    matches = [name for name, layout in LAYOUTS.items() if existing.issuperset(layout.columns)]
    if not matches:
        return ""
    options = " or ".join(f"--sources {name}=URI" for name in matches)
    return f"these are columns of a known layout: {options}"
