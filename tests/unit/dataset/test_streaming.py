"""A remote corpus gives the same sequences through a bounded cache, from a real S3 server."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fixtures.s3 import Bucket
from fixtures.shards import write_index, write_split
from fixtures.tmpfs import limited_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ArtifactError, ConfigError, DiskFullError
from components.core.network import free_port
from components.dataset.config import StreamingCacheConfig
from components.dataset.reader import PackedSplit
from components.dataset.shards import INDEX_JSON, Index

CONTEXT = 8
SEQUENCE_BYTES = 2 * CONTEXT
NUM_SEQUENCES = 22
"""In shards of five sequences, the last of two."""
SPLIT_BYTES = NUM_SEQUENCES * SEQUENCE_BYTES


def write_corpus(folder: Path, *, sha256: bool = True, offset: int = 0) -> Path:
    """Write 22 sequences of consecutive numbers in shards of five."""
    tokens = np.arange(offset, offset + NUM_SEQUENCES * CONTEXT, dtype=np.uint16)
    split, _ = write_split(folder, "train", CONTEXT, [tokens], shard_tokens=5 * CONTEXT)
    if not sha256:
        split = split.replace(shards=[shard.replace(sha256=None) for shard in split.shards])
    write_index(folder, {"train": split}, context_length=CONTEXT)
    return folder


def write_large(folder: Path) -> Path:
    """Write one shard of 100 sequences of 2,000 bytes."""
    split, _ = write_split(folder, "train", 1000, [np.zeros(100_000, dtype=np.uint16)])
    write_index(folder, {"train": split}, context_length=1000)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def memory(corpus: Path) -> Iterator[str]:
    """The corpus in fsspec's memory file system."""
    uri = f"memory://{uuid.uuid4().hex}"
    fs, root = fsspec.url_to_fs(uri)
    fs.put(f"{corpus}/", f"{root}/", recursive=True)
    yield uri
    fs.rm(root, recursive=True)


def cache(
    folder: Path, cache_bytes: int = SPLIT_BYTES, range_bytes: int | None = None
) -> StreamingCacheConfig:
    return StreamingCacheConfig(
        cache_folder=str(folder / "cache"), cache_bytes=cache_bytes, range_bytes=range_bytes
    )


def cached_sizes(folder: Path) -> list[int]:
    return sorted(path.stat().st_size for path in (folder / "cache" / "blocks").iterdir())


def expected(indices: list[int]) -> list[list[int]]:
    return [list(range(index * CONTEXT, (index + 1) * CONTEXT)) for index in indices]


INDICES = [21, 0, 7, 7, 4, 5, 19]


def test_a_split_that_fits_is_fetched_in_whole_shards(
    corpus: Path, bucket: Bucket, tmp_path: Path
) -> None:
    uri = bucket.upload(corpus, "nl")
    split = PackedSplit(uri, streaming=cache(tmp_path), storage_options=bucket.storage_options)
    assert (len(split), split.num_tokens, split.index) == (22, 22 * 8, PackedSplit(corpus).index)
    assert cached_sizes(tmp_path) == [], "fetched on demand only"
    assert split.batch(INDICES).tolist() == expected(INDICES)
    assert cached_sizes(tmp_path) == [2 * SEQUENCE_BYTES, *[5 * SEQUENCE_BYTES] * 3]
    assert split.batch([]).shape == (0, CONTEXT)

    bucket.fs.rm(uri, recursive=True)
    assert split.batch(INDICES).tolist() == expected(INDICES), "read from the cache"
    with pytest.raises(ArtifactError, match=r"s3://.*/nl/train/00002\.bin does not exist"):
        split.batch([10])


