"""The tables and numbers of the dataset card; `dataset-card.md.j2` holds its text.

The card is a pure function of records (artifacts, pins, settings): it reads no corpus and no clock,
so equal recipes give equal cards. It shows no documents; the Data Docs of the validation do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from components.core.artifact import Artifact
from components.core.corpus_statistics import (
    CorpusSteps,
    StepCounts,
    format_share,
    largest_licenses,
    read_corpus_steps,
    shown_steps,
)
from components.core.markdown import code
from components.core.paper import PaperCorpora
from components.core.templates import markdown_environment
from components.data.archives.pins import Archive
from components.data.config import DataConfig

_ALL = "all"
_EMPTY = "-"
_SUMMED_STATISTICS = (
    "raw_documents",
    "raw_bytes",
    "duplicates",
    "duplicate_bytes",
    "documents",
    "bytes",
    "train_tokens",
    "held_out_tokens",
)
"""Statistics of a language that the card sums over the languages of a corpus."""

Rows = list[tuple[str, ...]]


class DatasetCardInputs(NamedTuple):
    """The corpora of a recipe and the settings that they were prepared with."""

    name: str
    """The recipe's name."""
    data: DataConfig
    seed: int
    context_length: int
    raw: Mapping[str, Artifact]
    """By corpus, and "vocabulary"."""
    tokenizer: Artifact
    prepared: Mapping[str, Artifact]
    """By corpus, in the order of the stages."""

    @property
    def corpora(self) -> list[str]:
        """The names of the corpora, in the order of the stages."""
        return list(self.prepared)

    @property
    def declared(self) -> list[str]:
        """The corpora whose sources the recipe declares."""
        return [corpus for corpus in self.corpora if corpus in self.data.declared_sources]

    @property
    def pinned(self) -> list[str]:
        """The corpora of the preset, from pinned archives."""
        return [corpus for corpus in self.corpora if corpus not in self.declared]

    def statistics(self, corpus: str, part: str) -> dict[str, dict[str, Any]]:
        """A part of the statistics of a prepared corpus; empty if it was not recorded."""
        return cast(dict[str, dict[str, Any]], self.prepared[corpus].statistics.get(part) or {})


def dataset_card(
    corpora: DatasetCardInputs,
    sources: Sequence[Archive],
    vocabulary: Sequence[Archive],
    paper: PaperCorpora,
) -> str:
    """The card as Markdown.

    Args:
        corpora: the corpora of a recipe.
        sources: the pinned archives of the preset, for their licenses.
        vocabulary: the archives that provide GPT-2's byte-pair ranks.
        paper: the paper's corpora, for comparison.
    """
    totals = [
        _total(corpora.statistics(corpus, "languages").values()) for corpus in corpora.corpora
    ]
    rows = _corpus_steps(corpora)
    steps = shown_steps(row for _, row in rows)
    by_language = [(corpus, row) for corpus, row in rows if row.source is None]
    by_source = [(corpus, row) for corpus, row in rows if row.source is not None]
    template = markdown_environment("components.data.card").get_template("dataset-card.md.j2")
    return template.render(
        corpora=corpora,
        labels=" ".join(artifact.label for artifact in corpora.prepared.values()),
        num_documents=sum(total["documents"] for total in totals),
        total_size=format_size(sum(total["bytes"] for total in totals)),
        num_tokens=sum(total["train_tokens"] for total in totals),
        vocabulary=vocabulary,
        dvc_pins=_dvc_pins(corpora),
        paper=paper,
        packages=_package_rows(corpora, sources),
        declared_sources=_declared_source_rows(corpora),
        steps=steps,
        sizes=_size_rows(by_language, steps),
        document_counts=_document_rows(by_language, steps),
        source_sizes=_size_rows(by_source, steps),
        licenses=_license_rows(corpora),
        paper_comparison=_paper_rows(corpora, paper),
        rejects=_reject_rows(by_language),
        quarantined_records=_counts(corpora, "quarantined"),
        redacted=_counts(corpora, "redacted"),
        benchmarks=_searched_benchmarks(corpora),
        rules=_rule_rows(corpora),
        splits=_split_rows(corpora),
        identity=_identity_rows(corpora),
    )


def dataset_metrics(prepared: Mapping[str, Artifact]) -> dict[str, dict[str, Any]]:
    """The counts and the digest of each prepared corpus, as plain values for `dvc metrics`."""
    metrics: dict[str, dict[str, Any]] = {}
    for corpus, artifact in prepared.items():
        languages = cast(dict[str, Any], artifact.statistics["languages"])
        total = _total(languages.values())
        total["rejected"] = dict(sorted(total["rejected"].items()))
        metrics[corpus] = {**total, "digest": artifact.digest}
    return metrics


