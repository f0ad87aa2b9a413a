"""Preparation of anything that may stand in a file of JSON Lines, against the slow reference, from bytes to bytes.

What is generated are files: their compression, where their lines end, and lines that are records, nearly records, or nothing
of the kind. A record has one defect at most, since which of two is named is not promised. Texts come from a small pool, so
that copies meet, within a file and across files. Every split gets a text or two of its own besides, since a corpus without
is an error that other tests look at.
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
from fixtures.prepare_reference import Lines, is_held_out, prepared, read_lines
from fixtures.sources import gz, zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from components.core.files import read_json, read_jsonl
from components.data.config import LANGUAGES, Corpus, DataExecution
from components.data.sources.config import QuarantineConfig

CONTEXT_LENGTH = 8
MAX_RECORD_BYTES = 3000
TOLERANT = DATA.replace(
    quarantine=QuarantineConfig(max_bad_fraction=1, max_record_bytes=MAX_RECORD_BYTES)
)
LITTLE_MEMORY = DataExecution(num_workers=2**15, memory_mib=256)
"""A kilobyte for each run and each range, so that a few documents fill many of them."""

# -- files ---------------------------------------------------------------------------------------------------------------


class File(NamedTuple):
    """A file of JSON Lines."""

    ending: str
    lines: list[bytes]
    ends_with_newline: bool
    num_members: int
    """Of a compressed file: members or frames, cut anywhere."""

    @property
    def content(self) -> bytes:
        return b"\n".join(self.lines) + b"\n" * (self.ends_with_newline and bool(self.lines))

    @property
    def stored(self) -> bytes:
        if self.ending.endswith("l"):
            return self.content
        pack = {".gz": gz, ".zst": zstd}[Path(self.ending).suffix]
        size = -(-len(self.content) // self.num_members)
        return b"".join(
            pack(self.content[size * one : size * (one + 1)]) for one in range(self.num_members)
        )


def in_lines(length: int, num_empty: int) -> str:
    """One line of a length, and empty ones that lower the mean."""
    return "z" * length + "\n" * num_empty


ODD = [
    *(
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
    ),
    *(
        "<|endoftext|>",
        "x<|endoftext|>\n<|endoftext|>y",
        "e\u0301 \u00e9",
        "\u0301",
        "\u4e16\u754c \U0001f469\u200d\U0001f4bb",
    ),
    *("ab\0", "\0", "\ud800", "x\udfff y", "\udc80", "\ud83d\ude00", "\ufffe\uffff\U0010ffff"),
    *("0123456789abcdef" * 3, "DEADBEEF\n", "012345678 ", "012345678z", "0123456789 z", "g" * 9),
    *(
        in_lines(length, num_empty)
        for length in (99, 100, 999, 1000, 1001)
        for num_empty in (0, 1, 9, 10, 11)
    ),
    *(
        "\u00e9" * 1000 + "\n" * 11,
        "\u00e9" * 1001 + "\n" * 11,
        "\U0001f600" * 99,
        "\U0001f600" * 100,
        "z" * 2900,
        "z" * 3100,
    ),
]
"""What has been wrong somewhere: white space, control characters, halves of pairs, and both sides of every bound."""
PIECES = st.text(
    alphabet="a9F \t\n\r\x0b\x1c\x85\u00a0\u0301\u2028\ufeff\u00e9\u4e16\U0001f600", max_size=12
) | st.text(max_size=6)
TEXTS = st.sampled_from(ODD) | st.lists(
    PIECES | st.sampled_from(["<|endoftext|>", "def f", "'ll"]), max_size=6
).map("".join)


def record_lines(languages: Iterable[str], pool: list[str]) -> st.SearchStrategy[bytes]:
    """Records, most of them good, written in one of JSON's ways."""
    texts = st.sampled_from(pool)
    paths = st.sampled_from(["", "d/b.h"])
    sources = st.sampled_from(["", "\u00e9\u2028"])
    good = st.fixed_dictionaries(
        {"language": st.sampled_from(languages), "path": paths, "source": sources, "text": texts}
    )
    without_language = st.fixed_dictionaries(
        {"path": st.sampled_from(["a.py", "d/b.h", "c.cpp"]), "text": texts},
        optional={"source": sources},
    )
    defects = st.sampled_from(
        [
            *(
                {"text": None},
                {"text": 7},
                {"text": ["a"]},
                {"path": 7},
                {"source": {}},
                {"path": "a\0.py"},
            ),
            *(
                {"language": "Rust"},
                {"language": None, "path": None},
                {"language": "PYTHON"},
                {"other": "\ud800"},
            ),
        ]
    )
    harmless = st.fixed_dictionaries(
        {"text": st.just("a = 1\n"), "path": st.just("a.py"), "language": st.just(languages[0])}
    )
    fields = (
        good
        | good
        | good
        | without_language
        | st.builds(lambda one, defect: one | defect, harmless, defects)
    )
    return st.builds(
        as_line,
        fields,
        st.booleans(),
        st.sampled_from(["", " ", "\t"]),
        st.sampled_from(["", " ", "\r"]),
    )


def as_line(fields: dict[str, Any], is_ascii: bool, before: str, after: str) -> bytes:
    return (before + json.dumps(fields, ensure_ascii=is_ascii) + after).encode(
        "utf-8", "surrogatepass"
    )


