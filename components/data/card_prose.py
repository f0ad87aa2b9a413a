"""What a dataset card says in words: where the corpora come from, what was done to them, and how to get them again.

Design decision: a corpus is a preset's, from pinned archives, or its sources are declared by the recipe; a card says of each
what it is, and nothing that holds for the other kind alone. What is not covered: figures (`card`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from components.core.artifact import Artifact
from components.data.archives.pins import Archive
from components.data.config import CORPORA, Corpus, DataConfig
from components.data.markdown import size, table


class Corpora(NamedTuple):
    """What a card is about."""

    name: str
    """The recipe's name."""
    data: DataConfig
    seed: int
    context_length: int
    raw: Mapping[str, Artifact]
    """By corpus, and "vocabulary"."""
    tokenizer: Artifact
    prepared: Mapping[str, Artifact]
    """By corpus."""


def _declared(corpora: Corpora) -> list[Corpus]:
    return [corpus for corpus in CORPORA if corpus in (corpora.data.sources or {})]


def _of_preset(corpora: Corpora) -> list[Corpus]:
    return [corpus for corpus in CORPORA if corpus not in _declared(corpora)]


def whence(corpora: Corpora) -> str:
    """Where the corpora come from, in a sentence."""
    preset, declared = f"the preset `{corpora.data.preset}`", "sources that the recipe declares"
    if not _declared(corpora):
        return f"They are {preset}."
    if not _of_preset(corpora):
        return f"They come from {declared}."
    return f"{', '.join(_of_preset(corpora))} of {preset}; {', '.join(_declared(corpora))} from {declared}."


def origins(corpora: Corpora, archives: Sequence[Archive], vocabulary: Sequence[Archive]) -> str:
    """Sources and licenses."""
    packages = _packages(corpora, archives) if _of_preset(corpora) else ""
    sources = _sources(corpora) if _declared(corpora) else ""
    ranks = "; ".join(f"{one.name} {one.version} ({one.license})" for one in vocabulary)
    return f"""## Sources and licenses
{packages}{sources}
GPT-2's byte-pair ranks are the same bytes in each of: {ranks}.
"""


def licenses_of(raw: Artifact, sources: Sequence[Archive]) -> dict[str, list[str]]:
    """The packages of a raw corpus by license, as they are pinned; records of declared sources name their own."""
    pinned = {f"{one.name}-{one.version}.jsonl": one for one in sources}
    found: dict[str, list[str]] = {}
    for file in raw.files:
        one = pinned.get(file.path)
        license, name = (
            (one.license, f"{one.name} {one.version}") if one else ("see its records", file.path)
        )
        found.setdefault(license, []).append(name)
    return found or {"see its records": ["declared sources"]}


def _packages(corpora: Corpora, sources: Sequence[Archive]) -> str:
    """What each package gave to each corpus, by the files of the raw corpora: one a package."""
    pinned = {f"{one.name}-{one.version}.jsonl": one for one in sources}
    given: dict[str, dict[str, int]] = {}
    for corpus in _of_preset(corpora):
        for file in corpora.raw[corpus].files:
            given.setdefault(file.path, {})[corpus] = file.size_bytes
    rows = []
    for name, sizes in sorted(given.items()):
        one = pinned.get(name)
        package, license, note = (
            (f"{one.name} {one.version}", one.license, one.note)
            if one
            else (name, "see its records", "")
        )
        rows.append((package, license, *(size(sizes.get(corpus)) for corpus in CORPORA), note))
    return f"""
Members of released packages, each under its own license. Every record names its package, its path in it and its license;
`data/NOTICE` travels with the bytes, and `data/skipped.jsonl` lists the members that could not be used. Sizes are of the raw
records.

{table(("package", "license", *CORPORA, "note"), rows, numeric=range(2, 5))}"""


