"""Small valid corpora on disk, written without any code of the project, for tests to damage."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.validation.config import ValidationConfig

CONTEXT_LENGTH = 8
NUM_IDS = 300
EOT_ID = 256

Record = dict[str, Any]


def records(language: str = "English", num: int = 4) -> list[Record]:
    """Valid documents of a package."""
    return [
        {
            "language": language,
            "license": "MIT",
            "path": f"docs/{number}.txt",
            "source": f"{language.lower()} 1.0",
            "text": f"A line of text.\nAnd number {number}.\n",
        }
        for number in range(num)
    ]


def write_raw(folder: Path, content: list[Record]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n" for record in content)
    (folder / "package-1.0.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


SMALL = ValidationConfig(
    min_documents_per_corpus=3, min_documents_per_language=2, max_document_bytes=1000
)
"""Limits for corpora with a few documents."""


def page_section(page: Path, name: str) -> str:
    """The section of a suite in the page of a run."""
    text = page.read_text(encoding="utf-8")
    start = text.index(f'<section id="{name}">')
    return text[start : text.index("</section>", start)]


def page_table(section: str) -> dict[str, list[str]]:
    """The validated table in a section: its rows by their first cell."""
    rows = re.findall(r"<tr.*?</tr>", section, re.DOTALL)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    return {head: values for head, *values in cells}


class Prepared:
    """A prepared corpus to change and then `write`.

    Change `splits` (ids by document), `rows` (the list of documents) or `rejects`.
    """

    def __init__(self, corpus: str, languages: tuple[str, ...]) -> None:
        self.corpus = corpus
        self.splits: dict[str, list[list[int]]] = {"train": [self._document(i) for i in range(6)]}
        for number, language in enumerate(languages, start=1):
            documents = [self._document(10 * number + i) for i in range(2)]
            self.splits[f"held-out/{language}"] = documents
        self.rows: list[Record] = []
        for split, documents in self.splits.items():
            for number, ids in enumerate(documents):
                name = f"{corpus} {split} {number}"
                language = split.removeprefix("held-out/")
                if split == "train":
                    language = languages[number % len(languages)]
                self.rows.append(
                    {
                        "sha256": hashlib.sha256(name.encode()).hexdigest(),
                        "language": language,
                        "split": split,
                        "source": "package 1.0",
                        "path": f"{split}/{number}.txt",
                        "num_bytes": 20,
                        "num_tokens": len(ids),
                        "occurrence": 0,
                    }
                )
        self.rejects: list[Record] = []

    @staticmethod
    def _document(seed: int) -> list[int]:
        return [(seed * 7 + step) % 256 for step in range(5 + seed % 3)] + [EOT_ID]

    def write(
        self, folder: Path, change_index: Callable[[dict[str, Any]], object] | None = None
    ) -> Path:
        splits = {}
        for split, documents in self.splits.items():
            ids = [token for document in documents for token in document]
            num_sequences = len(ids) // CONTEXT_LENGTH
            path = folder / split / "00000.bin"
            path.parent.mkdir(parents=True)
            np.array(ids[: num_sequences * CONTEXT_LENGTH], dtype="<u2").tofile(path)
            shard = {"path": f"{split}/00000.bin", "num_sequences": num_sequences}
            splits[split] = {"shards": [shard], "num_sequences": num_sequences}
        index = {
            "corpus": self.corpus,
            "context_length": CONTEXT_LENGTH,
            "eot_id": EOT_ID,
            "num_ids": NUM_IDS,
            "splits": splits,
        }
        if change_index:
            change_index(index)
        (folder / "index.json").write_text(json.dumps(index))
        documents_table = pa.Table.from_pylist(self.rows)
        pq.write_table(documents_table, folder / "documents.parquet", row_group_size=3)
        columns = ("sha256", "language", "source", "path", "reason", "excerpt")
        schema = pa.schema([("num_bytes", pa.int64()), *((name, pa.string()) for name in columns)])
        rejects_table = pa.Table.from_pylist(self.rejects, schema=schema)
        pq.write_table(rejects_table, folder / "rejects.parquet")
        return folder
