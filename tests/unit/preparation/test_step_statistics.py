"""The text after each step equals an independent count in plain Python."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from fixtures.prepare_helpers import SEED
from fixtures.prepare_reference import is_held_out, keyed_hash, reject_reason

from components.core.corpus_statistics import (
    format_share,
    largest_licenses,
    read_corpus_steps,
    shown_steps,
)
from components.core.errors import ConfigError
from components.data.config import (
    CorpusConfig,
    DataConfig,
    DataExecution,
    NearDuplicateConfig,
    RedactionConfig,
)
from components.data.filters import quality
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.config import QuarantineConfig, Source
from components.preparation import prepare_job
from components.preparation.corpus_pipeline import prepare_corpus
from components.tokenizer.config import TokenizerConfig

PROBLEM = "a problem of a benchmark that has many more than thirteen words in a row so it is found"
EPOCHS = {"a": 2.0, "b": 0.5}
HELD_OUT = 0.25
STEPS = ("raw", "filtered", "decontaminated", "sampled", "deduplicated", "near-deduplicated")
STEP_OF_REASON = {
    "empty": "filtered",
    "mean line length": "filtered",
    "line length": "filtered",
    "digits": "filtered",
    "contaminated": "decontaminated",
    "not sampled": "sampled",
    "duplicate": "deduplicated",
    "near duplicate": "near-deduplicated",
}


class Document(NamedTuple):
    title: str
    """Of the source."""
    language: str
    text: str
    path: str
    license: str = "MIT"

    @property
    def num_bytes(self) -> int:
        return len(self.text.encode())


def documents() -> list[Document]:
    """Own documents of each source and language; those that each rule rejects are in Python of `a`
    and `b`, so that the tokens of Go are known after each step."""
    rows = [
        Document(title, language, f"{title} {language} \u00e9 {number}\n" * 2, f"{number}.txt")
        for title in EPOCHS
        for language in ("Python", "Go")
        for number in range(40)
    ]
    rows += [
        Document("a", "Python", "", "empty"),
        Document("a", "Python", "z" * 200, "mean"),
        Document("b", "Python", "short\n" * 30 + "z" * 1001, "long"),
        Document("b", "Python", "0123456789\n" * 9, "digits"),
        Document("b", "Python", f"x\n{PROBLEM}\n", "problem"),
        Document("a", "Python", f"y\n{PROBLEM}\n", "problem"),
        Document("a", "Python", rows[0].text, "z-copy", "BSD-3-Clause"),
        Document("b", "Python", rows[1].text, "z-copy"),
        Document("b", "Go", rows[40].text, "z-copy"),
    ]
    lines = "".join(f"value_{number} = compute({number})\n" for number in range(40))
    rows += [
        Document("a", "Python", f"{lines}# {number}\n", f"near-{number}", "") for number in range(3)
    ]
    return rows


def write_sources(root: Path, rows: list[Document]) -> list[Source]:
    sources = []
    for title, epochs in EPOCHS.items():
        lines = [
            json.dumps(
                {
                    "text": row.text,
                    "language": row.language,
                    "path": row.path,
                    "source": f"{title} 1.0",
                    "license": row.license,
                }
            )
            for row in rows
            if row.title == title
        ]
        lines += ["{", "", json.dumps({"text": "x", "language": "Klingon"})]
        file = root / f"{title}.jsonl"
        file.write_text("\n".join(lines), encoding="utf-8")
        sources.append(Source(uri=str(file), title=title, epochs=epochs))
    return sources


def reasons(rows: list[Document]) -> list[str | None]:
    """Why each document is rejected."""
    seen: set[str] = set()
    near = [row.text for row in rows if row.path.startswith("near")]
    first_near = min(near, key=lambda text: keyed_hash("order", text, SEED))
    result: dict[int, str | None] = {}
    for index, row in sorted(enumerate(rows), key=lambda item: (item[1].title, item[1].path)):
        reason = reject_reason(row.text)
        if reason is None and PROBLEM in row.text:
            reason = "contaminated"
        share = int.from_bytes(keyed_hash("epochs", row.text, SEED)[:8], "big") / 2**64
        if (
            reason is None
            and not is_held_out(row.text, HELD_OUT, SEED)
            and share >= EPOCHS[row.title]
        ):
            reason = "not sampled"
        if reason is None and row.text in seen:
            reason = "duplicate"
        if reason is None:
            seen.add(row.text)
            if row.text in near and row.text != first_near:
                reason = "near duplicate"
        result[index] = reason
    return [result[index] for index in range(len(rows))]


def expected_counts(rows: list[Document], why: list[str | None]) -> dict[str, Any]:
    """The counts of some documents. Without merges, a document has a token per byte, and one."""
    steps = []
    present = list(zip(rows, why, strict=True))
    for number, name in enumerate(STEPS):
        lost = [item for item in present if STEP_OF_REASON.get(item[1] or "") == name]
        before = sum(row.num_bytes for row, _ in present)
        present = [item for item in present if item not in lost]
        later = [reason for _, reason in present if reason]
        is_tokenized = set(later) <= {"duplicate", "near duplicate"}
        rules = Counter[str]()
        for row, reason in lost:
            rules[str(reason)] += row.num_bytes
        steps.append(
            {
                "step": name,
                "num_documents": len(present),
                "num_bytes": sum(row.num_bytes for row, _ in present),
                "num_tokens": sum(row.num_bytes + 1 for row, _ in present)
                if is_tokenized
                else None,
                "dropped_share": pytest.approx(sum(rules.values()) / before if number else 0),
                "rules": [
                    {
                        "rule": rule,
                        "num_documents": sum(reason == rule for _, reason in lost),
                        "num_bytes": size,
                        "share": pytest.approx(size / before),
                    }
                    for rule, size in sorted(rules.items(), key=lambda item: (-item[1], item[0]))
                ],
            }
        )
    kept = [row for row, reason in present if reason is None]
    held_out = [row for row in kept if is_held_out(row.text, HELD_OUT, SEED)]
    train = [row for row in kept if row not in held_out]
    times = {row: 2 if row.title == "a" else 1 for row in train}
    return {
        "steps": steps,
        "num_tokens": sum(row.num_bytes + 1 for row in kept),
        "num_train_documents": sum(times.values()),
        "num_train_bytes": sum(row.num_bytes * number for row, number in times.items()),
        "num_train_tokens": sum((row.num_bytes + 1) * number for row, number in times.items()),
        "num_held_out_tokens": sum(row.num_bytes + 1 for row in held_out),
    }


RULES = CorpusConfig(
    languages=("Python", "Go"), near_duplicates=NearDuplicateConfig(enabled=True), sources=None
)


def prepare(
    root: Path, tokenizer_folder: Path, rules: CorpusConfig = RULES, *more: Document
) -> dict[str, Any]:
    rows = [*documents(), *more]
    (root / "raw").mkdir()
    (root / "out").mkdir()
    return prepare_corpus(
        root / "out",
        sources=write_sources(root / "raw", rows),
        corpus="mono",
        data=DataConfig(
            corpora={"mono": rules},
            held_out_fraction=HELD_OUT,
            quarantine=QuarantineConfig(max_quarantined_fraction=0.1),
        ),
        tokenizer_folder=tokenizer_folder,
        tokenizer=TokenizerConfig(num_merges=0),
        context_length=8,
        seed=SEED,
        execution=DataExecution(num_workers=1),
        benchmarks=[BenchmarkText(benchmark="humaneval", problem="1", text=PROBLEM)],
    )


@pytest.mark.parametrize("task_memory_share", [1 / 8, 1e-5], ids=["one range", "many ranges"])
def test_the_text_after_each_step_equals_a_count_in_plain_python(
    bytes_only: Path, tmp_path: Path, task_memory_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_job, "_TASK_MEMORY_SHARE", task_memory_share)
    statistics = prepare(tmp_path, bytes_only)
    assert statistics["quarantined"] == {"not JSON": 2}
    rows = documents()
    why = reasons(rows)
    assert set(filter(None, why)) == set(STEP_OF_REASON)
    expected = []
    for title in (None, "a", "b"):
        for language in ("Python", "Go", None):
            selected = [
                (row, reason)
                for row, reason in zip(rows, why, strict=True)
                if title in (None, row.title) and language in (None, row.language)
            ]
            counts = expected_counts([row for row, _ in selected], [why for _, why in selected])
            expected.append({"source": title, "language": language, **counts})
    assert statistics["steps"] == expected
    go = read_corpus_steps(statistics)[1]
    assert [counts.num_tokens is None for counts in go.steps] == [True] * 3 + [False] * 3, (
        "the tokens of documents that are not sampled are unknown"
    )
    tokens = Counter[str]()
    for row, reason in zip(rows, why, strict=True):
        if reason is None:
            is_repeated = row.title == "a" and not is_held_out(row.text, HELD_OUT, SEED)
            tokens[row.license] += (row.num_bytes + 1) * (2 if is_repeated else 1)
    assert Counter({row["license"]: row["tokens"] for row in statistics["licenses"]}) == tokens
    assert set(tokens) == {"MIT", ""}, "the copy with another license is a duplicate"


def test_every_reason_belongs_to_a_step() -> None:
    reasons = [reason for step in quality.STEPS for reason in step.reasons]
    assert sorted(reasons) == sorted(STEP_OF_REASON)
    assert tuple(step.name for step in quality.STEPS) == STEPS[1:]
    settings = {*CorpusConfig.model_fields, *Source.model_fields}
    assert {step.setting for step in quality.STEPS} <= settings


def test_excerpts_of_rejected_documents_are_redacted(bytes_only: Path, tmp_path: Path) -> None:
    address = "93.184.216.34"
    secret = Document("a", "Python", f"{address} {'z' * 300}", "mean-secret")
    rules = RULES.replace(redaction=RedactionConfig(enabled=True, kinds=("ip_address",)))
    statistics = prepare(tmp_path, bytes_only, rules, secret)
    excerpts = {
        row["path"]: row["excerpt"]
        for row in pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    }
    assert excerpts["mean-secret"] == f"<IP_ADDRESS> {'z' * 187}"
    assert statistics["redacted"] == {"ip_address": 0}, "only accepted documents count"


def test_steps_without_rejected_documents_are_shown_if_the_paper_has_them(
    bytes_only: Path, tmp_path: Path
) -> None:
    rows = read_corpus_steps(prepare(tmp_path, bytes_only))
    assert shown_steps(rows) == list(STEPS)
    plain = [row.replace(steps=[counts.replace(rules=()) for counts in row.steps]) for row in rows]
    assert shown_steps(plain) == ["raw", "filtered", "deduplicated"]


def test_small_licenses_are_added_up() -> None:
    rows = [
        {"license": "" if number == 1 else f"license {number}", "documents": 2, "tokens": 10}
        for number in range(25)
    ]
    licenses = largest_licenses({"licenses": rows})
    assert [tuple(item) for item in licenses[:2]] == [
        ("license 0", 2, 10, 0.04),
        ("(not stated)", 2, 10, 0.04),
    ]
    assert len(licenses) == 21
    assert tuple(licenses[-1]) == ("(5 others)", 10, 50, 0.2)


def test_a_small_share_is_not_shown_as_zero() -> None:
    shares = [0.0, 0.00001, 0.00005, 0.1234, 1.0]
    assert [format_share(share) for share in shares] == [
        "0.00 %", "below 0.01 %", "0.01 %", "12.34 %", "100.00 %"
    ]  # fmt: skip


def test_too_many_groups_of_a_source_are_an_error(tmp_path: Path, bytes_only: Path) -> None:
    rows = [{"text": f"{number}\n", "path": "a.py", "repo": f"{number}"} for number in range(1001)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "prepared").mkdir()
    source = Source(uri=str(tmp_path / "a.jsonl"), name="repo", group_by_name=True)
    with pytest.raises(ConfigError, match="more than 1,000 values of repo") as error:
        prepare_corpus(
            tmp_path / "prepared",
            sources=[source],
            corpus="mono",
            data=DataConfig(),
            tokenizer_folder=bytes_only,
            tokenizer=TokenizerConfig(num_merges=0),
            context_length=8,
            seed=SEED,
            execution=DataExecution(num_workers=1),
        )
    assert "group_by_name" in error.value.fix
