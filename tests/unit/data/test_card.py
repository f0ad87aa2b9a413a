"""The dataset card, from records with numbers that are easy to add up by hand."""

from __future__ import annotations

from typing import Any

from markdown_it import MarkdownIt

from components.core.artifact import Artifact, Kind
from components.core.fingerprint import FileEntry
from components.core.paper import paper_corpora
from components.data.archives.pins import Archive
from components.data.card import (
    DatasetCardInputs,
    dataset_card,
    dataset_metrics,
    licenses_by_package,
)
from components.data.config import (
    PRESET_CORPORA,
    DataConfig,
    DecontaminationConfig,
    NearDuplicateConfig,
    RedactionConfig,
)
from components.data.sources.config import Source

LANGUAGES = {name: corpus.languages for name, corpus in DataConfig().corpora.items()}

ARCHIVES = (
    Archive(
        name="manual",
        version="1.0",
        file="manual.zip",
        sha256="0" * 64,
        size_bytes=1,
        license="MIT",
        note="a | b",
    ),
    Archive(
        name="scripts",
        version="2.1",
        file="scripts.zip",
        sha256="1" * 64,
        size_bytes=1,
        license="BSD-3-Clause",
    ),
)


def artifact(
    kind: Kind,
    name: str,
    statistics: dict[str, Any] | None = None,
    files: dict[str, int] | None = None,
) -> Artifact:
    return Artifact(
        kind=kind,
        name=name,
        address=f"/somewhere/{kind}/{name}",
        recipe_hash=name[0] * 64,
        digest=name[-1] * 64,
        statistics=statistics or {},
        provenance={
            "dvc_pins": {"data.dvc": "0123abc.dir"},
            "created_at": "2020-01-01",
            "host": "a-host",
        },
        files=[FileEntry(path, size, "0" * 64) for path, size in (files or {}).items()],
    )


def language_statistics(times: int = 1) -> dict[str, Any]:
    return {
        "raw_documents": 10 * times,
        "raw_bytes": 5_000 * times,
        "rejected": {"digits": 2 * times, "empty": 1},
        "duplicates": 3 * times,
        "duplicate_bytes": 900 * times,
        "documents": 5 * times - 1,
        "bytes": 2_000 * times,
        "train_tokens": 1_000 * times,
        "held_out_documents": 1,
        "held_out_tokens": 100 * times,
    }


def steps(language: str | None, times: int = 1, source: str | None = None) -> dict[str, Any]:
    """The text after each step; a language has its number as factor."""

    def counts(
        step: str, documents: int, size: int, share: float, **rules: tuple[int, int]
    ) -> dict[str, Any]:
        before = size * times + sum(num_bytes for _, num_bytes in rules.values())
        return {
            "step": step,
            "num_documents": documents,
            "num_bytes": size * times,
            "num_tokens": None,
            "dropped_share": share,
            "rules": [
                {"rule": rule, "num_documents": num, "num_bytes": size, "share": size / before}
                for rule, (num, size) in rules.items()
            ],
        }

    return {
        "source": source,
        "language": language,
        "steps": [
            counts("raw", 10 * times, 5_000, 0.0),
            counts(
                "filtered", 7 * times, 2_900, 0.42, digits=(2 * times, 2_100 * times), empty=(1, 0)
            ),
            counts("decontaminated", 7 * times, 2_900, 0.0),
            counts("deduplicated", 4 * times, 2_000, 0.31, duplicate=(3 * times, 900 * times)),
            counts("near-deduplicated", 4 * times, 2_000, 0.0),
        ],
        "num_tokens": 600 * times,
        "num_train_documents": 8 * times,
        "num_train_bytes": 3_500 * times,
        "num_train_tokens": 1_000 * times,
        "num_held_out_tokens": 100 * times,
    }


