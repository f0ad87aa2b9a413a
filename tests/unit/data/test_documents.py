"""The Daft step: one order, one copy, one split, however the records lie in files and whatever Daft does with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import DataError, RecordError
from components.data.config import Corpus, DataConfig
from components.data.documents import DOCUMENT, is_held_out, mark_duplicates, ordered_documents
from components.data.engine import daft

Record = dict[str, str]


def record(text: str, path: str = "a.py", source: str = "demo 1.0", language: str = "Python") -> Record:
    return {"language": language, "licence": "MIT", "path": path, "source": source, "text": text}


def write(folder: Path, **files: list[Record]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, records in files.items():
        lines = [json.dumps(one, ensure_ascii=False, sort_keys=True) + "\n" for one in records]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def run(folder: Path, corpus: Corpus = "mono", config: DataConfig | None = None, seed: int = 0) -> pa.Table:
    batches = list(ordered_documents(folder, corpus, config or DataConfig(), seed))
    return pa.Table.from_batches(batches, schema=DOCUMENT)


def test_every_document_comes_back_judged(tmp_path: Path) -> None:
    """Expected values computed with hashlib and sorted()."""
    texts = {f"{i}.py": f"x = {i}\n" for i in range(50)} | {"wide.py": "z" * 1001, "none.py": ""}
    found = run(write(tmp_path / "raw", one=[record(text, path) for path, text in texts.items()]), seed=7)

    def key(purpose: str, text: str) -> bytes:
        return hashlib.sha256(f"{purpose}:7:".encode() + hashlib.sha256(text.encode()).digest()).digest()

    order = sorted(texts, key=lambda path: key("order", texts[path]))
    assert found["path"].to_pylist() == order
    assert found["text"].to_pylist() == [texts[path] for path in order]
    assert found["sha256"].to_pylist() == [hashlib.sha256(texts[path].encode()).hexdigest() for path in order]
    fractions = [int.from_bytes(key("held-out", texts[path])[:8], "big") / 2**64 for path in order]
    assert found["held_out"].to_pylist() == [fraction < 0.01 for fraction in fractions]
    reasons = dict(zip(order, found["reason"].to_pylist(), strict=True))
    assert {path: reason for path, reason in reasons.items() if reason} == {
        "wide.py": "mean line length",
        "none.py": "empty",
    }


def test_the_first_copy_by_source_and_path_is_kept(tmp_path: Path) -> None:
    copies = [
        record("pass\n", "a.py", "zlib 1"),
        record("pass\n", "z.py", "abc 1"),
        record("pass\n", "b.py", "abc 1"),
        record("pass \n", "c.py", "abc 1"),
    ]
    found = run(write(tmp_path / "raw", one=copies[:1], two=copies[1:]))
    kept = {(r["source"], r["path"]) for r in found.to_pylist() if r["reason"] is None}
    assert kept == {("abc 1", "b.py"), ("abc 1", "c.py")}
    assert found["reason"].to_pylist().count("duplicate") == 2


def test_a_rejected_copy_keeps_its_reason(tmp_path: Path) -> None:
    found = run(write(tmp_path / "raw", one=[record("z" * 1001, "a.py"), record("z" * 1001, "b.py"), record("x\n")]))
    assert sorted(map(str, found["reason"].to_pylist())) == ["None", "mean line length", "mean line length"]


def test_neither_files_nor_partitions_matter(tmp_path: Path) -> None:
    """300 documents, a third of them copies; in one file, in seven, reversed, and in Daft's morsels of five rows."""
    records = [record(f"x = {i % 200}\n", f"{i:03}.py", f"source {i % 3}") for i in range(300)]
    one = run(write(tmp_path / "one", all=records))
    many = run(write(tmp_path / "many", **{f"part{n}": records[n::7][::-1] for n in range(7)}))
    with daft.execution_config_ctx(default_morsel_size=5):
        small = run(tmp_path / "many")
    assert one.num_rows == 300
    assert one.equals(many)
    assert one.equals(small)
    assert one["reason"].to_pylist().count("duplicate") == 100


