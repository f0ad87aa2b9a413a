"""The dataset card: what the corpora of a recipe are, where they come from, what was left out, and how to get them again.

Design decision: a pure function from records (artifacts, pins, settings) to Markdown. It reads no file and no clock, so
equal recipes give equal cards, and no figure can differ from the one that was published with the bytes. What is not covered:
looking into documents; that is what the Data Docs of the validation are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from components.core.artifact import Artifact
from components.core.paper import PaperCorpora, PaperCorpus
from components.data.config import CORPORA, LANGUAGES, Corpus, DataConfig
from components.data.pins import Archive

_NOTHING = "-"
_ALL = "all"
_FIGURES = (
    "raw_documents", "raw_bytes", "rejected", "duplicates", "duplicate_bytes", "documents", "bytes", "train_tokens",
    "held_out_documents", "held_out_tokens",
)  # fmt: skip
"""A language's figures in the statistics of a prepared corpus."""


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


def dataset_card(corpora: Corpora, sources: Sequence[Archive], vocabulary: Sequence[Archive], paper: PaperCorpora) -> str:
    """The card as Markdown.

    Args:
        corpora: what was made, and from which settings.
        sources: the pinned archives of the preset, for their licences.
        vocabulary: the archives that GPT-2's byte-pair ranks may come from.
        paper: the paper's corpora, for comparison.
    """
    sections = (
        _head(corpora),
        _sources(corpora, sources, vocabulary),
        _sizes(corpora),
        _beside_the_paper(corpora, paper),
        _left_out(corpora),
        _splits(corpora),
        _making(corpora),
        _identity(corpora),
        _again(corpora),
    )
    return "\n".join(sections)


def _head(corpora: Corpora) -> str:
    total = [_total(corpora, corpus) for corpus in CORPORA]
    size, tokens = sum(one["bytes"] for one in total), sum(one["train_tokens"] for one in total)
    documents = sum(one["documents"] for one in total)
    return f"""# Dataset card: the corpora of {corpora.name}

Natural language, six programming languages, and Python, to train a CodeGen model on in this order: {documents:,}
documents, {_size(size)} of text, {tokens:,} tokens to train on. The preset is `{corpora.data.preset}`. They stand for the
paper's corpora, which are not published; for scale, its figures stand beside ours below.

Written by `codegen prepare`; `codegen data card` prints it again. Nothing here is typed by hand.
"""


def _sources(corpora: Corpora, sources: Sequence[Archive], vocabulary: Sequence[Archive]) -> str:
    """What each package gave to each corpus, by the files of the raw corpora: one a package."""
    pinned = {f"{one.name}-{one.version}.jsonl": one for one in sources}
    given: dict[str, dict[str, int]] = {}
    for corpus in CORPORA:
        for file in corpora.raw[corpus].files:
            given.setdefault(file.path, {})[corpus] = file.size_bytes
    rows = []
    for name, sizes in sorted(given.items()):
        one = pinned.get(name)
        package, licence, note = (
            (f"{one.name} {one.version}", one.licence, one.note) if one else (name, "see its records", "")
        )
        rows.append((package, licence, *(_size(sizes.get(corpus)) for corpus in CORPORA), note))
    ranks = "; ".join(f"{one.name} {one.version} ({one.licence})" for one in vocabulary)
    return f"""## Sources and licences

Members of released packages, each under its own licence. Every record names its package, its path in it and its licence;
`data/NOTICE` travels with the bytes, and `data/skipped.jsonl` lists the members that could not be used. Sizes are of the raw
records.

{_table(("package", "licence", *CORPORA, "note"), rows, numeric=range(2, 5))}
GPT-2's byte-pair ranks are the same bytes in each of: {ranks}.
"""


def _sizes(corpora: Corpora) -> str:
    columns = (
        "corpus", "language", "raw documents", "raw", "filtered documents", "filtered", "deduplicated documents",
        "deduplicated", "tokens to train on", "tokens held out",
    )  # fmt: skip
    rows = [
        (
            corpus, language, f"{one['raw_documents']:,}", _size(one["raw_bytes"]),
            f"{one['raw_documents'] - _number(one['rejected']):,}", _size(_filtered_bytes(one)),
            f"{one['documents']:,}", _size(one["bytes"]), f"{one['train_tokens']:,}", f"{one['held_out_tokens']:,}",
        )
        for corpus, language, one in _rows(corpora)
    ]  # fmt: skip
    return f"""## Sizes

Sizes are bytes of text, without the records around it. Tokens count the language prefix and the separator as well.

{_table(columns, rows, numeric=range(2, len(columns)))}"""


def _beside_the_paper(corpora: Corpora, paper: PaperCorpora) -> str:
    theirs = {(row.stage, row.language): row for row in paper.rows}
    columns = (
        "corpus", "language", "raw", "filtered and deduplicated", "tokens", "the paper's corpus", "its raw",
        "its filtered and deduplicated", "its tokens",
    )  # fmt: skip
    rows = []
    for corpus, language, one in _rows(corpora):
        tokens = f"{one['train_tokens'] + one['held_out_tokens']:,}"
        quoted = _quoted(theirs.get((corpus, None if language == _ALL else language)))
        rows.append((corpus, language, _size(one["raw_bytes"]), _size(one["bytes"]), tokens, *quoted))
    return f"""## Beside the paper

{_table(columns, rows, numeric=(2, 3, 4, 6, 7, 8))}
{paper.source}. Unverified figures are marked: {paper.note}.
"""


