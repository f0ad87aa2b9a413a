"""Folders, checkouts and archives: read, skipped and damaged files."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
import zipfile

import pytest
from fixtures.sources import gz, read, rows, tar, zipped, zstd

from components.core.errors import FetchError, RecordError
from components.data.sources.config import Source, merge_extensions
from components.data.sources.partition_reader import read_partition
from components.data.sources.partitions import list_partitions

MEMBERS = {
    "p-1/deep/a.py": b"a = 1\n" * 400,
    "p-1/b.py": "ä\r\n".encode(),
    "p-1/c.txt": b"text",
    "p-1/d.py": b"",
}
PACK = {
    "a.zip": zipped,
    "stored.zip": lambda members: zipped(members, zipfile.ZIP_STORED),
    "a.whl": zipped,
    "a.tar": tar,
    "a.tar.gz": lambda members: gz(tar(members)),
    "a.tgz": lambda members: gz(tar(members)),
    "a.tar.zst": lambda members: zstd(tar(members)),
}


def checkout(folder):
    """A git repository with links, a pipe and bad files."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / "src").mkdir()
    (folder / ".git" / "hook.py").write_text("not content\n")
    (folder / "src" / "b.py").write_bytes(b"b = '\xc3\xa4'\r\n")
    (folder / "src" / "latin.py").write_bytes(b"# \xe4\n")
    (folder / "src" / "binary.c").write_bytes(b"\x7fELF\0\0")
    (folder / "src" / "long.py").write_bytes(b"x" * 5000)
    (folder / "a.go").write_text("package a\n")
    (folder / "README").write_text("read me\n")
    (folder / "link.py").symlink_to(folder / "src" / "b.py")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.py")
    return folder


def test_checkout_is_read_in_order_without_git_folder_links_and_pipes(tmp_path):
    folder = checkout(tmp_path / "project")
    (batch,) = read(folder, max_record_bytes=4000)
    common = {"license": "", "source": "project"}
    assert batch.records.to_pylist() == [
        {**common, "language": "Go", "path": "a.go", "text": "package a\n"},
        {**common, "language": "Python", "path": "src/b.py", "text": "b = 'ä'\r\n"},
    ]
    assert [(bad.file, bad.offset, bad.reason) for bad in batch.quarantined] == [
        (f"{folder}/src/binary.c", 0, "NUL character: at character 4 of text"),
        (f"{folder}/src/latin.py", 0, "not UTF-8: invalid continuation byte at byte 2 of text"),
        (f"{folder}/src/long.py", 0, "too long: a file of 5000 bytes"),
    ]
    assert batch.num_skipped == {"language": 1, "link": 2, "no regular file": 1}


def test_paths_of_a_glob_are_relative_to_its_fixed_part(tmp_path):
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "a.md").write_text("one\n")
    (tmp_path / "docs" / "deep" / "b.md").write_text("two\n")
    (tmp_path / "docs" / "c.txt").write_text("no\n")
    source = Source(uri=f"{tmp_path}/docs/**/*.md", format="files", fixed_language="English")
    common = {"language": "English", "license": "", "source": "docs"}
    assert rows(read(source, ["English"])) == [
        {**common, "path": "a.md", "text": "one\n"},
        {**common, "path": "deep/b.md", "text": "two\n"},
    ]


def test_single_file_can_be_read_as_code_file(tmp_path):
    (tmp_path / "[1].py").write_text("a = 1\n")
    assert [
        row["path"] for row in rows(read(Source(uri=str(tmp_path / "[1].py"), format="files")))
    ] == ["[1].py"]


