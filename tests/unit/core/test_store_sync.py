"""Copies between two stores, on folders and on S3: killed, damaged, and with forged manifests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, RemoteError
from components.core.fingerprint import list_files
from components.core.store import MANIFEST, Store
from components.core.store_sync import copy_artifact, copy_with_lineage

_FILES = {
    "shards/0.bin": b"\x00\x01" * 500,
    "shards/1.bin": b"\x02" * 3,
    "index.json": b"{}",
    "observed/log.txt": b"slow",
}


def fills(files: dict[str, bytes]) -> Callable[[Path], dict[str, int]]:
    def build(folder: Path) -> dict[str, int]:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return {"num_files": len(files)}

    return build


def must_not_build(_: Path) -> dict[str, int]:
    raise AssertionError("built although it was copied")


def make(
    store: Store, seed: int = 1, files: dict[str, bytes] = _FILES, tokenizer: Artifact | None = None
) -> Artifact:
    parents = {"tokenizer": tokenizer or make_tokenizer(store)}
    return store.get_or_build(
        "prepared-corpus",
        "mono",
        config={"seed": seed},
        parents=parents,
        code_version=1,
        build=fills(files),
    ).artifact


def make_tokenizer(store: Store) -> Artifact:
    return store.get_or_build(
        "tokenizer",
        "gpt2-500",
        config={},
        parents={},
        code_version=1,
        build=fills({"ranks.txt": b"abc"}),
    ).artifact


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store(tmp_path / "here")


@pytest.fixture(params=["folder", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    root = tmp_path / "shared" if request.param == "folder" else request.getfixturevalue("s3")
    return Store(root, scratch=tmp_path / "scratch")


def content(store: Store, artifact: Artifact) -> dict[str, bytes]:
    return {
        file.path: store.fs.cat_file(f"{artifact.address}/{file.path}") for file in artifact.files
    }


def test_a_copy_to_a_remote_store_and_back_is_equal(
    here: Store, shared: Store, tmp_path: Path
) -> None:
    artifact = make(here)
    away = copy_with_lineage(artifact, here, shared)
    assert [(copy.artifact.kind, copy.num_files, copy.was_there) for copy in away] == [
        ("tokenizer", 1, False),
        ("prepared-corpus", 4, False),
    ]
    assert content(shared, away[1].artifact) == _FILES

    other = Store(tmp_path / "other")
    back = copy_with_lineage(away[1].artifact, shared, other)[1].artifact
    assert (back.recipe_hash, back.digest, back.statistics) == (
        artifact.recipe_hash,
        artifact.digest,
        artifact.statistics,
    )
    assert {
        path.name: path.read_bytes()
        for path in other.fetch_verified(back).rglob("*")
        if path.is_file()
    } == {
        **{Path(name).name: value for name, value in _FILES.items()},
        MANIFEST: (Path(artifact.address) / MANIFEST).read_bytes(),
    }
    assert [ancestor.label for ancestor in other.lineage(back)] == [
        ancestor.label for ancestor in here.lineage(artifact)
    ]


def test_a_copied_artifact_is_reused(here: Store, shared: Store) -> None:
    away = copy_with_lineage(make(here), here, shared)
    built = shared.get_or_build(
        "prepared-corpus",
        "mono",
        config={"seed": 1},
        parents={"tokenizer": away[0].artifact},
        code_version=1,
        build=must_not_build,
    )
    assert built.reused


def test_a_published_artifact_is_not_copied_again(here: Store, shared: Store) -> None:
    artifact = make(here)
    copy_artifact(artifact, here, shared)
    (Path(artifact.address) / "index.json").write_bytes(b"[]")  # Not even read.
    again = copy_artifact(artifact, here, shared)
    assert (again.was_there, again.num_files) == (True, 0)
    assert content(shared, again.artifact) == _FILES


def test_other_bytes_for_the_same_recipe_are_refused(here: Store, shared: Store) -> None:
    tokenizer = make_tokenizer(shared)
    theirs = make(shared, files={"index.json": b"other"}, tokenizer=tokenizer)
    with pytest.raises(ArtifactError, match=r"has digest \w+, the copy would have"):
        copy_artifact(make(here), here, shared)
    assert content(shared, theirs) == {"index.json": b"other"}


def test_a_damaged_local_artifact_is_not_published(here: Store, shared: Store) -> None:
    artifact = make(here)
    (Path(artifact.address) / "shards/1.bin").write_bytes(b"xxx")
    fresh = Store(here.root)
    with pytest.raises(ArtifactError, match=r"shards/1\.bin"):
        copy_artifact(artifact, fresh, shared)
    assert list(shared.list_artifacts()) == []


@pytest.mark.parametrize(
    "damage", [b"\x02\x02\x03", b"\x02", None], ids=["changed", "short", "lost"]
)
def test_a_damaged_remote_artifact_is_detected_at_the_target(
    here: Store, shared: Store, tmp_path: Path, damage: bytes | None
) -> None:
    away = copy_artifact(make(here), here, shared).artifact
    path = f"{away.address}/shards/1.bin"
    if damage is None:
        shared.fs.rm_file(path)
    else:
        shared.fs.pipe_file(path, damage)
    other = Store(tmp_path / "other")
    with pytest.raises(
        (ArtifactError, RemoteError), match=r"shards/1\.bin of prepared-corpus/mono-"
    ):
        copy_artifact(away, shared, other)
    assert list(other.list_artifacts()) == []
    assert not (tmp_path / "other" / "prepared-corpus").exists()

    # After a repair, the files that were fetched before are not fetched again.
    shared.fs.pipe_file(path, _FILES["shards/1.bin"])
    repaired = copy_artifact(away, shared, other)
    assert repaired.num_files < 4
    assert content(other, repaired.artifact) == _FILES


def test_an_interrupted_copy_resumes(here: Store, shared: Store) -> None:
    artifact = make(here)
    address = shared.address("prepared-corpus", "mono", artifact.recipe_hash)
    if shared.is_local:
        address = f"{shared.root}/.partial/prepared-corpus/{Path(address).name}"
        Path(address, "shards").mkdir(parents=True)
    # As a kill leaves it: a whole file, a half one, a lock file, no manifest.
    shared.fs.pipe_file(f"{address}/shards/0.bin", _FILES["shards/0.bin"])
    shared.fs.pipe_file(f"{address}/shards/1.bin", b"\x02")
    assert list(shared.list_artifacts()) == []
    resumed = copy_artifact(artifact, here, shared)
    assert resumed.num_files == 3
    assert content(shared, resumed.artifact) == _FILES


def test_a_copy_killed_between_the_rename_and_the_manifest_is_repeated(
    here: Store, tmp_path: Path
) -> None:
    artifact = make(here)
    shared = Store(tmp_path / "shared")
    folder = Path(copy_artifact(artifact, here, shared).artifact.address)
    (folder / MANIFEST).unlink()
    (folder / "unlisted").write_text("junk")
    again = copy_artifact(artifact, here, shared)
    assert (again.was_there, again.num_files) == (False, 0)
    assert list_files(folder)[0].path == "index.json"
    assert "unlisted" not in os.listdir(folder)


_COPY = """
import sys
from components.core.store import Store
from components.core.store_sync import copy_artifact
here, shared = Store(sys.argv[1]), Store(sys.argv[2], scratch=sys.argv[3])
copy_artifact(here.load(sys.argv[4]), here, shared)
"""


def test_a_process_killed_during_a_copy_publishes_nothing(
    here: Store, shared: Store, tmp_path: Path
) -> None:
    num_files = 200 if shared.is_local else 50  # The copy must take longer than the kill.
    files = {f"shards/{number:03}.bin": bytes([number]) * 50_000 for number in range(num_files)}
    artifact = make(here, files=files)
    root = str(shared.root) if shared.is_local else shared.fs.unstrip_protocol(shared.root)
    command = [
        sys.executable,
        "-c",
        _COPY,
        str(here.root),
        root,
        str(tmp_path / "scratch"),
        artifact.label,
    ]

    def has_begun() -> bool:
        if shared.is_local:
            return any(Path(shared.root).rglob("*.bin"))
        shared.fs.invalidate_cache()
        return bool(shared.fs.glob(f"{shared.root}/*/*/*/*.bin"))

    with subprocess.Popen(command) as process:
        while not has_begun() and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert list(shared.list_artifacts()) == []
    resumed = copy_artifact(artifact, here, shared)
    assert not resumed.was_there
    assert 0 < resumed.num_files < num_files
    assert content(shared, resumed.artifact) == files


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        ({"files": [["../../../evil.txt", 4, "0" * 64]]}, "stays in its folder"),
        ({"files": [["/tmp/evil.txt", 4, "0" * 64]]}, "stays in its folder"),
        ({"files": [[MANIFEST, 4, "0" * 64]]}, "lists itself"),
        ({"name": "../../../evil"}, "is not a file name"),
        ({"digest": "../../evil.txt"}, "is not a file name"),
        ({"name": "multi"}, "its label is"),
        ({"digest": "0" * 64}, "digest is not that of its files"),
        ({"recipe": None}, "not the fingerprint"),
    ],
    ids=[
        "climbing",
        "absolute",
        "itself",
        "climbing name",
        "climbing digest",
        "name",
        "digest",
        "recipe",
    ],
)
def test_an_inconsistent_manifest_is_refused(
    here: Store, shared: Store, tmp_path: Path, forged: dict[str, object], message: str
) -> None:
    away = copy_artifact(make(here), here, shared).artifact
    manifest = json.loads(shared.fs.cat_file(f"{away.address}/{MANIFEST}"))
    if "recipe" in forged:
        manifest["recipe"]["config"] = {"seed": 2}
    else:
        manifest["artifact"].update(forged)
    shared.fs.pipe_file(f"{away.address}/{MANIFEST}", json.dumps(manifest).encode())
    other = Store(tmp_path / "other")
    with pytest.raises(ArtifactError, match=message):
        copy_artifact(shared.load(away.address), shared, other)
    assert not list(tmp_path.rglob("evil.txt"))
    assert list(other.list_artifacts()) == []


def test_an_unreachable_root_is_a_remote_error(here: Store, s3: str, tmp_path: Path) -> None:
    nowhere = Store(s3.replace("team", "nobody"), scratch=tmp_path / "scratch")
    with pytest.raises(
        RemoteError, match=r"s3://nobody/\w+ failed while copying .* does not exist"
    ):
        copy_artifact(make(here), here, nowhere)


def test_storage_that_corrupts_writes_is_detected(here: Store, tmp_path: Path) -> None:
    class Forgetful(MemoryFileSystem):  # type: ignore[misc]
        protocol = "forgetful"

        def put_file(self, lpath: str, rpath: str, **_: object) -> None:
            self.pipe_file(rpath, Path(lpath).read_bytes()[:-1])

    fsspec.register_implementation("forgetful", Forgetful, clobber=True)
    shared = Store("forgetful://shared", scratch=tmp_path / "scratch")
    with pytest.raises(ArtifactError, match=r"has SHA-256 \w+ after the copy"):
        copy_artifact(make(here), here, shared)
    assert list(shared.list_artifacts()) == []
