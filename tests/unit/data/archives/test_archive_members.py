"""Members of archives, read in memory."""

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


def _is_python(path):
    return path.endswith(".py")


def _is_any(_path):
    return True


@pytest.mark.parametrize("name", ["p-1.tar.gz", "p-1.zip"])
def test_selected_members_are_sorted_by_path_without_top_folder(tmp_path, name):
    pack(tmp_path / name, CONTENT)
    assert read_members(tmp_path / name, _is_python) == [
        Member("b.py", b"b = 1\n"),
        Member("deep/a.py", b"a = 1\n" * 400),
    ]


def test_wheel_has_no_top_folder(tmp_path):
    pack(tmp_path / "p-1-py3-none-any.whl", {"assets/ranks": b"x"})
    assert read_members(tmp_path / "p-1-py3-none-any.whl", _is_any) == [
        Member("assets/ranks", b"x")
    ]


@pytest.mark.parametrize("name", ["p-1.tar.gz", "p-1.zip"])
def test_member_paths_outside_the_archive_write_nothing(tmp_path, name):
    outside = tmp_path / "outside.py"
    pack(tmp_path / name, {"p-1/../../outside.py": b"1\n", str(outside): b"2\n"})
    paths_before = sorted(tmp_path.rglob("*"))
    paths = [member.path for member in read_members(tmp_path / name, _is_python)]
    assert paths == sorted(["../../outside.py", str(outside)[1:]])
    assert sorted(tmp_path.rglob("*")) == paths_before


def test_links_are_listed_without_content(tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("password")
    pack(tmp_path / "p-1.tar.gz", {"p-1/a.py": b"1\n"}, links={"p-1/link.py": str(secret)})
    assert read_members(tmp_path / "p-1.tar.gz", _is_python) == [
        Member("a.py", b"1\n"),
        Member("link.py", None),
    ]

    link = zipfile.ZipInfo("p-1/link.py")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "p-1.zip", "w") as archive:
        archive.writestr(link, str(secret))
    assert read_members(tmp_path / "p-1.zip", _is_python) == [Member("link.py", None)]


def test_last_member_with_a_repeated_path_counts(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for content in (b"first", b"second"):
            info = tarfile.TarInfo("p-1/a.py")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "p-1.tar.gz").write_bytes(buffer.getvalue())
    assert read_members(tmp_path / "p-1.tar.gz", _is_python) == [Member("a.py", b"second")]


def test_member_name_that_is_not_utf8_is_escaped(tmp_path):
    pack(tmp_path / "p-1.tar.gz", {os.fsdecode(b"p-1/K\xe4se.py"): b"1\n"})
    assert [member.path for member in read_members(tmp_path / "p-1.tar.gz", _is_python)] == [
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
    # Explicit ids, because gzip writes a timestamp into the content.
    ids=[
        "text as tar",
        "gzip of text as tar",
        "text as zip",
        "nothing as zip",
        "a signature alone as wheel",
    ],
)
def test_invalid_archive_raises_an_error_with_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FetchError, match=name):
        read_members(tmp_path / name, _is_any)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Bytes and members of an archive of each kind."""
    folder = tmp_path_factory.mktemp("intact")
    packed = {name: pack(folder / name, CONTENT) for name in ("p-1.tar.gz", "p-1.zip")}
    return folder, {
        name: (content, read_members(folder / name, _is_python)) for name, content in packed.items()
    }


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["p-1.tar.gz", "p-1.zip"]), share=st.floats(0, 1, exclude_max=True))
def test_truncated_archive_raises_or_yields_all_members(intact, name, share):
    folder, archives = intact
    content, members = archives[name]
    (folder / f"cut-{name}").write_bytes(content[: int(share * len(content))])
    try:
        read = read_members(folder / f"cut-{name}", _is_python)
    except FetchError:
        return
    assert read == members  # Only the gzip trailer was cut off.
