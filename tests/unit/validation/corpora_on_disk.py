"""Corpora in the layout on disk, made without any code of the project: small, good, and easy to spoil."""

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
    """Good documents of one package."""
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
"""Limits for corpora of a handful of documents."""


def upright_table(page: str) -> dict[str, list[str]]:
    """The table at the end of a page of Data Docs: its rows by their heads; that of the columns' names is empty."""
    rows = re.findall(r"<tr.*?</tr>", page[page.index("The table that was judged") :], re.DOTALL)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    return {head: values for head, *values in cells}


class Prepared:
    """A prepared corpus on disk: change `splits` (the ids of each document), `rows` (of the list of documents) or
    `rejects`, then `write` it.
    """

    def __init__(self, corpus: str, languages: tuple[str, ...]) -> None:
        self.corpus = corpus
        self.splits: dict[str, list[list[int]]] = {"train": [self._document(i) for i in range(6)]}
        for number, language in enumerate(languages):
            self.splits[f"held-out/{language}"] = [
                self._document(10 * (number + 1) + i) for i in range(2)
            ]
        self.rows = [
            {
                "sha256": hashlib.sha256(f"{corpus} {split} {number}".encode()).hexdigest(),
                "language": split.removeprefix("held-out/")
                if split != "train"
                else languages[number % len(languages)],
                "split": split,
                "source": "package 1.0",
                "path": f"{split}/{number}.txt",
                "num_bytes": 20,
                "num_tokens": len(ids),
            }
            for split, documents in self.splits.items()
            for number, ids in enumerate(documents)
        ]
        self.rejects: list[Record] = []

    @staticmethod
    def _document(seed: int) -> list[int]:
        return [(seed * 7 + step) % 256 for step in range(5 + seed % 3)] + [EOT_ID]

    def write(
        self, folder: Path, change_index: Callable[[dict[str, Any]], object] | None = None
    ) -> Path:
        splits = {}
        for split, documents in self.splits.items():
            ids = [id_ for document in documents for id_ in document]
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
        pq.write_table(
            pa.Table.from_pylist(self.rows), folder / "documents.parquet", row_group_size=3
        )
        schema = pa.schema(
            [(name, pa.string()) for name in ("language", "source", "path", "reason")]
        )
        pq.write_table(
            pa.Table.from_pylist(self.rejects, schema=schema), folder / "rejects.parquet"
        )
        return folder
