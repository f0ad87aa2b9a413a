"""The cache respects its bound, evicts the right files, and survives kills and a full disk."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock
from fixtures.tmpfs import limited_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ConfigError, DiskFullError
from components.dataset.block_cache import Block, BlockCache


def content(block: Block) -> bytes:
    return (block.name.encode() * block.size_bytes)[: block.size_bytes]


class Reader:
    """Reads blocks through a cache, checks their bytes, and records the fetched blocks."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.cache = BlockCache(folder, max_bytes)
        self.fetched: list[str] = []

    def read(self, *names: str, size_bytes: int = 10) -> list[str]:
        """Returns the names of the fetched blocks."""
        return self.read_blocks([Block(name, size_bytes) for name in names])

    def read_blocks(self, blocks: list[Block]) -> list[str]:
        num_fetched = len(self.fetched)
        used: list[Block] = []

        def use(block: Block, descriptor: int) -> None:
            assert os.pread(descriptor, 1000, 0) == content(block)
            used.append(block)

        self.cache.read(blocks, self.fetch, use)
        assert sorted(used) == sorted(blocks), "each block is used once"
        return self.fetched[num_fetched:]

    def fetch(self, block: Block, path: Path) -> None:
        self.fetched.append(block.name)
        path.write_bytes(content(block))


def disk_bytes(cache: Path) -> int:
    """Bytes of all blocks of a cache, temporary files included."""
    return sum(path.stat().st_size for path in (cache / "blocks").iterdir())


def test_cached_blocks_are_not_fetched_again_and_the_least_recently_used_is_evicted(
    tmp_path: Path,
) -> None:
    reader = Reader(tmp_path / "cache", 30)
    assert [reader.read(name) for name in "abcab"] == [["a"], ["b"], ["c"], [], []]
    assert reader.read("d") == ["d"], "c is evicted although it was fetched last"
    assert [reader.read(name) for name in "abd"] == [[], [], []]
    assert reader.read("c") == ["c"]
    assert [reader.read(name) for name in "bdc"] == [[], [], []]
    assert Reader(tmp_path / "cache", 30).read("b", "c", "d") == [], (
        "the next process finds the cached blocks"
    )


def test_more_blocks_than_fit_are_read_in_groups(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "cache", 25)
    names = [f"{number:03d}" for number in range(100)]
    assert sorted(reader.read(*names)) == names
    assert disk_bytes(tmp_path / "cache") <= 25


BLOCKS = st.builds(
    lambda number, size_bytes: Block(f"{number}-{size_bytes}", size_bytes),
    st.integers(0, 9),
    st.integers(0, 40),
)