def _sources(corpora: Corpora) -> str:
    """What the recipe declares, and how much lies there."""
    rows = []
    for corpus in _declared(corpora):
        found = cast(dict[str, Any], corpora.raw[corpus].statistics)
        for number, one in enumerate((corpora.data.sources or {})[corpus]):
            fields = one.model_dump(exclude={"uri"}, exclude_defaults=True)
            stored = (
                (f"{found['num_files']:,}", size(found["size_bytes"])) if number == 0 else ("", "")
            )
            rows.append(
                (
                    corpus,
                    f"`{one.uri}`",
                    ", ".join(f"{name}: {value}" for name, value in fields.items()),
                    *stored,
                )
            )
    return f"""
Declared by the recipe. A record names its license where its source states one. Files and sizes are of all sources of a
corpus, as they are stored.

{table(("corpus", "source", "settings", "files", "size"), rows, numeric=(3, 4))}"""


def making(corpora: Corpora) -> str:
    """What was done to a document, in this order."""
    data = corpora.data
    filters, near, redaction = data.filters, data.near_duplicates, data.redaction
    across = ", and none that an earlier corpus holds" if data.dedup_across_corpora else ""
    similar = f"Of near-duplicates (MinHash, from a similarity of {near.threshold:g}) one is kept."
    found = ", ".join(redaction.kinds).replace("_", " ")
    steps = [
        "**Filtered**: a document is kept when it is not empty, its mean line has fewer than"
        f" {filters.max_mean_line_length:g} characters,\n   none of its lines more than {filters.max_line_length:,}, and"
        f" at most {100 * filters.max_digit_fraction:g} % of its characters are decimal or hexadecimal digits.",
        *_decontaminated(corpora),
        f"**Deduplicated**: of documents with equal bytes (SHA-256) the first by package and path is kept{across}."
        f" {similar if near.enabled else 'Near-duplicates stay.'}",
        *(
            [f"**Redacted**: what was found of {found} is replaced{_replaced(corpora)}."]
            if redaction.enabled
            else []
        ),
        "**Shuffled** by a keyed hash of their content, **prefixed** in the multi corpus with a comment that names their"
        f" language,\n   **tokenised** with the vocabulary `{corpora.tokenizer.name}`, and **packed**.",
    ]
    lines = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))
    return f"## How it was made\n\n{lines}\n"


def _replaced(corpora: Corpora) -> str:
    """How often, in the documents that are tokenised; nothing of corpora in which nobody looked."""
    found = {
        corpus: cast(dict[str, int], corpora.prepared[corpus].statistics.get("redacted"))
        for corpus in CORPORA
    }
    told = (
        f"{corpus} {sum(kinds.values()):,} ({', '.join(f'{kind} {number:,}' for kind, number in sorted(kinds.items()))})"
        for corpus, kinds in found.items()
        if kinds
    )
    counts = ", ".join(told).replace("_", " ")
    return f":\n   {counts}" if counts else ""


def _decontaminated(corpora: Corpora) -> list[str]:
    """Which benchmarks were looked for is what the counts of a corpus name; where none was, it is no step."""
    counts = [
        cast(dict[str, int], one.statistics.get("contaminated", {}))
        for one in corpora.prepared.values()
    ]
    looked_for = sorted({name for one in counts for name in one})
    if not looked_for:
        return []
    config = corpora.data.decontamination
    share = f", {100 * config.threshold:g} % of the problem's at least," if config.threshold else ""
    return [
        f"**Decontaminated**: a document that shares {config.ngram_words} words in a row{share} with a problem of"
        f" {' or '.join(looked_for)} is left out."
    ]


def again(corpora: Corpora) -> str:
    """How to get them again."""
    labels = " ".join(corpora.prepared[corpus].label for corpus in CORPORA)
    own = (
        f"the raw bytes of {', '.join(_of_preset(corpora))}"
        if _of_preset(corpora)
        else "the vocabulary"
    )
    raw = own if _declared(corpora) else "the raw bytes"
    return f"""## Get it again

    codegen data pull --preset {corpora.data.preset}
    codegen data pull-prepared ROOT {labels}

The first gives {raw}, the second the prepared corpora, from a root to which `codegen data push-prepared` copied
them.
"""
