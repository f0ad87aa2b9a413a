"""A corpus that lies elsewhere gives the same sequences, through a cache that stays small, from a real S3 server."""

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
from fixtures.shards import write_split
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ArtifactError, ConfigError, DiskFullError
from components.core.files import write_json
from components.core.network import free_port
from components.dataset.reader import PackedSplit
from components.dataset.shards import INDEX_JSON, Index
from components.tokenizer.config import StreamingCacheConfig

CONTEXT = 8
SEQUENCE_BYTES = 2 * CONTEXT
NUM_SEQUENCES = 22
"""In shards of five: four full ones and one of two."""
SPLIT_BYTES = NUM_SEQUENCES * SEQUENCE_BYTES


def write_corpus(folder: Path, *, sha256: bool = True, offset: int = 0) -> Path:
    """22 sequences that count up, in shards of five."""
    tokens = np.arange(offset, offset + NUM_SEQUENCES * CONTEXT, dtype=np.uint16)
    split, _ = write_split(folder, "train", CONTEXT, [tokens], shard_tokens=5 * CONTEXT)
    if not sha256:
        split = split.replace(shards=[shard.replace(sha256=None) for shard in split.shards])
    index = Index(
        corpus="nl", context_length=CONTEXT, eot_id=0, num_ids=65_536, splits={"train": split}
    )
    write_json(folder / INDEX_JSON, index.model_dump(mode="json"))
    return folder


def write_large(folder: Path) -> Path:
    """One shard of 100 sequences of 2,000 bytes."""
    split, _ = write_split(folder, "train", 1000, [np.zeros(100_000, dtype=np.uint16)])
    index = Index(corpus="nl", context_length=1000, eot_id=0, num_ids=1, splits={"train": split})
    write_json(folder / INDEX_JSON, index.model_dump(mode="json"))
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
    return sorted(path.stat().st_size for path in (folder / "cache").iterdir())


def expected(indices: list[int]) -> list[list[int]]:
    return [list(range(index * CONTEXT, (index + 1) * CONTEXT)) for index in indices]


WANTED = [21, 0, 7, 7, 4, 5, 19]


def test_a_split_that_fits_comes_in_whole_shards(
    corpus: Path, bucket: Bucket, tmp_path: Path
) -> None:
    uri = bucket.upload(corpus, "nl")
    split = PackedSplit(uri, streaming=cache(tmp_path), storage_options=bucket.storage_options)
    assert (len(split), split.num_tokens, split.index) == (22, 22 * 8, PackedSplit(corpus).index)
    assert cached_sizes(tmp_path) == [], "nothing is fetched before it is asked for"
    assert split.batch(WANTED).tolist() == expected(WANTED)
    assert cached_sizes(tmp_path) == [2 * SEQUENCE_BYTES, *[5 * SEQUENCE_BYTES] * 3]
    assert split.batch([]).shape == (0, CONTEXT)

    bucket.fs.rm(uri, recursive=True)
    assert split.batch(WANTED).tolist() == expected(WANTED), "the cache is enough"
    with pytest.raises(ArtifactError, match=r"there is no s3://.*/nl/train/00002\.bin"):
        split.batch([10])


def test_a_split_that_does_not_fit_comes_in_aligned_ranges(
    corpus: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """Two sequences a range, and one at a shard's odd end; the cache has room for three ranges."""
    uri = bucket.upload(corpus, "nl")
    streaming = cache(tmp_path, cache_bytes=6 * SEQUENCE_BYTES, range_bytes=2 * SEQUENCE_BYTES + 3)
    split = PackedSplit(uri, streaming=streaming, storage_options=bucket.storage_options)
    assert split.batch([3]).tolist() == expected([3])
    assert cached_sizes(tmp_path) == [2 * SEQUENCE_BYTES]
    assert split.batch([2, 4]).tolist() == expected([2, 4])
    assert cached_sizes(tmp_path) == [SEQUENCE_BYTES, 2 * SEQUENCE_BYTES]
    everything = list(range(NUM_SEQUENCES))
    assert split.batch(everything).tolist() == expected(everything)
    assert sum(cached_sizes(tmp_path)) <= 6 * SEQUENCE_BYTES


@pytest.mark.parametrize(("cache_bytes", "fetched"), [(200_000, 200_000), (199_999, 64_000)])
def test_whether_the_split_fits_decides_what_is_fetched(
    tmp_path: Path, cache_bytes: int, fetched: int
) -> None:
    """A range has 64 KiB, rounded down to 32 sequences."""
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
def test_streamed_equals_mapped_and_the_bound_holds_after_every_batch(
    corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
    cache_sequences: int,
    range_bytes: int | None,
    seed: int,
    first: int,
) -> None:
    """One epoch and more, in the order of training; without `range_bytes` a range covers a shard here."""
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
        assert sum(path.stat().st_size for path in (folder / "cache").rglob("*")) <= cache_bytes


def test_a_removed_cache_is_filled_again(memory: str, tmp_path: Path) -> None:
    split = PackedSplit(memory, streaming=cache(tmp_path))
    split.batch(WANTED)
    subprocess.run(["rm", "-r", str(tmp_path / "cache")], check=True)
    assert split.batch(WANTED).tolist() == expected(WANTED)


def test_corpora_with_equal_indices_do_not_take_each_others_files(
    corpus: Path, tmp_path: Path
) -> None:
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
from components.tokenizer.config import StreamingCacheConfig

uri, options, rank = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[4])
streaming = StreamingCacheConfig.parse(json.loads(sys.argv[3]))
split, largest = PackedSplit(uri, streaming=streaming, storage_options=options), 0
for step in range(12):
    indices = split.order(7, step * 8, 8)[rank::2]
    assert split.batch(indices).tolist() == [list(range(index * 8, index * 8 + 8)) for index in indices.tolist()]
    with FileLock(streaming.cache_folder + ".lock"):
        largest = max(largest, sum(path.stat().st_size for path in Path(streaming.cache_folder).iterdir()))