@settings(deadline=None, max_examples=25)
@given(
    max_bytes=st.integers(40, 150),
    reads=st.lists(st.lists(BLOCKS, unique=True, max_size=6), max_size=12),
    data=st.data(),
)
def test_the_bound_holds_after_every_access(
    tmp_path_factory: pytest.TempPathFactory,
    max_bytes: int,
    reads: list[list[Block]],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("bound") / "cache"
    readers = [Reader(folder, max_bytes), Reader(folder, max_bytes)]
    for blocks in reads:
        data.draw(st.sampled_from(readers)).read_blocks(blocks)
        assert disk_bytes(folder) <= max_bytes


def test_the_bound_holds_during_a_fetch(tmp_path: Path) -> None:
    """Space is freed before it is used."""
    folder = tmp_path / "cache"
    sizes: list[int] = []

    class MeasuringReader(Reader):
        def fetch(self, block: Block, path: Path) -> None:
            super().fetch(block, path)
            sizes.append(disk_bytes(folder))

    reader = MeasuringReader(folder, 30)
    for name in "abcdefgh":
        reader.read(name)
    assert len(sizes) == 8
    assert max(sizes) == 30


def test_a_block_larger_than_the_cache_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exceeds the cache's 9 bytes"):
        Reader(tmp_path / "cache", 9).read("a")


def test_opening_with_a_smaller_bound_evicts(tmp_path: Path) -> None:
    Reader(tmp_path / "cache", 100).read(*"abcdefgh")
    Reader(tmp_path / "cache", 35)
    assert disk_bytes(tmp_path / "cache") <= 35


def test_a_removed_folder_is_filled_again_and_its_bytes_stop_counting(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "parent" / "cache"
    reader = Reader(folder, 30)
    reader.read("a", "b", "c")
    shutil.rmtree(folder)
    assert reader.read("a") == ["a"]
    assert reader.read("b", "c") == ["b", "c"]
    assert reader.read("a", "b", "c") == [], "all three fit again"
    shutil.rmtree(folder.parent)
    assert reader.read("a") == ["a"]


def test_a_file_removed_between_fetch_and_use_is_fetched_again(tmp_path: Path) -> None:
    """Using the first block removes the second."""
    folder = tmp_path / "cache"
    fetched: list[str] = []
    used: list[str] = []

    def fetch(block: Block, path: Path) -> None:
        fetched.append(block.name)
        path.write_bytes(bytes(block.size_bytes))

    def use(block: Block, _: int) -> None:
        used.append(block.name)
        (folder / "blocks" / "b").unlink(missing_ok=True)

    BlockCache(folder, 30).read([Block("a", 10), Block("b", 10)], fetch, use)
    assert sorted(fetched) == ["a", "b", "b"]
    assert used == ["a", "b"]


@pytest.mark.parametrize("damage", [b"", b"short", b"much longer than it was"])
def test_a_file_of_the_wrong_size_is_fetched_again(tmp_path: Path, damage: bytes) -> None:
    reader = Reader(tmp_path / "cache", 30)
    reader.read("a")
    (tmp_path / "cache" / "blocks" / "a").write_bytes(damage)
    assert reader.read("a") == ["a"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    Reader(folder, 30).read("a", "b")
    (folder / "blocks" / ".c.abcdefgh.writing").write_bytes(bytes(10))
    (folder / "used").write_text("30")  # Reserved before the kill.
    reader = Reader(folder, 30)
    assert reader.read("c") == ["c"]
    assert reader.read("a", "b") == []
    assert disk_bytes(folder) == 30
    (folder / "used").write_text("")
    reader.read("d")
    assert disk_bytes(folder) <= 30, "an unreadable size file is recounted"


def test_a_failed_fetch_leaves_no_files(tmp_path: Path) -> None:
    class FailingReader(Reader):
        def fetch(self, block: Block, path: Path) -> None:
            super().fetch(block, path)
            if block.name == "b":
                raise ConnectionError("b is gone")

    failing = FailingReader(tmp_path / "cache", 30)
    with pytest.raises(ConnectionError, match="b is gone"):
        failing.read("a", "b", "c")
    assert disk_bytes(tmp_path / "cache") == 0
    assert Reader(tmp_path / "cache", 30).read("a", "b", "c") == ["a", "b", "c"]


def test_threads_share_fetched_blocks(tmp_path: Path) -> None:
    names = [f"{number:03d}" for number in range(60)]
    readers = [Reader(tmp_path / "cache", 10_000) for _ in range(4)]
    start = threading.Barrier(len(readers))

    def work(reader: Reader) -> None:
        start.wait()
        for first in range(0, 60, 5):
            reader.read(*names[first : first + 5])

    with ThreadPoolExecutor(len(readers)) as pool:
        list(pool.map(work, readers))
    assert sorted(name for reader in readers for name in reader.fetched) == names


def test_threads_that_evict_each_others_blocks_still_read_everything(tmp_path: Path) -> None:
    """Four threads read twelve blocks through a cache of two: all are used before eviction."""
    folder = tmp_path / "cache"
    names = [f"{number:03d}" for number in range(12)]

    def work(_: int) -> None:
        reader = Reader(folder, 20)
        for _ in range(3):
            reader.read(*names)
            with FileLock(folder / "lock"):
                assert disk_bytes(folder) <= 20

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    with limited_disk(tmp_path / "disk", size_kb=64) as disk:
        reader = Reader(disk / "cache", 10**6)
        reader.read("a")
        with pytest.raises(DiskFullError, match="the disk filled up"):
            reader.read("b", size_bytes=10**5)
        assert reader.read("a") == [], "cached blocks can still be read"
        assert sorted(path.name for path in (disk / "cache" / "blocks").iterdir()) == ["a"]


def test_other_users_cannot_write_to_the_folder(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        Reader(tmp_path / "cache", 30).read("a")
    finally:
        os.umask(umask)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    (tmp_path / "cache").chmod(0o755)
    assert Reader(tmp_path / "cache", 30).read("a") == []
    for mode in (0o775, 0o1777):
        (tmp_path / "cache").chmod(mode)
        with pytest.raises(ConfigError, match=rf"is open to other users \(mode {mode:o}\)"):
            Reader(tmp_path / "cache", 30)


def test_a_link_is_not_followed_and_foreign_files_are_not_evicted(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(0o700)
    (tmp_path / "home" / "thesis.txt").write_text("text" * 100)
    (tmp_path / "cache").symlink_to(tmp_path / "home")
    with pytest.raises(ConfigError, match="is not a folder"):
        Reader(tmp_path / "cache", 30)
    Reader(tmp_path / "home", 30).read(*"abcdef")
    assert (tmp_path / "home" / "thesis.txt").exists()
