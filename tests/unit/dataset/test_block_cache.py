"""The cache never grows beyond its bound, forgets the right files, and survives kills, damage and a full disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import DiskFullError
from components.dataset.block_cache import Block, BlockCache


def block(name: str, size_bytes: int = 10) -> Block:
    return Block(name, size_bytes)


def content(one: Block) -> bytes:
    return one.name.encode() * one.size_bytes


class Reader:
    """Reads blocks through a cache, checks every byte of them, and counts what was fetched."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.cache = BlockCache(folder, max_bytes)
        self.fetched: list[str] = []

    def read(self, *names: str, size_bytes: int = 10) -> list[str]:
        """Returns the names that had to be fetched."""
        return self.read_blocks([block(name, size_bytes) for name in names])

    def read_blocks(self, blocks: list[Block]) -> list[str]:
        before, used = len(self.fetched), []

        def use(one: Block, descriptor: int) -> None:
            assert os.pread(descriptor, 1000, 0) == content(one)[: one.size_bytes]
            used.append(one)

        self.cache.read(blocks, self.fetch, use)
        assert sorted(used) == sorted(blocks), "each is used once"
        return self.fetched[before:]

    def fetch(self, one: Block, path: Path) -> None:
        self.fetched.append(one.name)
        path.write_bytes(content(one)[: one.size_bytes])


def on_disk(folder: Path) -> int:
    """Bytes of everything in the folder, temporary files included."""
    return sum(path.stat().st_size for path in folder.rglob("*"))


def test_what_is_here_is_not_fetched_again_and_what_was_used_least_recently_goes(
    tmp_path: Path,
) -> None:
    reader = Reader(tmp_path / "cache", 30)
    assert [reader.read(name) for name in "abcab"] == [["a"], ["b"], ["c"], [], []]
    assert reader.read("d") == ["d"], "c goes, though it came last"
    assert [reader.read(name) for name in "abd"] == [[], [], []]
    assert reader.read("c") == ["c"]
    assert [reader.read(name) for name in "bdc"] == [[], [], []]
    assert Reader(tmp_path / "cache", 30).read("b", "c", "d") == [], "also for the next process"


def test_more_than_fits_is_read_in_turns(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "cache", 25)
    names = [f"{number:03d}" for number in range(100)]
    assert sorted(reader.read(*names)) == names
    assert on_disk(tmp_path / "cache") <= 25


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
        assert on_disk(folder) <= max_bytes


def test_the_bound_holds_while_something_is_fetched(tmp_path: Path) -> None:
    """Room is made before it is used, never after."""
    folder, seen = tmp_path / "cache", []

    class Watching(Reader):
        def fetch(self, one: Block, path: Path) -> None:
            super().fetch(one, path)
            seen.append(on_disk(folder))

    reader = Watching(folder, 30)
    for name in "abcdefgh":
        reader.read(name)
    assert len(seen) == 8
    assert max(seen) == 30


def test_a_block_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be held by a cache of 9 bytes"):
        Reader(tmp_path / "cache", 9).read("a")


def test_a_smaller_bound_is_kept_from_the_start(tmp_path: Path) -> None:
    Reader(tmp_path / "cache", 100).read(*"abcdefgh")
    Reader(tmp_path / "cache", 35)
    assert on_disk(tmp_path / "cache") <= 35


def test_a_removed_folder_is_filled_again_and_its_lost_bytes_do_not_count_for_ever(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "place" / "cache"
    reader = Reader(folder, 30)
    reader.read("a", "b", "c")
    shutil.rmtree(folder)
    assert reader.read("a") == ["a"]
    assert reader.read("b", "c") == ["b", "c"]
    assert reader.read("a", "b", "c") == [], "all three have room again"
    shutil.rmtree(folder.parent)
    assert reader.read("a") == ["a"], "with lock and sum gone, too"


def test_a_file_that_is_removed_between_being_fetched_and_being_read(tmp_path: Path) -> None:
    """Whoever uses the first block removes the second one."""
    folder = tmp_path / "cache"
    fetched, used = [], []

    def fetch(one: Block, path: Path) -> None:
        fetched.append(one.name)
        path.write_bytes(bytes(one.size_bytes))

    def use(one: Block, _: int) -> None:
        used.append(one.name)
        (folder / "b").unlink(missing_ok=True)

    BlockCache(folder, 30).read([block("a"), block("b")], fetch, use)
    assert (sorted(fetched), used) == (["a", "b", "b"], ["a", "b"])


@pytest.mark.parametrize("damage", [b"", b"short", b"much longer than it was"])
def test_a_file_of_another_size_is_fetched_again(tmp_path: Path, damage: bytes) -> None:
    reader = Reader(tmp_path / "cache", 30)
    reader.read("a")
    (tmp_path / "cache" / "a").write_bytes(damage)
    assert reader.read("a") == ["a"]


def test_what_a_killed_process_left_does_not_stay(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    Reader(folder, 30).read("a", "b")
    (folder / ".c.abcdefgh.writing").write_bytes(bytes(10))
    (tmp_path / "cache.used").write_text("30")  # Reserved before it was killed.
    reader = Reader(folder, 30)
    assert reader.read("c") == ["c"]
    assert reader.read("a", "b") == []
    assert on_disk(folder) == 30
    (tmp_path / "cache.used").write_text("")
    reader.read("d")
    assert on_disk(folder) <= 30, "a sum that cannot be read is counted anew"


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Failing(Reader):
        def fetch(self, one: Block, path: Path) -> None:
            super().fetch(one, path)
            if one.name == "b":
                raise ConnectionError("b is gone")

    failing = Failing(tmp_path / "cache", 30)
    with pytest.raises(ConnectionError, match="b is gone"):
        failing.read("a", "b", "c")
    assert on_disk(tmp_path / "cache") == 0
    assert Reader(tmp_path / "cache", 30).read("a", "b", "c") == ["a", "b", "c"]


def test_threads_share_what_one_has_fetched(tmp_path: Path) -> None:
    names = [f"{number:03d}" for number in range(60)]
    readers = [Reader(tmp_path / "cache", 10_000) for _ in range(4)]
    start = threading.Barrier(len(readers))

    def work(reader: Reader) -> None:
        start.wait()
        for at in range(0, 60, 5):
            reader.read(*names[at : at + 5])

    with ThreadPoolExecutor(len(readers)) as pool:
        list(pool.map(work, readers))
    assert sorted(name for reader in readers for name in reader.fetched) == names


def test_threads_that_take_each_others_room_still_read_everything(tmp_path: Path) -> None:
    """A cache of two blocks, for four threads that want all of twelve: one turn's files are read before they can go."""
    folder = tmp_path / "cache"
    names = [f"{number:03d}" for number in range(12)]

    def work(_: int) -> None:
        reader = Reader(folder, 20)
        for _ in range(3):
            reader.read(*names)
            with FileLock(f"{folder}.lock"):
                assert on_disk(folder) <= 20

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system needs the right to mount one")
    try:
        reader = Reader(disk / "cache", 10**6)
        reader.read("a")
        with pytest.raises(DiskFullError, match="the disk filled up while writing"):
            reader.read("b", size_bytes=10**5)
        assert reader.read("a") == [], "what is here can still be read"
        assert sorted(path.name for path in (disk / "cache").iterdir()) == ["a"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