def licenses_by_package(raw: Artifact, sources: Sequence[Archive]) -> dict[str, list[str]]:
    """The packages of a raw corpus by license, as pinned; records of declared sources name their
    own."""
    packages: dict[str, list[str]] = {}
    for file in raw.files:
        name, license_name, _ = _package(file.path, sources)
        packages.setdefault(license_name, []).append(name)
    return packages or {"see its records": ["declared sources"]}


def format_size(size_bytes: int | None) -> str:
    """Bytes in decimal units, `6.0 kB`; `-` for None."""
    if size_bytes is None:
        return _EMPTY
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= limit:
            return f"{size_bytes / limit:,.1f} {unit}"
    return f"{size_bytes:,} B"


def _package(file: str, sources: Sequence[Archive]) -> tuple[str, str, str]:
    """Package, license and note of a file of a raw corpus; each file holds a package."""
    for archive in sources:
        if file == f"{archive.name}-{archive.version}.jsonl":
            return f"{archive.name} {archive.version}", archive.license, archive.note
    return file, "see its records", ""


def _package_rows(corpora: DatasetCardInputs, sources: Sequence[Archive]) -> Rows:
    """The contribution of each package to each corpus of the preset."""
    sizes: dict[str, dict[str, int]] = {}
    for corpus in corpora.pinned:
        for file in corpora.raw[corpus].files:
            sizes.setdefault(file.path, {})[corpus] = file.size_bytes
    rows: Rows = []
    for path, by_corpus in sorted(sizes.items()):
        name, license_name, note = _package(path, sources)
        sizes_by_corpus = [format_size(by_corpus.get(corpus)) for corpus in corpora.corpora]
        rows.append((name, license_name, *sizes_by_corpus, note))
    return rows


def _declared_source_rows(corpora: DatasetCardInputs) -> Rows:
    """Each declared source with its settings; files and size in the first row of a corpus."""
    rows: Rows = []
    for corpus in corpora.declared:
        statistics = cast(dict[str, Any], corpora.raw[corpus].statistics)
        totals = (f"{statistics['num_files']:,}", format_size(statistics["size_bytes"]))
        for source in corpora.data.declared_sources[corpus]:
            settings = source.model_dump(exclude={"uri"}, exclude_defaults=True)
            text = ", ".join(f"{name}: {value}" for name, value in settings.items())
            rows.append((corpus, code(source.uri), text, *totals))
            totals = ("", "")
    return rows


def _corpus_steps(corpora: DatasetCardInputs) -> list[tuple[str, CorpusSteps]]:
    """The text after each step of each corpus, by source and language."""
    return [
        (corpus, row)
        for corpus, artifact in corpora.prepared.items()
        for row in read_corpus_steps(artifact.statistics)
    ]


def _size_rows(rows: Sequence[tuple[str, CorpusSteps]], steps: Sequence[str]) -> Rows:
    """The size after each step, and the tokens."""
    return [
        (
            corpus,
            *([] if row.source is None else [row.source]),
            row.language or _ALL,
            *(_size_cell(row.step(step)) for step in steps),
            f"{row.num_tokens:,}",
            format_size(row.num_train_bytes),
            f"{row.num_train_tokens:,}",
            f"{row.num_held_out_tokens:,}",
        )
        for corpus, row in rows
    ]


def _size_cell(counts: StepCounts) -> str:
    """A size, and the share of the text that the step rejected."""
    size = format_size(counts.num_bytes)
    return f"{size} ({format_share(counts.dropped_share)} lost)" if counts.dropped_share else size


def _document_rows(rows: Sequence[tuple[str, CorpusSteps]], steps: Sequence[str]) -> Rows:
    """The number of documents after each step, and in the training split."""
    return [
        (
            corpus,
            row.language or _ALL,
            *(f"{row.step(step).num_documents:,}" for step in steps),
            f"{row.num_train_documents:,}",
        )
        for corpus, row in rows
    ]


def _reject_rows(rows: Sequence[tuple[str, CorpusSteps]]) -> Rows:
    """The documents that each rule rejected."""
    return [
        (
            corpus,
            row.language or _ALL,
            counts.step,
            rejected.rule,
            f"{rejected.num_documents:,}",
            format_size(rejected.num_bytes),
            format_share(rejected.share),
        )
        for corpus, row in rows
        for counts in row.steps
        for rejected in counts.rules
    ]


def _license_rows(corpora: DatasetCardInputs) -> Rows:
    return [
        (
            corpus,
            item.name,
            f"{item.num_documents:,}",
            f"{item.num_tokens:,}",
            format_share(item.share),
        )
        for corpus, artifact in corpora.prepared.items()
        for item in largest_licenses(artifact.statistics)
    ]


