"""The dataset card: what the corpora of a recipe are, where they come from, what was left out, and how to get them again.

Design decision: a pure function from records (artifacts, pins, settings) to Markdown. It reads no file and no clock, so
equal recipes give equal cards, and no figure can differ from the one that was published with the bytes. What is not covered:
looking into documents; that is what the Data Docs of the validation are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from components.core.artifact import Artifact
from components.core.paper import PaperCorpora, PaperCorpus
from components.data.archives.pins import Archive
from components.data.card_prose import Corpora, again, making, origins, whence
from components.data.config import CORPORA, LANGUAGES, Corpus
from components.data.markdown import NOTHING, size, table

__all__ = ["Corpora", "dataset_card"]

_ALL = "all"
_FIGURES = (
    "raw_documents", "raw_bytes", "rejected", "duplicates", "duplicate_bytes", "documents", "bytes", "train_tokens",
    "held_out_documents", "held_out_tokens",
)  # fmt: skip
"""A language's figures in the statistics of a prepared corpus."""


def dataset_card(
    corpora: Corpora, sources: Sequence[Archive], vocabulary: Sequence[Archive], paper: PaperCorpora
) -> str:
    """The card as Markdown.

    Args:
        corpora: what was made, and from which settings.
        sources: the pinned archives of the preset, for their licenses.
        vocabulary: the archives that GPT-2's byte-pair ranks may come from.
        paper: the paper's corpora, for comparison.
    """
    sections = (
        _head(corpora),
        origins(corpora, sources, vocabulary),
        _sizes(corpora),
        _beside_the_paper(corpora, paper),
        _left_out(corpora),
        _splits(corpora),
        making(corpora),
        _identity(corpora),
        again(corpora),
    )
    return "\n".join(sections)


def _head(corpora: Corpora) -> str:
    total = [_total(corpora, corpus) for corpus in CORPORA]
    num_bytes, tokens = (
        sum(one["bytes"] for one in total),
        sum(one["train_tokens"] for one in total),
    )
    documents = sum(one["documents"] for one in total)
    return f"""# Dataset card: the corpora of {corpora.name}

Natural language, six programming languages, and Python, to train a CodeGen model on in this order: {documents:,}
documents, {size(num_bytes)} of text, {tokens:,} tokens to train on. {whence(corpora)} For scale, the
figures of the paper's corpora, which are not published, stand beside ours below.

Written by `codegen prepare`; `codegen data card` prints it again. Nothing here is typed by hand.
"""


def _sizes(corpora: Corpora) -> str:
    columns = (
        "corpus", "language", "raw documents", "raw", "filtered documents", "filtered", "deduplicated documents",
        "deduplicated", "tokens to train on", "tokens held out",
    )  # fmt: skip
    rows = [
        (
            corpus, language, f"{one['raw_documents']:,}", size(one["raw_bytes"]),
            f"{one['raw_documents'] - _number(one['rejected']):,}", size(_filtered_bytes(one)),
            f"{one['documents']:,}", size(one["bytes"]), f"{one['train_tokens']:,}", f"{one['held_out_tokens']:,}",
        )
        for corpus, language, one in _rows(corpora)
    ]  # fmt: skip
    return f"""## Sizes

Sizes are bytes of text, without the records around it. Tokens count the language prefix and the separator as well.

{table(columns, rows, numeric=range(2, len(columns)))}"""


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
        rows.append((corpus, language, size(one["raw_bytes"]), size(one["bytes"]), tokens, *quoted))
    return f"""## Beside the paper

{table(columns, rows, numeric=(2, 3, 4, 6, 7, 8))}
{paper.source}. Unverified figures are marked: {paper.note}.
"""


def _quoted(row: PaperCorpus | None) -> tuple[str, ...]:
    return (row.corpus, row.raw, row.processed, row.tokens) if row else (NOTHING,) * 4


def _left_out(corpora: Corpora) -> str:
    rows = list(_rows(corpora))
    reasons = sorted({reason for _, _, one in rows for reason in one["rejected"]})
    lines = [
        (
            corpus,
            language,
            *(f"{one['rejected'].get(reason, 0):,}" for reason in reasons),
            f"{one['duplicates']:,}",
        )
        for corpus, language, one in rows
    ]
    columns = ("corpus", "language", *reasons, "duplicate")
    return f"""## Left out, by reason

Documents. Each of them is listed in `rejects.parquet` of its prepared corpus, by content, package and path.
{_unreadable(corpora)}
{table(columns, lines, numeric=range(2, len(columns)))}"""


def _unreadable(corpora: Corpora) -> str:
    """Records that are no documents; none in a corpus that was prepared before they were counted."""
    counts = {corpus: corpora.prepared[corpus].statistics.get("bad") for corpus in CORPORA}
    kinds = {corpus: cast(dict[str, int], found) for corpus, found in counts.items() if found}
    told = (
        f"{corpus} {_number(found):,} ({', '.join(f'{kind} {number:,}' for kind, number in sorted(found.items()))})"
        for corpus, found in kinds.items()
    )
    return (
        f"Records that could not be read stand in `quarantine.jsonl`: {'; '.join(told)}.\n"
        if kinds
        else ""
    )


def _splits(corpora: Corpora) -> str:
    rows = []
    for corpus in CORPORA:
        splits = _statistics(corpora, corpus, "splits")
        for split, one in sorted(
            splits.items(), key=lambda item: ("/" in item[0], item[0])
        ):  # Training first.
            num_tokens = one["num_sequences"] * corpora.context_length
            rows.append(
                (
                    corpus,
                    split,
                    f"{one['num_sequences']:,}",
                    f"{num_tokens:,}",
                    f"{one['dropped_tokens']:,}",
                )
            )
    share, length = f"{100 * corpora.data.held_out_fraction:g}", f"{corpora.context_length:,}"
    return f"""## Splits

{share} % of the documents of each language are held out, chosen by their content and the seed {corpora.seed}: a document is
never trained on in one corpus and held out of another. Sequences have {length} tokens; what does not fill the last one is
dropped.

{table(("corpus", "split", "sequences", "tokens in them", "tokens dropped"), rows, numeric=range(2, 5))}"""


def _identity(corpora: Corpora) -> str:
    vocabulary = corpora.raw["vocabulary"]
    named: list[tuple[str, Artifact]] = [
        (f"raw {corpus}", corpora.raw[corpus]) for corpus in CORPORA
    ]
    named += [("vocabulary", vocabulary), ("tokenizer", corpora.tokenizer)]
    named += [(f"prepared {corpus}", corpora.prepared[corpus]) for corpus in CORPORA]
    rows = [(what, f"`{one.label}`", f"`{one.digest}`") for what, one in named]
    return f"""## Identity

DVC's md5 of `data/`: `{vocabulary.provenance.get("dvc_md5")}`. Digests are SHA-256 over the files of each.

{table(("what", "label", "digest"), rows)}"""


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
    return {
        **total,
        "rejected": {
            reason: sum(one["rejected"].get(reason, 0) for one in languages) for reason in reasons
        },
    }


def _statistics(corpora: Corpora, corpus: Corpus, part: str) -> dict[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], corpora.prepared[corpus].statistics[part])


def _number(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def _filtered_bytes(figures: Mapping[str, Any]) -> int | None:
    """None in a corpus that was prepared before the bytes of duplicates were counted."""
    return figures["bytes"] + figures["duplicate_bytes"] if "duplicate_bytes" in figures else None
