"""Links, loops and special files among data files and code files."""

from __future__ import annotations

import os

import pytest
from fixtures.sources import jsonl, parquet, read, rows

from components.core.errors import ConfigError, DataError
from components.data.raw_corpus import artifact_from_listing
from components.data.sources.config import Source
from components.data.sources.partitions import list_partitions


def documents(*texts):
    return jsonl([{"text": text, "path": f"{text}.py"} for text in texts])


def texts_of(source):
    return [row["text"] for row in rows(read(source))]


@pytest.fixture
def elsewhere(tmp_path):
    """A folder outside the folder that a source reads."""
    folder = tmp_path / "elsewhere"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.jsonl").write_bytes(documents("b"))
    (folder / "deep" / "c.jsonl").write_bytes(documents("c"))
    return folder


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(documents("a"))
    return folder


def test_linked_files_and_folders_of_a_glob_are_read(raw, elsewhere):
    (raw / "b.jsonl").symlink_to(elsewhere / "b.jsonl")
    (raw / "chain.jsonl").symlink_to("b.jsonl")
    (raw / "linked").symlink_to(elsewhere)
    assert texts_of(raw / "*.jsonl") == ["a", "b", "b"]
    assert texts_of(raw / "*" / "*.jsonl") == ["b"]
    assert texts_of(raw / "**" / "*.jsonl") == ["a", "b", "b", "b", "c"]
    assert texts_of(raw / "b.jsonl") == ["b"]
    sizes = [partition.size_bytes for partition in list_partitions([Source(uri=f"{raw}/b.jsonl")])]
    assert sizes == [len(documents("b"))]


def test_file_with_a_link_beside_it_is_read_once(raw):
    (raw / "v1").mkdir()
    (raw / "v1" / "x.jsonl").write_bytes(documents("x"))
    (raw / "latest").symlink_to("v1")
    (raw / "newest.jsonl").symlink_to("a.jsonl")
    assert texts_of(raw / "*.jsonl") == ["a"]
    assert texts_of(raw / "*" / "*.jsonl") == ["x"]
    assert texts_of(raw / "latest" / "*.jsonl") == ["x"]
    assert texts_of(Source(uri=str(raw), format="jsonl")) == ["a", "x"]


@pytest.mark.parametrize("uri", ["raw/*.jsonl", "raw/**/*.jsonl", "raw", "raw/bad.jsonl"])
@pytest.mark.parametrize("target", ["absent.jsonl", "bad.jsonl", "a.jsonl/child"])
def test_links_without_a_target_are_one_error(tmp_path, raw, uri, target):
    (raw / "bad.jsonl").symlink_to(target)
    with pytest.raises(DataError, match=r"1 paths? .*raw/bad\.jsonl \(broken link\)"):
        list_partitions([Source(uri=str(tmp_path / uri), format="jsonl")])


def test_pipe_or_folder_with_the_name_of_a_data_file_is_an_error(raw):
    os.mkfifo(raw / "pipe.jsonl")
    with pytest.raises(DataError, match=r"pipe\.jsonl \(special file\)"):
        list_partitions([Source(uri=str(raw / "*.jsonl"))])
    (raw / "pipe.jsonl").unlink()
    (raw / "table.parquet").mkdir()
    (raw / "table.parquet" / "0.parquet").write_bytes(parquet([{"text": "a", "path": "a.py"}]))
    with pytest.raises(DataError, match=r"table\.parquet \(folder\)"):
        list_partitions([Source(uri=str(raw / "*"))])
    source = Source(uri=str(raw / "*.parquet") + "/", format="parquet")
    assert texts_of(source) == ["a"]


def test_loops_of_folders_end(raw, elsewhere):
    (raw / "self").symlink_to(raw)
    (raw / "up").symlink_to("..")
    (elsewhere / "back").symlink_to(raw)
    (raw / "there").symlink_to(elsewhere)
    assert sorted(texts_of(Source(uri=str(raw), format="jsonl"))) == ["a", "b", "c"]
    assert "a" in texts_of(raw / "**" / "a.jsonl")