def _paper_rows(corpora: DatasetCardInputs, paper: PaperCorpora) -> Rows:
    by_name = {(row.stage, row.language): row for row in paper.rows}
    rows: Rows = []
    for corpus, language, statistics in _by_language(corpora):
        row = by_name.get((corpus, None if language == _ALL else language))
        quoted = (row.corpus, row.raw, row.processed, row.tokens) if row else (_EMPTY,) * 4
        sizes = (format_size(statistics["raw_bytes"]), format_size(statistics["bytes"]))
        tokens = f"{statistics['train_tokens'] + statistics['held_out_tokens']:,}"
        rows.append((corpus, language, *sizes, tokens, *quoted))
    return rows


def _counts(corpora: DatasetCardInputs, part: str) -> dict[str, dict[str, int]]:
    """Counts by kind, for each corpus that recorded any."""
    counts = {
        corpus: cast(dict[str, int], corpora.statistics(corpus, part)) for corpus in corpora.corpora
    }
    return {corpus: dict(sorted(kinds.items())) for corpus, kinds in counts.items() if kinds}


def _searched_benchmarks(corpora: DatasetCardInputs) -> list[str]:
    """The benchmarks that a preparation searched for, which are those that it counted."""
    return sorted(
        {name for corpus in corpora.corpora for name in corpora.statistics(corpus, "contaminated")}
    )


def _rule_rows(corpora: DatasetCardInputs) -> Rows:
    """The rules of each corpus."""
    rows: Rows = []
    for name in corpora.corpora:
        rules = corpora.data.corpora[name]
        filters, search, near = rules.filters, rules.decontamination, rules.near_duplicates
        lines = "not empty"
        if filters:
            lines += (
                f"; mean line length below {filters.max_mean_line_length:g} characters; no line "
                f"longer than {filters.max_line_length:,}; at most "
                f"{100 * filters.max_digit_fraction:g} % decimal or hexadecimal digits"
            )
        searched = "no"
        if corpora.statistics(name, "contaminated"):
            searched = f"{search.ngram_words} words in common with a problem"
            if search.threshold:
                searched += f", and {100 * search.threshold:g} % of the problem"
        rows.append(
            (
                name,
                lines,
                searched,
                "one of equal documents is kept" if rules.exact_dedup else "no",
                f"one of similarity {near.threshold:g} is kept" if near.enabled else "no",
                ", ".join(rules.redaction.kinds).replace("_", " ")
                if rules.redaction.enabled
                else "no",
                "a comment names the language" if rules.language_prefix else "no",
            )
        )
    return rows


def _split_rows(corpora: DatasetCardInputs) -> Rows:
    rows: Rows = []
    for corpus in corpora.corpora:
        splits = corpora.statistics(corpus, "splits")
        # The training split first, then the held-out splits, which have a "/" in their names.
        for split in sorted(splits, key=lambda name: ("/" in name, name)):
            num_sequences = splits[split]["num_sequences"]
            num_dropped = splits[split]["dropped_tokens"]
            num_tokens = num_sequences * corpora.context_length
            rows.append(
                (corpus, split, f"{num_sequences:,}", f"{num_tokens:,}", f"{num_dropped:,}")
            )
    return rows


def _identity_rows(corpora: DatasetCardInputs) -> Rows:
    artifacts = {f"raw {corpus}": corpora.raw[corpus] for corpus in corpora.corpora}
    artifacts |= {"vocabulary": corpora.raw["vocabulary"], "tokenizer": corpora.tokenizer}
    artifacts |= {f"prepared {name}": artifact for name, artifact in corpora.prepared.items()}
    return [
        (name, code(artifact.label), code(artifact.digest)) for name, artifact in artifacts.items()
    ]


def _dvc_pins(corpora: DatasetCardInputs) -> dict[str, str]:
    """DVC's checksums of the raw corpora, by `.dvc` file."""
    pins: dict[str, str] = {}
    for corpus in corpora.corpora:
        pins |= cast(dict[str, str], corpora.raw[corpus].provenance.get("dvc_pins", {}))
    return dict(sorted(pins.items()))


def _by_language(corpora: DatasetCardInputs) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The statistics of each corpus and language, and the sums of a corpus with several
    languages."""
    for corpus in corpora.corpora:
        languages = corpora.statistics(corpus, "languages")
        names = corpora.data.corpora[corpus].languages
        for language in names:
            yield corpus, language, languages[language]
        if len(names) > 1:
            yield corpus, _ALL, _total(languages.values())


def _total(languages: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of the statistics of the languages of a corpus."""
    rejected: Counter[str] = Counter()
    for statistics in languages:
        rejected.update(statistics["rejected"])
    total: dict[str, Any] = {"rejected": rejected}
    for name in _SUMMED_STATISTICS:
        if all(name in statistics for statistics in languages):
            total[name] = sum(statistics[name] for statistics in languages)
    return total