def corpora() -> DatasetCardInputs:
    raw = {
        "nl": artifact("raw-corpus", "nl", files={"manual-1.0.jsonl": 6_000}),
        "multi": artifact(
            "raw-corpus", "multi", files={"scripts-2.1.jsonl": 1_500_000, "stranger-3.jsonl": 12}
        ),
        "mono": artifact("raw-corpus", "mono", files={"scripts-2.1.jsonl": 2_500_000}),
        "vocabulary": artifact("raw-corpus", "vocabulary", files={"gpt2.tiktoken": 7}),
    }
    prepared = {}
    for corpus in PRESET_CORPORA:
        languages = {
            language: language_statistics(times)
            for times, language in enumerate(LANGUAGES[corpus], start=1)
        }
        splits = {
            f"held-out/{language}": {"num_sequences": 2, "dropped_tokens": 9}
            for language in LANGUAGES[corpus]
        }
        splits["train"] = {"num_sequences": 7, "dropped_tokens": 8}
        rows = [steps(language, times) for times, language in enumerate(LANGUAGES[corpus], start=1)]
        if len(rows) > 1:
            rows.append(steps(None, 21))
        statistics = {
            "languages": languages,
            "steps": rows,
            "licenses": [
                {"license": "MIT", "documents": 3, "tokens": 900},
                {"license": "", "documents": 1, "tokens": 300},
            ],
            "splits": splits,
        }
        prepared[corpus] = artifact("prepared-corpus", corpus, statistics)
    tokenizer = artifact("tokenizer", "gpt2-500")
    return DatasetCardInputs("demo", DataConfig(preset="tiny"), 4, 256, raw, tokenizer, prepared)


def card(inputs: DatasetCardInputs | None = None) -> str:
    return dataset_card(inputs or corpora(), ARCHIVES, ARCHIVES[:1], paper_corpora())


def rows(text: str, section: str) -> dict[tuple[str, ...], list[str]]:
    """The rows of a section's table, by their first two cells."""
    body = text.split(f"## {section}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" |")]
        for line in body.splitlines()
        if line.startswith("|")
    ]
    return {tuple(line[:2]): line[2:] for line in cells[2:]}


def test_packages_are_listed_with_license_sizes_and_note() -> None:
    lines = card().split("## Sources")[1].split("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    assert table == [
        r"| manual 1.0 | MIT | 6.0 kB | - | - | a \| b |",
        "| scripts 2.1 | BSD-3-Clause | - | 1.5 MB | 2.5 MB |  |",
        "| stranger-3.jsonl | see its records | - | 12 B | - |  |",
    ]
    assert "identical in each of: manual 1.0 (MIT)." in card()


def test_sizes_are_those_after_each_step_with_the_lost_share_and_tokens() -> None:
    text = card()
    assert (
        "| corpus | language | raw | filtered | deduplicated | tokens | training size | "
        "training tokens | held-out tokens |" in text
    ), "only steps of the paper and steps that rejected documents"
    sizes = rows(text.split("Documents after each step")[0], "Sizes")
    lost = ["2.9 kB (42.00 % lost)", "2.0 kB (31.00 % lost)"]
    assert sizes["nl", "English"] == ["5.0 kB", *lost, "600", "3.5 kB", "1,000", "100"]
    # Six languages with one to six times the numbers: 21 times.
    lost = ["60.9 kB (42.00 % lost)", "42.0 kB (31.00 % lost)"]
    assert sizes["multi", "all"] == ["105.0 kB", *lost, "12,600", "73.5 kB", "21,000", "2,100"]
    assert [key for key in sizes if key[0] == "multi"] == [
        ("multi", language) for language in (*LANGUAGES["multi"], "all")
    ]
    assert ("mono", "all") not in sizes
    assert "| multi | all | 210 | 147 | 84 | 168 |" in text
    assert "by source" not in text


def test_several_sources_have_sizes_of_their_own() -> None:
    inputs = corpora()
    for title in ("Wiki|pedia", "books"):
        inputs.prepared["nl"].statistics["steps"].append(steps("English", 2, title))  # type: ignore[union-attr]
    text = card(inputs)
    assert "Bytes of text by source." in text
    assert (
        r"| nl | Wiki\|pedia | English | 10.0 kB | 5.8 kB (42.00 % lost) | 4.0 kB (31.00 % lost) |"
        in text
    )


def test_the_paper_comparison_keeps_the_marks_of_unverified_numbers() -> None:
    comparison = rows(card(), "Comparison with the paper")
    assert comparison["multi", "Go"][:4] == ["15.0 kB", "6.0 kB", "3,300", "BigQuery, Go"]
    assert comparison["multi", "Go"][4:] == ["256 GB ?", "21.4 GB ?", "9.6B ?"]
    assert comparison["mono", "Python"][3:] == ["BigPython", "5.5 TB", "217.3 GB", "71.7B"]
    assert comparison["multi", "all"][3:] == [
        "BigQuery, six languages",
        "about 4 TB ?",
        "340 GB",
        "119.2B",
    ]
    assert (
        "a number that ends in ? is widely quoted, but was not read in a primary source" in card()
    )