def test_recipe_can_extend_the_table_of_extensions(tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("a.pyi", "b.py", "c.h"):
        (tmp_path / "p" / name).write_text(name)
    table = merge_extensions({".pyi": "Python", ".h": "C++"})
    assert [
        (row["path"], row["language"]) for row in rows(read(tmp_path / "p", extensions=table))
    ] == [
        ("a.pyi", "Python"),
        ("b.py", "Python"),
        ("c.h", "C++"),
    ]


def test_file_name_that_is_not_utf8_is_escaped(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / os.fsdecode(b"K\xe4se.py")).write_text("a\n")
    assert [row["path"] for row in rows(read(tmp_path / "p"))] == ["K\\xe4se.py"]


def test_folder_that_changed_after_listing_raises_record_error(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.py").write_text("a = 1\n")
    (partition,) = list_partitions([Source(uri=str(tmp_path / "p"))])
    (tmp_path / "p" / "b.py").write_text("b = 1\n")
    with pytest.raises(RecordError, match="has 12 bytes"):
        list(read_partition(partition, ["Python"]))


def test_removed_file_raises_fetch_error(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(MEMBERS))
    (partition,) = list_partitions([Source(uri=str(tmp_path / "a.zip"))])
    (tmp_path / "a.zip").unlink()
    with pytest.raises(FetchError, match=r"a\.zip does not exist"):
        list(read_partition(partition, ["Python"]))


@pytest.mark.parametrize("name", PACK)
def test_archive_members_are_read_in_order(tmp_path, name):
    (tmp_path / name).write_bytes(PACK[name](MEMBERS))
    (batch,) = read(tmp_path / name)
    common = {"language": "Python", "license": "", "source": name}
    assert batch.records.to_pylist() == [
        {**common, "path": "p-1/deep/a.py", "text": "a = 1\n" * 400},
        {**common, "path": "p-1/b.py", "text": "ä\r\n"},
        {**common, "path": "p-1/d.py", "text": ""},
    ]
    assert (batch.quarantined, batch.num_skipped) == ([], {"language": 1})


@pytest.mark.parametrize("name", PACK)
def test_bad_archive_members_are_quarantined_by_name(tmp_path, name):
    members = {"p/a.py": b"MZ\0\0", "p/b.py": b"\xff", "p/c.py": b"x" * 500, "p/d.py": b"d\n"}
    (tmp_path / name).write_bytes(PACK[name](members))
    (batch,) = read(tmp_path / name, max_record_bytes=100)
    assert [(bad.file, bad.reason.partition(":")[0]) for bad in batch.quarantined] == [
        (f"{tmp_path}/{name}!p/a.py", "NUL character"),
        (f"{tmp_path}/{name}!p/b.py", "not UTF-8"),
        (f"{tmp_path}/{name}!p/c.py", "too long"),
    ]
    assert batch.records["path"].to_pylist() == ["p/d.py"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_archive_paths_outside_the_archive_write_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(
        PACK[name]({"../../out.py": b"1\n", str(tmp_path / "abs.py"): b"2\n"})
    )
    before = sorted(tmp_path.rglob("*"))
    assert {row["text"] for row in rows(read(tmp_path / name))} == {"1\n", "2\n"}
    assert sorted(tmp_path.rglob("*")) == before


def test_archives_of_the_tar_command_are_read(tmp_path):
    (tmp_path / "p" / "deep").mkdir(parents=True)
    long_name = "x" * 180 + ".py"
    (tmp_path / "p" / "deep" / long_name).write_text("a = 1\n")
    (tmp_path / "p" / "link.py").symlink_to("deep")
    for style in ("gnu", "pax"):
        subprocess.run(
            ["tar", f"--format={style}", "-czf", f"{style}.tar.gz", "p"], cwd=tmp_path, check=True
        )
        (batch,) = read(tmp_path / f"{style}.tar.gz")
        assert batch.records["path"].to_pylist() == [f"p/deep/{long_name}"]
        assert batch.num_skipped == {"link": 1}


def test_link_in_a_zip_is_counted(tmp_path):
    link = zipfile.ZipInfo("p/link.py")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    (batch,) = read(tmp_path / "a.zip")
    assert (batch.records.num_rows, batch.num_skipped) == (0, {"link": 1})


def test_number_of_members_can_be_in_the_zip64_record(tmp_path):
    """As in zips of 65,535 or more members; records built from APPNOTE.TXT 4.3.14 to 4.3.16."""
    content = zipped(MEMBERS)
    body, (_, _, _, _, _, size, at, _) = content[:-22], struct.unpack("<4s4H2LH", content[-22:])
    for stated in (4, 5):
        record = struct.pack(
            "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, stated, stated, size, at
        )
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body), 1)
        end = (
            struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 5)
            + b"large"
        )
        (tmp_path / f"{stated}.zip").write_bytes(body + record + locator + end)
    (batch,) = read(tmp_path / "4.zip")
    assert (batch.records.num_rows, batch.num_skipped) == (3, {"language": 1})
    with pytest.raises(RecordError, match="lists 4 members and states 5"):
        list(read(tmp_path / "5.zip"))


def offset_of_second(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getmembers()[1].offset


def damaged_header(content):
    """A bit of the second member's header is flipped; Python's tarfile takes that for the end."""
    at = offset_of_second(content)
    return content[: at + 100] + bytes([content[at + 100] ^ 1]) + content[at + 101 :]


def cut_between_members(content):
    return content[: offset_of_second(content)]


def longer_comment(content):
    """The comment of the directory's first entry covers the second; Python's zipfile then lists one
    member less."""
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    third = content.index(b"PK\x01\x02", second + 4)
    return content[: first + 32] + (third - second).to_bytes(2, "little") + content[first + 34 :]


def other_name(content):
    """The name of the directory's first entry has no known extension, so it would be skipped."""
    at = content.index(b"PK\x01\x02") + 46 + len("p-1/deep/a.p")
    return content[:at] + b"q" + content[at + 1 :]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("a.tar", damaged_header, "the header at byte"),
        ("a.tar", cut_between_members, "without an end mark"),
        ("a.tar", lambda content: content + tar({"b.py": b"b"}), "something follows the end mark"),
        ("a.tar", lambda _: b"", "empty file"),
        ("a.tar.gz", lambda _: gz(damaged_header(tar(MEMBERS))), "the header at byte"),
        ("a.tar.zst", lambda content: content[:-1], "Truncated compressed stream"),
        ("a.zip", longer_comment, "its directory lists 3 members and states 4"),
        ("a.zip", other_name, "differ"),
        ("a.zip", lambda content: content[:-1], "not a zip file"),
        ("a.zip", lambda _: b"", "not a zip file"),
        ("a.zip", lambda _: zipped(MEMBERS, zipfile.ZIP_LZMA), "compressed with method 14"),
    ],
    ids=[
        "tar header",
        "tar cut between members",
        "two tars",
        "no tar",
        "tar.gz header",
        "tar.zst cut",
        "zip directory",
        "zip name",
        "zip cut",
        "no zip",
        "zip method",
    ],
)
def test_damage_that_pythons_readers_accept_raises_record_error(tmp_path, name, damage, message):
    (tmp_path / name).write_bytes(damage(PACK[name](MEMBERS)))
    with pytest.raises(RecordError, match=message) as error:
        list(read(tmp_path / name))
    assert name in error.value.got
