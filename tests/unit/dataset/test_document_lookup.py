"""Documents in given sequences, compared with a per-token reference."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.dataset.manifests import DOCUMENTS_PARQUET, DOCUMENTS_SCHEMA, documents_in_sequences

CONTEXT = 5


@given(
    lengths=st.lists(
        st.tuples(st.sampled_from(["train", "held-out/Go"]), st.integers(0, 12)), max_size=20
    ),
    sequences=st.lists(st.integers(0, 20), max_size=4),
)
def test_documents_with_a_token_in_the_sequences_are_listed(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[tuple[str, int]], sequences: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    write_documents(folder, lengths)
    owners = [
        number
        for number, (split, length) in enumerate(lengths)
        if split == "train"
        for _ in range(length)
    ]
    expected = {owner for position, owner in enumerate(owners) if position // CONTEXT in sequences}
    assert documents_in_sequences(folder, sequences, CONTEXT) == [
        f"github:{number}.go" for number in sorted(expected)
    ]


def test_a_corpus_without_the_table_gives_no_documents(tmp_path: Path) -> None:
    assert documents_in_sequences(tmp_path, [0], CONTEXT) == []


def write_documents(folder: Path, lengths: list[tuple[str, int]]) -> None:
    document = {"sha256": "", "language": "Go", "source": "github"}
    rows = [
        document
        | {"split": split, "path": f"{number}.go", "num_bytes": length, "num_tokens": length}
        for number, (split, length) in enumerate(lengths)
    ]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=DOCUMENTS_SCHEMA),
        folder / DOCUMENTS_PARQUET,
        row_group_size=3,
    )