def test_copies_are_found_across_batches() -> None:
    """One machine hands all rows over at once, a cluster in parts; a copy may be the first row of the next part."""
    digests, given_reasons = "aabbbcdd", [None, None, None, None, None, "digits", "empty", "empty"]
    text = [""] * 8
    columns = {"language": text, "source": text, "path": text, "text": text, "sha256": list(digests)}
    table = pa.table(columns | {"held_out": [False] * 8, "reason": given_reasons}, schema=DOCUMENT)
    expected = [None, "duplicate", None, "duplicate", "duplicate", "digits", "empty", "empty"]
    for rows in range(1, 9):
        parts = [part for batch in table.to_batches(max_chunksize=rows) for part in (batch, batch[:0])]
        marked = pa.Table.from_batches(mark_duplicates(parts))
        assert marked["reason"].to_pylist() == expected, f"{rows} rows at a time"
        assert marked.drop(["reason"]).equals(table.drop(["reason"]))


def test_another_seed_is_another_order_and_another_split(tmp_path: Path) -> None:
    write(tmp_path, one=[record(f"x = {i}\n", f"{i}.py") for i in range(100)])
    half = DataConfig(held_out_fraction=0.5)
    first, second = (run(tmp_path, config=half, seed=seed) for seed in (1, 2))
    assert first["path"].to_pylist() != second["path"].to_pylist()
    held_out = [set(t.filter(t["held_out"])["path"].to_pylist()) for t in (first, second)]
    assert held_out[0] != held_out[1]


def test_a_document_is_on_the_same_side_in_every_corpus(tmp_path: Path) -> None:
    records = [record(f"x = {i}\n", f"{i}.py") for i in range(200)]
    half = DataConfig(held_out_fraction=0.5)
    mono = run(write(tmp_path / "mono", one=records), "mono", half)
    others = [record(f"y = {i}\n", f"{i}.c", language="C") for i in range(50)]
    multi = run(write(tmp_path / "multi", one=records + others), "multi", half)
    assert (
        dict(zip(mono["sha256"].to_pylist(), mono["held_out"].to_pylist(), strict=True)).items()
        <= dict(zip(multi["sha256"].to_pylist(), multi["held_out"].to_pylist(), strict=True)).items()
    )
    assert 60 < mono["held_out"].to_pylist().count(True) < 140


@given(content=st.binary(min_size=32, max_size=32), low=st.floats(0.01, 0.98), more=st.floats(0, 0.01))
def test_a_larger_fraction_holds_out_what_a_smaller_one_did(content: bytes, low: float, more: float) -> None:
    assert is_held_out(content, low, seed=0) <= is_held_out(content, low + more, seed=0)


@pytest.mark.parametrize(
    ("corpus", "language", "expected"),
    [("mono", "Rust", "of the mono corpus: Python"), ("nl", "Python", "of the nl corpus: English")],
)
def test_an_unknown_language_is_named_by_file_and_line(tmp_path: Path, corpus: Corpus, language: str, expected: str) -> None:
    good = record("x\n", language="English" if corpus == "nl" else "Python")
    write(tmp_path, demo=[good, good, record("fn main() {}\n", language=language), good])
    with pytest.raises(RecordError, match=r"demo\.jsonl:3: language is ") as error:
        run(tmp_path, corpus)
    assert expected in error.value.expected


def test_a_broken_line_is_named_by_file_and_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, good=[record("x\n")], other=[record("x\n")])
    with (tmp_path / "other.jsonl").open("ab") as file:
        file.write(b"{nonsense\n")
    with pytest.raises(RecordError, match=r"other\.jsonl:2: .* is not JSON"):
        run(tmp_path)
    assert not caplog.records, "one error is enough"


def test_files_without_records_have_no_documents(tmp_path: Path) -> None:
    assert run(write(tmp_path, one=[], two=[])).num_rows == 0
    assert run(write(tmp_path, three=[record("x\n")])).num_rows == 1


def test_no_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "absent")


def test_daft_does_not_call_home() -> None:
    from daft.scarf_telemetry import opted_out

    assert opted_out()
