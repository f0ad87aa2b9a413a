"""Sources of a recipe from the layouts of published data sets: `--sources LAYOUT[@CORPUS]=URI`.

A layout is expanded into `data.corpora` and `validation.corpora`, so the recipe has ordinary fields
that `--set` can change, and a later change of a layout changes no existing recipe.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from components.core.errors import ConfigError
from components.core.network import require_public_uri
from components.core.text import suggest_name
from components.data.sources.config import Source
from components.data.sources.layouts import LAYOUTS
from flows.settings.recipes import Recipe

SYNTAX = "LAYOUT[@CORPUS]=URI"


class _Assignment(NamedTuple):
    """A value of `--sources`."""

    layout: str
    corpus: str
    uri: str


def with_sources(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """Return a copy of a recipe with the sources of layouts.

    All assignments of a corpus together replace its sources. If layouts of a corpus have different
    limits, the larger limit holds.

    Args:
        recipe: the recipe.
        assignments: as `pile=/data/pile` or `the-stack@mono=s3://bucket/the-stack`.

    Raises:
        ConfigError: an assignment is incomplete, contains a secret, or names an unknown layout or
            corpus.
    """
    sources: dict[str, tuple[Source, ...]] = {}
    data = recipe.data
    limits = {corpus: dict(values) for corpus, values in recipe.validation.corpora.items()}
    for text in assignments:
        assignment = _parse(require_public_uri(text))
        layout, corpus = LAYOUTS[assignment.layout], assignment.corpus
        if corpus not in data.corpora:
            raise ConfigError(
                f"--sources {text}: the recipe has no corpus {corpus!r}",
                expected=f"one of data.corpora: {', '.join(data.corpora)}",
                fix=f"write --sources {assignment.layout}@CORPUS={assignment.uri} with such a name",
            )
        languages = data.corpora[corpus].languages
        added = layout.sources(assignment.layout, assignment.uri, languages)
        sources[corpus] = (*sources.get(corpus, ()), *added)
        data = data.replace_corpus(corpus, sources=sources[corpus], **layout.rules)
        corpus_limits = limits.setdefault(corpus, {})
        for name, value in layout.limits.items():
            corpus_limits[name] = max(value, corpus_limits.get(name, value))
    return recipe.replace(data=data, validation=recipe.validation.replace(corpora=limits))


def _parse(text: str) -> _Assignment:
    target, separator, uri = text.partition("=")
    layout, _, corpus = target.partition("@")
    if layout not in LAYOUTS:
        raise ConfigError(
            f"--sources {text}: there is no layout {layout!r}",
            expected=f"{SYNTAX} with one of {', '.join(LAYOUTS)}",
            fix=suggest_name(layout, LAYOUTS)
            or "choose one of these names, or set the sources of another layout with "
            "--set data.corpora.CORPUS.sources=...",
        )
    if not (separator and uri):
        raise ConfigError(
            f"--sources {text} names no location",
            expected=f"{SYNTAX}, where URI is a folder, a file or a glob",
            fix=f"write --sources {target}=URI, e.g. --sources {target}=/data/{layout}",
        )
    return _Assignment(layout, corpus or LAYOUTS[layout].corpus, uri)