def test_a_split_that_does_not_fit_is_fetched_in_aligned_ranges(
    corpus: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """Ranges of two sequences, and of one at the odd end of a shard, in a cache of three."""
    uri = bucket.upload(corpus, "nl")
    streaming = cache(tmp_path, cache_bytes=6 * SEQUENCE_BYTES, range_bytes=2 * SEQUENCE_BYTES + 3)
    split = PackedSplit(uri, streaming=streaming, storage_options=bucket.storage_options)
    assert split.batch([3]).tolist() == expected([3])
    assert cached_sizes(tmp_path) == [2 * SEQUENCE_BYTES]
    assert split.batch([2, 4]).tolist() == expected([2, 4])
    assert cached_sizes(tmp_path) == [SEQUENCE_BYTES, 2 * SEQUENCE_BYTES]
    all_indices = list(range(NUM_SEQUENCES))
    assert split.batch(all_indices).tolist() == expected(all_indices)
    assert sum(cached_sizes(tmp_path)) <= 6 * SEQUENCE_BYTES


@pytest.mark.parametrize(("cache_bytes", "fetched"), [(200_000, 200_000), (199_999, 64_000)])
def test_the_size_of_the_split_decides_what_is_fetched(
    tmp_path: Path, cache_bytes: int, fetched: int
) -> None:
    """Ranges have 64 KiB, rounded down to 32 sequences."""
    fs, root = fsspec.url_to_fs(f"memory://{tmp_path.name}")
    fs.put(f"{write_large(tmp_path / 'large')}/", f"{root}/", recursive=True)
    split = PackedSplit(f"memory://{tmp_path.name}", streaming=cache(tmp_path, cache_bytes))
    assert split.batch([50]).shape == (1, 1000)
    assert cached_sizes(tmp_path) == [fetched]


@settings(deadline=None, max_examples=25)
@given(
    cache_sequences=st.integers(5, 30),
    range_bytes=st.none() | st.integers(1, 5 * SEQUENCE_BYTES),
    seed=st.integers(0, 2**32),
    first=st.integers(0, 100),
)
def test_streamed_batches_equal_mapped_batches_within_the_bound(
    corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
    cache_sequences: int,
    range_bytes: int | None,
    seed: int,
    first: int,
) -> None:
    """More than an epoch in training order; without `range_bytes` a range covers a shard here."""
    folder, cache_bytes = tmp_path_factory.mktemp("streamed"), cache_sequences * SEQUENCE_BYTES
    fs, root = fsspec.url_to_fs(f"memory://{folder.name}")
    fs.put(f"{corpus}/", f"{root}/", recursive=True)
    mapped = PackedSplit(corpus)
    streamed = PackedSplit(
        f"memory://{folder.name}", streaming=cache(folder, cache_bytes, range_bytes)
    )
    for start in range(first, first + 28, 7):
        batch = streamed.batch(streamed.shuffled_indices(seed, start, 7))
        assert np.array_equal(batch, mapped.batch(mapped.shuffled_indices(seed, start, 7)))
        assert batch.dtype == np.uint16
        assert (
            sum(path.stat().st_size for path in (folder / "cache" / "blocks").iterdir())
            <= cache_bytes
        )


def test_a_removed_cache_is_filled_again(memory: str, tmp_path: Path) -> None:
    split = PackedSplit(memory, streaming=cache(tmp_path))
    split.batch(INDICES)
    subprocess.run(["rm", "-r", str(tmp_path / "cache")], check=True)
    assert split.batch(INDICES).tolist() == expected(INDICES)


def test_corpora_with_equal_indices_do_not_share_cached_files(corpus: Path, tmp_path: Path) -> None:
    """Without digests, two corpora can have the same index and other tokens."""
    uris = []
    for number in range(2):
        uris.append(f"memory://{tmp_path.name}-{number}")
        fs, root = fsspec.url_to_fs(uris[-1])
        fs.put(
            f"{write_corpus(tmp_path / str(number), sha256=False, offset=number)}/",
            f"{root}/",
            recursive=True,
        )
    splits = [PackedSplit(uri, streaming=cache(tmp_path)) for uri in uris]
    assert splits[0].index == splits[1].index
    assert [split.batch([0])[0, 0] for split in splits] == [0, 1]


RANK = """
import json, sys
from pathlib import Path
from filelock import FileLock
from components.dataset.reader import PackedSplit
from components.dataset.config import StreamingCacheConfig

uri, options, rank = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[4])
streaming = StreamingCacheConfig.parse(json.loads(sys.argv[3]))
split = PackedSplit(uri, streaming=streaming, storage_options=options)
largest = 0
for step in range(12):
    indices = split.shuffled_indices(7, step * 8, 8)[rank::2]
    expected = [list(range(index * 8, index * 8 + 8)) for index in indices.tolist()]
    assert split.batch(indices).tolist() == expected
    with FileLock(f"{streaming.cache_folder}/lock"):
        files = Path(streaming.cache_folder, "blocks").iterdir()
        largest = max(largest, sum(path.stat().st_size for path in files))
print(largest)
"""


def test_ranks_of_a_host_share_a_cache_that_is_too_small(
    corpus: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """Two processes evict each other's ranges from a cache of three and read correct tokens."""
    uri = bucket.upload(corpus, "nl")
    streaming = cache(tmp_path, cache_bytes=6 * SEQUENCE_BYTES, range_bytes=2 * SEQUENCE_BYTES)
    arguments = [uri, json.dumps(bucket.storage_options), json.dumps(streaming.model_dump())]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *arguments, str(rank)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert all(0 < int(output) <= 6 * SEQUENCE_BYTES for output in outputs)


# -- errors ------------------------------------------------------------------------------------


def overwrite(uri: str, path: str, content: bytes) -> None:
    fs, root = fsspec.url_to_fs(uri)
    fs.pipe_file(f"{root}/{path}", content)


@pytest.mark.parametrize("size_bytes", [0, 79, 81])
def test_opening_names_a_shard_of_the_wrong_size(
    memory: str, tmp_path: Path, size_bytes: int
) -> None:
    overwrite(memory, "train/00001.bin", bytes(size_bytes))
    with pytest.raises(
        ArtifactError, match=rf"memory://.*/train/00001\.bin has {size_bytes} bytes"
    ) as error:
        PackedSplit(memory, streaming=cache(tmp_path))
    assert error.value.expected == "80: 5 sequences of 8 tokens"


def test_opening_names_a_missing_shard(memory: str, tmp_path: Path) -> None:
    fs, root = fsspec.url_to_fs(memory)
    fs.rm_file(f"{root}/train/00004.bin")
    with pytest.raises(ArtifactError, match=r"train/00004\.bin has 0 bytes"):
        PackedSplit(memory, streaming=cache(tmp_path))


def test_changed_bytes_are_detected_before_use(memory: str, tmp_path: Path) -> None:
    overwrite(memory, "train/00001.bin", bytes(80))
    split = PackedSplit(memory, streaming=cache(tmp_path))
    with pytest.raises(ArtifactError, match=r"train/00001\.bin has SHA-256 5b6fb58e61fa"):
        split.batch([5])
    assert cached_sizes(tmp_path) == []
    assert split.batch([4]).tolist() == expected([4]), "other shards can be read"


@pytest.mark.parametrize("range_bytes", [None, SEQUENCE_BYTES])
def test_a_shard_that_shrinks_after_opening_is_an_error(
    memory: str, tmp_path: Path, range_bytes: int | None
) -> None:
    split = PackedSplit(memory, streaming=cache(tmp_path, range_bytes=range_bytes))
    overwrite(memory, "train/00001.bin", bytes(70))
    with pytest.raises(ArtifactError, match=r"returned (6|70) bytes"):
        split.batch([9])
    assert cached_sizes(tmp_path) == []


def test_a_uri_without_a_corpus_is_an_error(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"s3://.*/nothing/index\.json does not exist"):
        PackedSplit(
            f"{bucket.uri}/nothing",
            streaming=cache(tmp_path),
            storage_options=bucket.storage_options,
        )


def test_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    client = {"endpoint_url": f"http://127.0.0.1:{free_port()}"}
    options = {
        "key": "a",
        "secret": "b",
        "client_kwargs": client,
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(
        ArtifactError, match=r"index\.json cannot be read: EndpointConnectionError"
    ) as error:
        PackedSplit("s3://bucket/nl", streaming=cache(tmp_path), storage_options=options)
    assert "endpoint, credentials" in error.value.fix


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s4://bucket/nl", "Protocol not known: s4"),
        ("memory://nowhere", r"memory://.*index\.json does not exist"),
    ],
)
def test_an_invalid_uri_is_an_error(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises((ConfigError, ArtifactError), match=message):
        PackedSplit(uri, streaming=cache(tmp_path))


def test_a_uri_needs_a_cache_that_holds_a_range(memory: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no streaming cache is configured"):
        PackedSplit(memory)
    with pytest.raises(ConfigError, match="cache_bytes is 15") as error:
        PackedSplit(memory, streaming=cache(tmp_path, cache_bytes=15, range_bytes=1))
    assert error.value.expected.startswith("at least 16, ")
    assert len(PackedSplit(memory, streaming=cache(tmp_path, cache_bytes=16, range_bytes=1))) == 22


def test_a_local_folder_is_mapped_whichever_way_it_is_given(corpus: Path, tmp_path: Path) -> None:
    for folder in (corpus, str(corpus), corpus.as_uri()):
        split = PackedSplit(folder, streaming=cache(tmp_path))
        assert split.batch(INDICES).tolist() == expected(INDICES)
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_is_an_error(bucket: Bucket, tmp_path: Path) -> None:
    uri = bucket.upload(write_large(tmp_path / "large"), "large")
    with limited_disk(tmp_path / "disk", size_kb=64) as disk:
        split = PackedSplit(
            uri, streaming=cache(disk, 10**6), storage_options=bucket.storage_options
        )
        with pytest.raises(
            DiskFullError, match=r"the disk filled up while fetching s3://.*/train/00000\.bin"
        ):
            split.batch([0])
        assert cached_sizes(disk) == []


def test_an_index_omits_unknown_digests(corpus: Path, tmp_path: Path) -> None:
    """An index without digests keeps its bytes, and the corpus its own digest."""
    old = write_corpus(tmp_path / "old", sha256=False)
    text = (old / INDEX_JSON).read_text()
    assert "sha256" not in text
    assert json.loads(text)["splits"]["train"]["shards"][4] == {
        "num_sequences": 2,
        "path": "train/00004.bin",
    }
    assert Index.parse(json.loads(text)).splits["train"].shards[4].sha256 is None
    index = Index.parse(json.loads((corpus / INDEX_JSON).read_text()))
    expected_sha256 = hashlib.sha256((corpus / "train" / "00004.bin").read_bytes()).hexdigest()
    assert index.splits["train"].shards[4].sha256 == expected_sha256