def test_rejected_text_is_listed_by_rule() -> None:
    text = card()
    assert "| multi | all | filtered | digits | 42 | 44.1 kB | 42.00 % |" in text
    assert "| multi | all | deduplicated | duplicate | 63 | 18.9 kB | 31.03 % |" in text
    assert "| mono | Python | filtered | empty | 1 | 0 B | 0.00 % |" in text


def test_tokens_are_listed_by_license() -> None:
    assert rows(card(), "Tokens by license") == {
        (corpus, license_name): values
        for corpus in PRESET_CORPORA
        for license_name, values in (
            ("MIT", ["3", "900", "75.00 %"]),
            ("(not stated)", ["1", "300", "25.00 %"]),
        )
    }


def test_splits_begin_with_training() -> None:
    splits = rows(card(), "Splits")
    assert [split for corpus, split in splits if corpus == "nl"] == ["train", "held-out/English"]
    assert splits["nl", "train"] == ["7", "1,792", "8"]
    assert "1 % of the documents" in card()
    assert "the seed 4" in card()


def test_metrics_are_the_sums_of_the_languages_of_each_corpus() -> None:
    metrics = dataset_metrics(corpora().prepared)
    assert list(metrics) == ["nl", "multi", "mono"]
    assert metrics["multi"] == {  # Six languages with one to six times the numbers: 21 times.
        "rejected": {"digits": 42, "empty": 6},
        "raw_documents": 210,
        "raw_bytes": 105_000,
        "duplicates": 63,
        "duplicate_bytes": 18_900,
        "documents": 99,
        "bytes": 42_000,
        "train_tokens": 21_000,
        "held_out_tokens": 2_100,
        "digest": "i" * 64,
    }


def test_digests_and_the_md5_of_dvc_are_complete() -> None:
    text = card()
    assert "`0123abc.dir`" in text
    assert f"| prepared mono | `prepared-corpus/mono-{'m' * 12}` | `{'o' * 64}` |" in text
    assert (
        f"codegen data pull-prepared ROOT prepared-corpus/nl-{'n' * 12} prepared-corpus/multi-"
        in text
    )


def test_the_card_does_not_depend_on_time_address_or_order() -> None:
    first, other = corpora(), corpora()
    for prepared in other.prepared.values():
        for part in ("languages", "splits"):
            in_reverse = dict(reversed(list(prepared.statistics[part].items())))  # type: ignore[union-attr]
            prepared.statistics[part] = in_reverse
    elsewhere = {
        name: prepared.replace(address="s3://x/y", provenance={})
        for name, prepared in other.prepared.items()
    }
    assert card(first) == card(other._replace(prepared=elsewhere))
    assert "somewhere" not in card()
    assert "a-host" not in card()


def test_licenses_by_package_and_files_of_declared_sources_by_their_records() -> None:
    expected = {"BSD-3-Clause": ["scripts 2.1"], "see its records": ["stranger-3.jsonl"]}
    assert licenses_by_package(corpora().raw["multi"], ARCHIVES) == expected


def declaring(*names: str) -> DatasetCardInputs:
    """The corpora, with declared sources for these names."""
    inputs = corpora()
    sources = {
        name: (Source(uri=f"s3://b/{name}/*.zst", fixed_language="English"), Source(uri="x|y"))
        for name in names
    }
    stored = {
        name: artifact("raw-corpus", name, {"num_files": 1_200, "size_bytes": 3_000_000})
        for name in names
    }
    data = DataConfig(preset="tiny")
    for name in names:
        data = data.replace_corpus(name, sources=sources[name])
    return inputs._replace(data=data, raw={**inputs.raw, **stored})


def test_declared_sources_are_listed_with_their_settings_instead_of_archives() -> None:
    text = card(declaring("mono"))
    assert "nl, multi: preset `tiny`; mono: sources that the recipe declares." in text
    assert (
        "| mono | `s3://b/mono/*.zst` | fixed_language: English | 1,200 | 3.0 MB |\n| mono | "
        "`x\\|y` |  |  |  |" in text
    )
    assert "| scripts 2.1 | BSD-3-Clause | - | 1.5 MB | - |  |" in text, (
        "the declared sources of mono replace its part of this package"
    )
    assert "fetches the raw corpora nl, multi." in text