def _quoted(row: PaperCorpus | None) -> tuple[str, ...]:
    return (row.corpus, row.raw, row.processed, row.tokens) if row else (_NOTHING,) * 4


def _left_out(corpora: Corpora) -> str:
    rows = list(_rows(corpora))
    reasons = sorted({reason for _, _, one in rows for reason in one["rejected"]})
    lines = [
        (corpus, language, *(f"{one['rejected'].get(reason, 0):,}" for reason in reasons), f"{one['duplicates']:,}")
        for corpus, language, one in rows
    ]
    columns = ("corpus", "language", *reasons, "duplicate")
    return f"""## Left out, by reason

Documents. Each of them is listed in `rejects.parquet` of its prepared corpus, by content, package and path.

{_table(columns, lines, numeric=range(2, len(columns)))}"""


def _splits(corpora: Corpora) -> str:
    rows = []
    for corpus in CORPORA:
        splits = _statistics(corpora, corpus, "splits")
        for split, one in sorted(splits.items(), key=lambda item: ("/" in item[0], item[0])):  # Training first.
            num_tokens = one["num_sequences"] * corpora.context_length
            rows.append((corpus, split, f"{one['num_sequences']:,}", f"{num_tokens:,}", f"{one['dropped_tokens']:,}"))
    share, length = f"{100 * corpora.data.held_out_fraction:g}", f"{corpora.context_length:,}"
    return f"""## Splits

{share} % of the documents of each language are held out, chosen by their content and the seed {corpora.seed}: a document is
never trained on in one corpus and held out of another. Sequences have {length} tokens; what does not fill the last one is
dropped.

{_table(("corpus", "split", "sequences", "tokens in them", "tokens dropped"), rows, numeric=range(2, 5))}"""


def _making(corpora: Corpora) -> str:
    filters = corpora.data.filters
    return f"""## How it was made

1. **Filtered**: a document is kept when it is not empty, its mean line has fewer than {filters.max_mean_line_length:g}
   characters, none of its lines more than {filters.max_line_length:,}, and at most
   {100 * filters.max_digit_fraction:g} % of its characters are decimal or hexadecimal digits.
2. **Deduplicated**: of documents with equal bytes (SHA-256) the first by package and path is kept. Near-duplicates stay.
3. **Shuffled** by a keyed hash of their content, **prefixed** in the multi corpus with a comment that names their language,
   **tokenised** with the vocabulary `{corpora.tokenizer.name}`, and **packed**.
"""


def _identity(corpora: Corpora) -> str:
    vocabulary = corpora.raw["vocabulary"]
    named: list[tuple[str, Artifact]] = [(f"raw {corpus}", corpora.raw[corpus]) for corpus in CORPORA]
    named += [("vocabulary", vocabulary), ("tokenizer", corpora.tokenizer)]
    named += [(f"prepared {corpus}", corpora.prepared[corpus]) for corpus in CORPORA]
    rows = [(what, f"`{one.label}`", f"`{one.digest}`") for what, one in named]
    return f"""## Identity

DVC's md5 of `data/`: `{vocabulary.provenance.get("dvc_md5")}`. Digests are SHA-256 over the files of each.

{_table(("what", "label", "digest"), rows)}"""


def _again(corpora: Corpora) -> str:
    labels = " ".join(corpora.prepared[corpus].label for corpus in CORPORA)
    return f"""## Get it again

    codegen data pull --preset {corpora.data.preset}
    codegen data pull-prepared ROOT {labels}

The first gives the raw bytes, the second the prepared corpora, from a root to which `codegen data push-prepared` copied
them.
"""


def _rows(corpora: Corpora) -> Iterator[tuple[Corpus, str, dict[str, Any]]]:
    """Each corpus and language with its figures, and all languages of a corpus that has several."""
    for corpus in CORPORA:
        languages = _statistics(corpora, corpus, "languages")
        for language in LANGUAGES[corpus]:
            yield corpus, language, languages[language]
        if len(LANGUAGES[corpus]) > 1:
            yield corpus, _ALL, _total(corpora, corpus)


def _total(corpora: Corpora, corpus: Corpus) -> dict[str, Any]:
    languages = list(_statistics(corpora, corpus, "languages").values())
    total: dict[str, Any] = {
        figure: sum(one[figure] for one in languages)
        for figure in _FIGURES
        if figure != "rejected" and all(figure in one for one in languages)
    }
    reasons = sorted({reason for one in languages for reason in one["rejected"]})
    return {**total, "rejected": {reason: sum(one["rejected"].get(reason, 0) for one in languages) for reason in reasons}}


def _statistics(corpora: Corpora, corpus: Corpus, part: str) -> dict[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], corpora.prepared[corpus].statistics[part])


def _number(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def _filtered_bytes(figures: Mapping[str, Any]) -> int | None:
    """None in a corpus that was prepared before the bytes of duplicates were counted."""
    return figures["bytes"] + figures["duplicate_bytes"] if "duplicate_bytes" in figures else None


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return _NOTHING
    value, units = float(size_bytes), ["kB", "MB", "GB", "TB"]
    unit = "B"
    while value >= 1000 and units:
        value, unit = value / 1000, units.pop(0)
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    right = set(numeric)
    rule = ["---:" if number in right else "---" for number in range(len(columns))]
    lines = [list(columns), rule, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
