"""Reading archives in memory: what is in them, whatever their names say, or one error."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile

import pytest
from fixtures.archives import pack
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import FetchError
from components.data.archives.extract import Member, read_members

CONTENT = {"p-1/deep/a.py": b"a = 1\n" * 400, "p-1/b.py": b"b = 1\n", "p-1/c.txt": b"text"}


def _python(path):
    return path.endswith(".py")


def _any(_path):
    return True


@pytest.mark.parametrize("name", ["p-1.tar.gz", "p-1.zip"])
def test_wanted_members_come_in_the_order_of_their_paths_without_the_top_folder(tmp_path, name):
    pack(tmp_path / name, CONTENT)
    assert read_members(tmp_path / name, _python) == [
        Member("b.py", b"b = 1\n"),
        Member("deep/a.py", b"a = 1\n" * 400),
    ]


def test_a_wheel_has_no_top_folder(tmp_path):
    pack(tmp_path / "p-1-py3-none-any.whl", {"assets/ranks": b"x"})
    assert read_members(tmp_path / "p-1-py3-none-any.whl", _any) == [Member("assets/ranks", b"x")]


@pytest.mark.parametrize("name", ["p-1.tar.gz", "p-1.zip"])
def test_names_that_climb_are_read_as_text_and_write_nothing(tmp_path, name):
    outside = tmp_path / "outside.py"
    pack(tmp_path / name, {"p-1/../../outside.py": b"1\n", str(outside): b"2\n"})
    before = sorted(tmp_path.rglob("*"))
    paths = [member.path for member in read_members(tmp_path / name, _python)]
    assert paths == sorted(["../../outside.py", str(outside)[1:]])
    assert sorted(tmp_path.rglob("*")) == before


def test_links_are_named_but_not_followed(tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("password")
    pack(tmp_path / "p-1.tar.gz", {"p-1/a.py": b"1\n"}, links={"p-1/link.py": str(secret)})
    assert read_members(tmp_path / "p-1.tar.gz", _python) == [
        Member("a.py", b"1\n"),
        Member("link.py", None),
    ]

    link = zipfile.ZipInfo("p-1/link.py")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "p-1.zip", "w") as archive:
        archive.writestr(link, str(secret))
    assert read_members(tmp_path / "p-1.zip", _python) == [Member("link.py", None)]


def test_of_two_members_with_one_path_the_last_counts_as_when_unpacking(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for content in (b"first", b"second"):
            info = tarfile.TarInfo("p-1/a.py")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "p-1.tar.gz").write_bytes(buffer.getvalue())
    assert read_members(tmp_path / "p-1.tar.gz", _python) == [Member("a.py", b"second")]


def test_a_name_that_is_not_utf8_becomes_text_that_can_be_written(tmp_path):
    pack(tmp_path / "p-1.tar.gz", {os.fsdecode(b"p-1/K\xe4se.py"): b"1\n"})
    assert [member.path for member in read_members(tmp_path / "p-1.tar.gz", _python)] == [
        "K\\xe4se.py"
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p-1.tar.gz", b"no archive"),
        ("p-1.tar.gz", gzip.compress(b"no tar" * 200)),
        ("p-1.zip", b"no archive"),
        ("p-1.zip", b""),
        ("p-1.whl", b"PK\x03\x04 but no more"),
    ],
    # Named, because gzip writes the time: names made of the content would differ between two workers.
    ids=[
        "text as tar",
        "gzip of text as tar",
        "text as zip",
        "nothing as zip",
        "a signature alone as wheel",
    ],
)
def test_what_is_no_archive_is_an_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FetchError, match=name):
        read_members(tmp_path / name, _any)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An archive of each kind: its bytes and what is in it."""
    folder = tmp_path_factory.mktemp("whole")
    packed = {name: pack(folder / name, CONTENT) for name in ("p-1.tar.gz", "p-1.zip")}
    return folder, {
        name: (content, read_members(folder / name, _python)) for name, content in packed.items()
    }


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["p-1.tar.gz", "p-1.zip"]), share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_archive_never_yields_fewer_or_other_members(whole, name, share):
    folder, archives = whole
    content, members = archives[name]
    (folder / f"cut-{name}").write_bytes(content[: int(share * len(content))])
    try:
        found = read_members(folder / f"cut-{name}", _python)
    except FetchError:
        return
    assert found == members  # only the gzip trailer was cut off