def test_a_card_of_declared_sources_only_names_no_package() -> None:
    text = card(declaring(*PRESET_CORPORA))
    assert "All corpora are from sources that the recipe declares." in text
    assert "released packages" not in text
    assert "preset `tiny`" not in text
    assert "codegen data pull --preset" not in text


def test_the_rules_of_each_corpus_are_listed() -> None:
    def rules(inputs: DatasetCardInputs) -> dict[str, list[str]]:
        lines = card(inputs).split("## Processing")[1].split("## Identity")[0].splitlines()
        rows = [line.strip("|").split("|") for line in lines if line.startswith("|")][2:]
        return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}

    code = (
        "not empty; mean line length below 100 characters; no line longer than 1,000; at most 90 % "
        "decimal or hexadecimal digits"
    )
    equal = "one of equal documents is kept"
    assert rules(corpora()) == {
        "nl": ["not empty", "no", equal, "no", "no", "no"],
        "multi": [code, "no", equal, "no", "no", "a comment names the language"],
        "mono": [code, "no", equal, "no", "no", "no"],
    }, "no benchmark is counted, so none was searched for"
    other = corpora()
    other.prepared["mono"].statistics["contaminated"] = {"mtpb": 0, "humaneval": 2}
    other.prepared["multi"].statistics["redacted"] = {"ip_address": 1_200}
    data = DataConfig(preset="tiny", dedup_across_corpora=True)
    data = data.replace_corpus(
        "multi",
        near_duplicates=NearDuplicateConfig(enabled=True, threshold=0.8),
        redaction=RedactionConfig(enabled=True, kinds=("ip_address",)),
    )
    data = data.replace_corpus("mono", decontamination=DecontaminationConfig(threshold=0.25))
    listed = rules(other._replace(data=data))
    assert listed["multi"][3:5] == ["one of similarity 0.8 is kept", "ip address"]
    assert listed["mono"][1] == "13 words in common with a problem, and 25 % of the problem"
    text = " ".join(card(other._replace(data=data)).split("## Processing")[1].split())
    assert "Benchmarks: humaneval, mtpb." in text
    assert "unless an earlier corpus contains it" in text
    assert "Redacted matches: multi 1,200 (ip address 1,200)." in text


def test_records_that_could_not_be_read_are_counted() -> None:
    inputs = corpora()
    assert "could not be read" not in card(inputs)
    inputs.prepared["mono"].statistics["quarantined"] = {"not JSON": 2, "NUL character": 1_000}
    assert (
        "`quarantine.jsonl` lists the records that could not be read: mono 1,002 (NUL character "
        "1,000, not JSON 2)." in card(inputs)
    )


def test_foreign_text_is_no_markup() -> None:
    hostile = "<img src=x> [a](http://b) `c` *d* | \x1b[2J\u202e"
    archives = (ARCHIVES[0].replace(note=hostile, license=hostile), *ARCHIVES[1:])
    inputs = declaring("mono")
    sources = (Source(uri=f"s3://b/`{hostile}"),)
    inputs.prepared["multi"].statistics["quarantined"] = {hostile: 1}
    inputs.prepared["nl"].statistics["steps"].append(steps("English", 1, hostile))  # type: ignore[union-attr]
    inputs.prepared["nl"].statistics["steps"][0]["steps"][1]["rules"][0]["rule"] = hostile  # type: ignore[index, call-overload]
    inputs.prepared["mono"].statistics["licenses"][0]["license"] = hostile  # type: ignore[index, call-overload]
    text = dataset_card(
        inputs._replace(
            name=hostile, data=DataConfig(preset="tiny").replace_corpus("mono", sources=sources)
        ),
        archives,
        archives,
        paper_corpora(),
    )
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = {child.type for token in tokens for child in token.children or []} | {
        token.type for token in tokens
    }
    assert not kinds & {"link_open", "image", "html_block", "html_inline", "em_open"}
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<img src=x> [a](http://b) `c` *d* | ␛[2J\ufffd" in [
        "".join(child.content for child in token.children or [])
        for token in tokens
        if token.type == "inline"
    ]