WHOLE = b'{"language": "Python", "text": "x = 1\\n"}'
NO_RECORDS = st.sampled_from(
    [
        *(
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
            WHOLE[:-2],
        ),
        *(
            WHOLE + WHOLE,
            b"\xef\xbb\xbf" + WHOLE,
            WHOLE.decode().encode("utf-16-le"),
            b"\xff\xfe",
            WHOLE.replace(b"x", b"\xe4"),
        ),
        *(
            WHOLE.replace(b"x", b"\xc3\xa9\xc3"),
            WHOLE.replace(b"x", b"\xed\xa0\x80"),
            WHOLE.replace(b"x", b"a\0b"),
        ),
        *(
            WHOLE.replace(b"x", b"\t"),
            b"x" * 4000,
            WHOLE + b" " * (MAX_RECORD_BYTES - len(WHOLE)),
            WHOLE + b" " * 3000,
        ),
    ]
) | st.binary(max_size=8).map(lambda one: one.replace(b"\n", b""))
"""Lines that are hardly JSON, not UTF-8, in another encoding, blank, or longer than a record may be."""


def files(corpus: Corpus) -> st.SearchStrategy[list[File]]:
    pools = st.lists(TEXTS, min_size=1, max_size=4)
    return pools.flatmap(
        lambda pool: st.lists(
            st.builds(
                File,
                st.sampled_from(["jsonl", "jsonl.gz", "jsonl.zst"]),
                st.lists(
                    st.one_of([record_lines(LANGUAGES[corpus], pool)] * 3 + [NO_RECORDS]),
                    max_size=12,
                ),
                st.booleans(),
                st.integers(1, 3),
            ),
            max_size=4,
        )
    )


def own_texts(languages: Iterable[str]) -> File:
    """A text that is trained on and one that is held out, in each language: enough for a sequence of every split."""
    lines = []
    for language in languages:
        for side in (False, True):
            texts = (f"{language} = {number}\n" * 9 for number in count())
            text = next(
                one for one in texts if is_held_out(one, DATA.held_out_fraction, SEED) is side
            )
            lines.append(as_line(record(text, language, "own", "own"), True, "", ""))
    return File("jsonl", lines, True, 1)


# -- the property --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    corpus=st.sampled_from(["mono", "nl", "multi"]),
    place=st.sampled_from([None, LITTLE_MEMORY]),
)
def test_any_files_give_what_the_reference_gives(
    request: pytest.FixtureRequest, data: st.DataObject, corpus: Corpus, place: DataExecution | None
) -> None:
    given_files = [own_texts(LANGUAGES[corpus]), *data.draw(files(corpus))]
    tokenizer, transformers = (
        request.getfixturevalue(name) for name in ("small_folder", "small_transformers")
    )
    check(corpus, given_files, place, tokenizer, transformers)


def check(
    corpus: Corpus,
    given_files: list[File],
    place: DataExecution | None,
    tokenizer: Path,
    transformers: PreTrainedTokenizerBase,
) -> None:
    with TemporaryDirectory() as name:
        raw, folder = Path(name) / "raw", Path(name) / "out"
        raw.mkdir()
        lines = {}
        for number, file in enumerate(given_files):
            path = raw / f"{number}.{file.ending}"
            path.write_bytes(file.stored)
            lines[str(path)] = read_lines(file.content, LANGUAGES[corpus], MAX_RECORD_BYTES)
        changes = {"data": TOLERANT, "context_length": CONTEXT_LENGTH} | (
            {"place": place} if place else {}
        )
        statistics = prepare(folder, raw, corpus, tokenizer, **changes)
        check_lines(folder, statistics, lines)
        check_documents(folder, corpus, lines, transformers)


def check_lines(folder: Path, statistics: dict[str, Any], lines: dict[str, Lines]) -> None:
    """Everything that is no document: what was set aside, where it lies, and what was left out."""
    found = [
        (one["file"], one["offset"], one["reason"].partition(":")[0])
        for one in read_jsonl(folder / "quarantine.jsonl")
    ]
    assert sorted(found) == sorted((file, *bad) for file, one in lines.items() for bad in one.bad)
    assert statistics["bad"] == Counter(reason for one in lines.values() for _, reason in one.bad)
    assert statistics["skipped"] == sum((one.num_skipped for one in lines.values()), Counter())


def check_documents(
    folder: Path, corpus: Corpus, lines: dict[str, Lines], transformers: PreTrainedTokenizerBase
) -> None:
    """Every document: kept or not, for which reason, in which order, and all tokens."""
    recipe = recipe_of(corpus, transformers)._replace(context_length=CONTEXT_LENGTH)
    expected = prepared([record for one in lines.values() for record in one.records], recipe)
    for name, rows in (("documents", expected.documents), ("rejects", expected.rejects)):
        table = pq.read_table(folder / f"{name}.parquet")
        assert table.to_pylist() == [
            {column: row[column] for column in table.column_names} for row in rows
        ]
    splits = read_json(folder / "index.json")["splits"]
    shards = {
        split: [one["path"] for one in written["shards"]] for split, written in splits.items()
    }
    assert {
        split: b"".join((folder / path).read_bytes() for path in paths)
        for split, paths in shards.items()
    } == expected.shards