print(largest)
"""


def test_ranks_of_one_host_share_a_cache_that_is_too_small(
    corpus: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """Two processes with room for three ranges take each other's room all the time, and both read what they should."""
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


# -- what can be wrong ---------------------------------------------------------------------------------------------------


def overwrite(uri: str, path: str, content: bytes) -> None:
    fs, root = fsspec.url_to_fs(uri)
    fs.pipe_file(f"{root}/{path}", content)


@pytest.mark.parametrize("found", [0, 79, 81])
def test_a_shard_of_another_size_is_named_on_opening(
    memory: str, tmp_path: Path, found: int
) -> None:
    overwrite(memory, "train/00001.bin", bytes(found))
    with pytest.raises(
        ArtifactError, match=rf"memory://.*/train/00001\.bin has {found} bytes"
    ) as error:
        PackedSplit(memory, streaming=cache(tmp_path))
    assert error.value.expected == "80: 5 sequences of 8 tokens"


def test_a_shard_that_is_not_there_is_named_on_opening(memory: str, tmp_path: Path) -> None:
    fs, root = fsspec.url_to_fs(memory)
    fs.rm_file(f"{root}/train/00004.bin")
    with pytest.raises(ArtifactError, match=r"train/00004\.bin has 0 bytes"):
        PackedSplit(memory, streaming=cache(tmp_path))


def test_changed_bytes_are_seen_before_they_are_used(memory: str, tmp_path: Path) -> None:
    overwrite(memory, "train/00001.bin", bytes(80))
    split = PackedSplit(memory, streaming=cache(tmp_path))
    with pytest.raises(ArtifactError, match=r"train/00001\.bin has SHA-256 5b6fb58e61fa"):
        split.batch([5])
    assert cached_sizes(tmp_path) == []
    assert split.batch([4]).tolist() == expected([4]), "the other shards can be read"


@pytest.mark.parametrize("range_bytes", [None, SEQUENCE_BYTES])
def test_a_shard_that_shrinks_while_it_is_read(
    memory: str, tmp_path: Path, range_bytes: int | None
) -> None:
    split = PackedSplit(memory, streaming=cache(tmp_path, range_bytes=range_bytes))
    overwrite(memory, "train/00001.bin", bytes(70))
    with pytest.raises(ArtifactError, match=r"gave (6|70) bytes"):
        split.batch([9])
    assert cached_sizes(tmp_path) == []


def test_no_corpus_at_a_uri(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no s3://.*/nothing/index\.json"):
        PackedSplit(
            f"{bucket.uri}/nothing",
            streaming=cache(tmp_path),
            storage_options=bucket.storage_options,
        )


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
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
    ("uri", "says"),
    [
        ("s4://bucket/nl", "Protocol not known: s4"),
        ("memory://nowhere", r"there is no memory://.*index\.json"),
    ],
)
def test_a_uri_that_leads_nowhere(tmp_path: Path, uri: str, says: str) -> None:
    with pytest.raises((ConfigError, ArtifactError), match=says):
        PackedSplit(uri, streaming=cache(tmp_path))


def test_a_uri_needs_a_cache_and_one_that_holds_something(memory: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no cache to stream it through"):
        PackedSplit(memory)
    with pytest.raises(ConfigError, match="cache_bytes is 15") as error:
        PackedSplit(memory, streaming=cache(tmp_path, cache_bytes=15, range_bytes=1))
    assert error.value.expected.startswith("at least 16, ")
    assert len(PackedSplit(memory, streaming=cache(tmp_path, cache_bytes=16, range_bytes=1))) == 22


def test_a_folder_of_this_machine_is_mapped_however_it_is_named(
    corpus: Path, tmp_path: Path
) -> None:
    for folder in (corpus, str(corpus), corpus.as_uri()):
        split = PackedSplit(folder, streaming=cache(tmp_path))
        assert split.batch(WANTED).tolist() == expected(WANTED)
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_is_one_clear_error(bucket: Bucket, tmp_path: Path) -> None:
    disk, uri = tmp_path / "disk", bucket.upload(write_large(tmp_path / "large"), "large")
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system needs the right to mount one")
    try:
        split = PackedSplit(
            uri, streaming=cache(disk, 10**6), storage_options=bucket.storage_options
        )
        with pytest.raises(
            DiskFullError, match=r"the disk filled up while fetching s3://.*/train/00000\.bin"
        ):
            split.batch([0])
        assert cached_sizes(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_index_says_a_digest_only_where_it_is_known(corpus: Path, tmp_path: Path) -> None:
    """A corpus that was prepared before there were digests keeps its bytes, and so its own digest."""
    old = write_corpus(tmp_path / "old", sha256=False)
    text = (old / INDEX_JSON).read_text()
    assert "sha256" not in text
    assert json.loads(text)["splits"]["train"]["shards"][4] == {
        "num_sequences": 2,
        "path": "train/00004.bin",
    }
    assert Index.parse(json.loads(text)).splits["train"].shards[4].sha256 is None
    known = (
        Index.parse(json.loads((corpus / INDEX_JSON).read_text())).splits["train"].shards[4].sha256
    )
    assert known == hashlib.sha256((corpus / "train" / "00004.bin").read_bytes()).hexdigest()
