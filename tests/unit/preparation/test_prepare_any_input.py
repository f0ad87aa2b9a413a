"""Preparation of arbitrary JSON Lines files equals the slow reference, from bytes to bytes.

Generated: compression, line endings, and lines that are records, almost records, or arbitrary
bytes. A record has one defect at most, because the reported one of several is unspecified. Texts
come from a small pool, so that copies occur within and across files. Every split gets texts of its
own, because a corpus without them is an error that other tests cover.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from fixtures.prepare_helpers import DATA, SEED, prepare, recipe_of, record
from fixtures.prepare_reference import Lines, is_held_out, prepare_reference, read_lines
from fixtures.sources import gz, zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from components.core.files import read_json, read_jsonl
from components.data.config import DataConfig, DataExecution
from components.data.sources.config import QuarantineConfig

LANGUAGES = {name: corpus.languages for name, corpus in DataConfig().corpora.items()}

CONTEXT_LENGTH = 8
MAX_RECORD_BYTES = 3000
TOLERANT = DATA.replace(
    quarantine=QuarantineConfig(max_quarantined_fraction=1, max_record_bytes=MAX_RECORD_BYTES)
)
SMALL_MEMORY = DataExecution(num_workers=2**15, memory_mib=256)
"""A kilobyte per run and range, so that a few documents fill many of them."""

# -- generated files -----------------------------------------------------------------------------


class File(NamedTuple):
    """A JSON Lines file."""

    suffix: str
    lines: list[bytes]
    ends_with_newline: bool
    num_members: int
    """Members or frames of a compressed file, divided at any byte."""

    @property
    def content(self) -> bytes:
        return b"\n".join(self.lines) + b"\n" * (self.ends_with_newline and bool(self.lines))

    @property
    def stored(self) -> bytes:
        if self.suffix.endswith("l"):
            return self.content
        compress = {".gz": gz, ".zst": zstd}[Path(self.suffix).suffix]
        size = -(-len(self.content) // self.num_members)
        starts = [size * number for number in range(self.num_members)]
        return b"".join(compress(self.content[start : start + size]) for start in starts)


def text_of(length: int, num_empty: int) -> str:
    """A line of a length, and empty lines that lower the mean."""
    return "z" * length + "\n" * num_empty


EDGE_CASES = [
    "",
    "\n",
    "\n\n\n",
    "\r\n",
    "\r",
    " ",
    "\t\n",
    "a\r\nb\r\n",
    "a\rb",
    "\ufeff",
    "\ufeffx = 1\n",
    "a\u2028b\u2029c\x85d",
    "<|endoftext|>",
    "x<|endoftext|>\n<|endoftext|>y",
    "e\u0301 \u00e9",
    "\u0301",
    "\u4e16\u754c \U0001f469\u200d\U0001f4bb",
    "ab\0",
    "\0",
    "\ud800",
    "x\udfff y",
    "\udc80",
    "\ud83d\ude00",
    "\ufffe\uffff\U0010ffff",
    "0123456789abcdef" * 3,
    "DEADBEEF\n",
    "012345678 ",
    "012345678z",
    "0123456789 z",
    "g" * 9,
    *(
        text_of(length, num_empty)
        for length in (99, 100, 999, 1000, 1001)
        for num_empty in (0, 1, 9, 10, 11)
    ),
    "\u00e9" * 1000 + "\n" * 11,
    "\u00e9" * 1001 + "\n" * 11,
    "\U0001f600" * 99,
    "\U0001f600" * 100,
    "z" * 2900,
    "z" * 3100,
]
"""White space, control characters, unpaired surrogates, and both sides of every bound."""
PIECES = st.text(
    alphabet="a9F \t\n\r\x0b\x1c\x85\u00a0\u0301\u2028\ufeff\u00e9\u4e16\U0001f600", max_size=12
) | st.text(max_size=6)
TEXTS = st.sampled_from(EDGE_CASES) | st.lists(
    PIECES | st.sampled_from(["<|endoftext|>", "def f", "'ll"]), max_size=6
).map("".join)


def record_lines(languages: Iterable[str], pool: list[str]) -> st.SearchStrategy[bytes]:
    """Records, mostly valid, in several JSON spellings."""
    texts = st.sampled_from(pool)
    paths = st.sampled_from(["", "d/b.h"])
    sources = st.sampled_from(["", "\u00e9\u2028"])
    valid = st.fixed_dictionaries(
        {"language": st.sampled_from(languages), "path": paths, "source": sources, "text": texts}
    )
    without_language = st.fixed_dictionaries(
        {"path": st.sampled_from(["a.py", "d/b.h", "c.cpp"]), "text": texts},
        optional={"source": sources},
    )
    defects = st.sampled_from(
        [
            {"text": None},
            {"text": 7},
            {"text": ["a"]},
            {"path": 7},
            {"source": {}},
            {"path": "a\0.py"},
            {"language": "Rust"},
            {"language": None, "path": None},
            {"language": "PYTHON"},
            {"other": "\ud800"},
        ]
    )
    base = st.fixed_dictionaries(
        {"text": st.just("a = 1\n"), "path": st.just("a.py"), "language": st.just(languages[0])}
    )
    fields = (
        valid
        | valid
        | valid
        | without_language
        | st.builds(lambda fields, defect: fields | defect, base, defects)
    )
    return st.builds(
        to_line,
        fields,
        st.booleans(),
        st.sampled_from(["", " ", "\t"]),
        st.sampled_from(["", " ", "\r"]),
    )


def to_line(fields: dict[str, Any], is_ascii: bool, prefix: str, suffix: str) -> bytes:
    return (prefix + json.dumps(fields, ensure_ascii=is_ascii) + suffix).encode(
        "utf-8", "surrogatepass"
    )


VALID_LINE = b'{"language": "Python", "text": "x = 1\\n"}'
INVALID_LINES = st.sampled_from(
    [
        b"",
        b" \t",
        b"\r",
        b"{",
        b"[]",
        b'["a"]',
        b"7",
        b"null",
        b'"x"',
        b"{}",
        b"NaN",
        b'{"text": NaN}',
        VALID_LINE[:-2],
        VALID_LINE + VALID_LINE,
        b"\xef\xbb\xbf" + VALID_LINE,
        VALID_LINE.decode().encode("utf-16-le"),
        b"\xff\xfe",
        VALID_LINE.replace(b"x", b"\xe4"),
        VALID_LINE.replace(b"x", b"\xc3\xa9\xc3"),
        VALID_LINE.replace(b"x", b"\xed\xa0\x80"),
        VALID_LINE.replace(b"x", b"a\0b"),
        VALID_LINE.replace(b"x", b"\t"),
        b"x" * 4000,
        VALID_LINE + b" " * (MAX_RECORD_BYTES - len(VALID_LINE)),
        VALID_LINE + b" " * 3000,
    ]
) | st.binary(max_size=8).map(lambda line: line.replace(b"\n", b""))
"""Lines that are invalid JSON, not UTF-8, in another encoding, blank, or too long."""


def files(corpus: str) -> st.SearchStrategy[list[File]]:
    pools = st.lists(TEXTS, min_size=1, max_size=4)
    return pools.flatmap(
        lambda pool: st.lists(
            st.builds(
                File,
                st.sampled_from(["jsonl", "jsonl.gz", "jsonl.zst"]),
                st.lists(
                    st.one_of([record_lines(LANGUAGES[corpus], pool)] * 3 + [INVALID_LINES]),
                    max_size=12,
                ),
                st.booleans(),
                st.integers(1, 3),
            ),
            max_size=4,
        )
    )


def texts_for_every_split(languages: Iterable[str]) -> File:
    """A training text and a held-out text of each language: a sequence for every split."""
    lines = []
    for language in languages:
        for held_out in (False, True):
            texts = (f"{language} = {number}\n" * 9 for number in count())
            fraction = DATA.held_out_fraction
            text = next(text for text in texts if is_held_out(text, fraction, SEED) is held_out)
            lines.append(to_line(record(text, language, "own", "own"), True, "", ""))
    return File("jsonl", lines, True, 1)


# -- the property --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    corpus=st.sampled_from(["mono", "nl", "multi"]),
    execution=st.sampled_from([None, SMALL_MEMORY]),
)
def test_the_output_for_any_files_equals_the_reference(
    request: pytest.FixtureRequest,
    data: st.DataObject,
    corpus: str,
    execution: DataExecution | None,
) -> None:
    all_files = [texts_for_every_split(LANGUAGES[corpus]), *data.draw(files(corpus))]
    tokenizer, transformers = (
        request.getfixturevalue(name) for name in ("small_folder", "small_transformers")
    )
    check(corpus, all_files, execution, tokenizer, transformers)


def check(
    corpus: str,
    all_files: list[File],
    execution: DataExecution | None,
    tokenizer: Path,
    transformers: PreTrainedTokenizerBase,
) -> None:
    with TemporaryDirectory() as name:
        raw, folder = Path(name) / "raw", Path(name) / "out"
        raw.mkdir()
        lines = {}
        for number, file in enumerate(all_files):
            path = raw / f"{number}.{file.suffix}"
            path.write_bytes(file.stored)
            lines[str(path)] = read_lines(file.content, LANGUAGES[corpus], MAX_RECORD_BYTES)
        changes = {"data": TOLERANT, "context_length": CONTEXT_LENGTH} | (
            {"execution": execution} if execution else {}
        )
        statistics = prepare(folder, raw, corpus, tokenizer, **changes)
        check_lines(folder, statistics, lines)
        check_documents(folder, corpus, lines, transformers)


def check_lines(folder: Path, statistics: dict[str, Any], lines: dict[str, Lines]) -> None:
    """Check bad and skipped lines."""
    quarantined = [
        (record["file"], record["offset"], record["reason"].partition(":")[0])
        for record in read_jsonl(folder / "quarantine.jsonl")
    ]
    expected = [(file, *bad) for file, content in lines.items() for bad in content.bad]
    assert sorted(quarantined) == sorted(expected)
    assert statistics["quarantined"] == Counter(reason for _, _, reason in expected)
    num_skipped = sum((content.num_skipped for content in lines.values()), Counter())
    assert statistics["skipped"] == num_skipped


def check_documents(
    folder: Path, corpus: str, lines: dict[str, Lines], transformers: PreTrainedTokenizerBase
) -> None:
    """Check both tables and all shards."""
    recipe = recipe_of(corpus, transformers)._replace(context_length=CONTEXT_LENGTH)
    records = [record for content in lines.values() for record in content.records]
    expected = prepare_reference(records, recipe)
    for name, rows in (("documents", expected.documents), ("rejects", expected.rejects)):
        table = pq.read_table(folder / f"{name}.parquet")
        columns = [name for name in table.column_names if name != "license"]
        table = table.select(columns)
        assert table.to_pylist() == [{column: row[column] for column in columns} for row in rows]
    shards = {}
    for name, split in read_json(folder / "index.json")["splits"].items():
        paths = [folder / shard["path"] for shard in split["shards"]]
        shards[name] = b"".join(path.read_bytes() for path in paths)
    assert shards == expected.shards