def test_snapshot_of_a_hub_cache_is_read(tmp_path):
    """As huggingface_hub lays it out: the files of a snapshot are links to blobs."""
    repo = tmp_path / "datasets--octo--code"
    snapshot = repo / "snapshots" / "0123abcd"
    (repo / "blobs").mkdir(parents=True)
    (snapshot / "data").mkdir(parents=True)
    (repo / "blobs" / "b10b").write_bytes(documents("a"))
    (repo / "blobs" / "c0de").write_bytes(b"x = 1\n")
    (snapshot / "data" / "train.jsonl").symlink_to("../../../blobs/b10b")
    (snapshot / "run.py").symlink_to("../../blobs/c0de")
    assert texts_of(snapshot / "data" / "*.jsonl") == ["a"]
    assert texts_of(Source(uri=str(snapshot), format="jsonl")) == ["a"]
    (batch,) = read(Source(uri=str(snapshot), format="files"))
    assert batch.records.select(["path", "text"]).to_pylist() == [
        {"path": "run.py", "text": "x = 1\n"}
    ]


def test_links_of_a_checkout_are_read_once_and_never_leave_it(tmp_path, elsewhere):
    checkout = tmp_path / "checkout"
    (checkout / ".git" / "annex").mkdir(parents=True)
    (checkout / ".git" / "annex" / "object").write_text("annexed\n")
    (checkout / "src").mkdir()
    (checkout / "src" / "a.py").write_text("a\n")
    (checkout / "same.py").symlink_to("src/a.py")
    (checkout / "lib").symlink_to("src")
    (checkout / "annexed.py").symlink_to(".git/annex/object")
    (checkout / "gone.py").symlink_to("absent.py")
    (elsewhere / "secret.py").write_text("secret\n")
    (checkout / "secret.py").symlink_to(elsewhere / "secret.py")
    (checkout / "out").symlink_to(elsewhere)
    (batch,) = read(checkout)
    assert batch.records["path"].to_pylist() == ["annexed.py", "src/a.py"]
    assert batch.num_skipped == {"link": 2, "language": 1}
    assert [(bad.file, bad.reason) for bad in batch.quarantined] == [
        (f"{checkout}/gone.py", "broken link"),
        (f"{checkout}/secret.py", "link out of the checkout"),
    ]


def test_single_linked_code_file_is_read(tmp_path, elsewhere):
    (elsewhere / "a.py").write_text("a\n")
    (tmp_path / "link.py").symlink_to(elsewhere / "a.py")
    assert texts_of(Source(uri=str(tmp_path / "link.py"), format="files")) == ["a\n"]


def test_listing_identifies_the_content_behind_links(raw, elsewhere):
    (raw / "b.jsonl").symlink_to(elsewhere / "b.jsonl")
    sources = [Source(uri=str(raw / "*.jsonl"))]
    before = artifact_from_listing("mono", sources)
    assert before.statistics == {
        "num_files": 2,
        "size_bytes": len(documents("a")) + len(documents("b")),
    }
    (elsewhere / "b.jsonl").write_bytes(documents("z"))
    assert artifact_from_listing("mono", sources).digest != before.digest


def test_listing_of_code_files_ignores_pipes_and_the_location(tmp_path):
    digests = set()
    for name in ("one", "two"):
        folder = tmp_path / name / "p"
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("a\n")
        os.mkfifo(folder / "pipe.py")
        artifact = artifact_from_listing("mono", [Source(uri=str(folder))])
        digests.add(next(iter(artifact.provenance["listing"].values())))
    assert len(digests) == 1
    artifact_from_listing("mono", [Source(uri=f"{tmp_path}/one/**/*.py", format="files")])


def test_invalid_glob_is_a_config_error(raw):
    with pytest.raises(ConfigError, match="glob"):
        list_partitions([Source(uri=f"{raw}/**.jsonl")])
