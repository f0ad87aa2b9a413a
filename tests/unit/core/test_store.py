"""The store on a local folder and on an fsspec URI: reuse, damage, kills between the steps of a
publication."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.tmpfs import limited_disk

from components.core.artifact import Artifact
from components.core.config import Config
from components.core.errors import ArtifactError, ConfigError, DataError, DiskFullError
from components.core.files import atomic_write_path
from components.core.fingerprint import fingerprint
from components.core.recipe_diff import diff_against_nearest
from components.core.store import MANIFEST, BuildResult, Store

GOLDEN = Path(__file__).parents[2] / "golden"


def writes(text: str, observed: str = "fast") -> Callable[[Path], dict[str, int]]:
    def build(folder: Path) -> dict[str, int]:
        (folder / "content.txt").write_text(text)
        (folder / "observed").mkdir(exist_ok=True)
        (folder / "observed/timing.txt").write_text(observed)
        return {"num_bytes": len(text)}

    return build


def must_not_build(_: Path) -> dict[str, int]:
    raise AssertionError("built although it was published")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    root = str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    return Store(root, scratch=None if request.param == "local" else tmp_path / "scratch")


def make(
    store: Store,
    config: int = 1,
    *,
    text: str = "hello",
    parents: dict[str, Artifact] | None = None,
) -> BuildResult:
    return store.get_or_build(
        "tokenizer",
        "t",
        config={"x": config},
        parents=parents or {},
        code_version=1,
        build=writes(text),
    )


def test_the_same_recipe_is_built_once(store: Store) -> None:
    first = make(store)
    again = store.get_or_build(
        "tokenizer", "t", config={"x": 1}, parents={}, code_version=1, build=must_not_build
    )
    assert (first.reused, again.reused) == (False, True)
    assert again.artifact == first.artifact
    assert (store.fetch_verified(again.artifact) / "content.txt").read_text() == "hello"
    assert first.artifact.statistics == {"num_bytes": 5}


@pytest.mark.parametrize("change", [{"config": {"x": 2}}, {"code_version": 2}, {"name": "u"}])
def test_another_config_gives_another_address(store: Store, change: dict[str, object]) -> None:
    first = make(store)
    arguments = {"name": "t", "config": {"x": 1}, "parents": {}, "code_version": 1, **change}
    other = store.get_or_build("tokenizer", build=writes("other"), **arguments)  # type: ignore[arg-type]
    assert not other.reused
    assert other.artifact.address != first.artifact.address
    assert (store.fetch_verified(first.artifact) / "content.txt").read_text() == "hello"


def test_a_parent_counts_by_its_digest(store: Store) -> None:
    parent, same_bytes, other_bytes = make(store, 1), make(store, 2), make(store, 3, text="bye")
    assert parent.artifact.digest == same_bytes.artifact.digest != other_bytes.artifact.digest
    assert not make(store, 9, parents={"p": parent.artifact}).reused
    assert make(store, 9, parents={"p": same_bytes.artifact}).reused
    assert not make(store, 9, parents={"p": other_bytes.artifact}).reused


def test_the_digest_excludes_observed_files(tmp_path: Path) -> None:
    digests = set()
    for name, observed in [("a", "fast"), ("b", "slow")]:
        built = Store(tmp_path / name).get_or_build(
            "tokenizer", "t", config={}, parents={}, code_version=1, build=writes("hello", observed)
        )
        digests.add(built.artifact.digest)
    assert len(digests) == 1


def test_a_failed_build_publishes_nothing(store: Store) -> None:
    def fails(folder: Path) -> dict[str, int]:
        (folder / "half").write_text("x")
        raise DataError("a bad line", expected="a good one", fix="mend it")

    with pytest.raises(DataError):
        store.get_or_build(
            "tokenizer", "t", config={"x": 1}, parents={}, code_version=1, build=fails
        )
    assert list(store.list_artifacts()) == []
    built = make(store)
    assert [file.path for file in built.artifact.files] == ["content.txt", "observed/timing.txt"]


def test_a_local_store_publishes_across_disks(tmp_path: Path) -> None:
    """For example, the workspace is in the home folder and the store on a large disk, so a file
    cannot be renamed from one to the other."""
    with limited_disk(tmp_path / "disk", size_kb=1024) as disk:
        store = Store(disk, scratch=tmp_path / "scratch")
        built = store.get_or_build(
            "tokenizer", "a", config={}, parents={}, code_version=1, build=_write
        )
        assert (store.fetch_verified(built.artifact) / "a.txt").read_text() == "a"
    assert not (tmp_path / "scratch").exists()


def _write(folder: Path) -> dict[str, object]:
    (folder / "a.txt").write_text("a")
    return {}


def test_a_resumable_build_finds_the_work_of_an_interrupted_build(store: Store) -> None:
    def killed(folder: Path) -> dict[str, int]:
        (folder / "half").write_text("kept")
        raise KeyboardInterrupt

    def continues(folder: Path) -> dict[str, int]:
        assert (folder / "half").read_text() == "kept"
        return {}

    with pytest.raises(KeyboardInterrupt):
        store.get_or_build(
            "checkpoint", "c", config={}, parents={}, code_version=1, build=killed, resumable=True
        )
    built = store.get_or_build(
        "checkpoint", "c", config={}, parents={}, code_version=1, build=continues, resumable=True
    )
    attempts = built.artifact.provenance["attempts"]
    assert isinstance(attempts, list)
    assert len(attempts) == 2
    assert not list(store.scratch.rglob("*.attempts.jsonl"))


def test_temporary_files_of_a_killed_write_are_removed(store: Store) -> None:
    undisturbed = make(store, 1)
    unfinished_writes = []  # Keeps the context managers open.

    def killed(folder: Path) -> dict[str, int]:
        unfinished_writes.append(atomic_write_path(folder / "content.txt"))
        unfinished_writes[0].__enter__().write_text("hel")
        raise KeyboardInterrupt

    arguments = {"config": {"x": 2}, "parents": {}, "code_version": 1, "resumable": True}
    with pytest.raises(KeyboardInterrupt):
        store.get_or_build("tokenizer", "t", build=killed, **arguments)
    resumed = store.get_or_build("tokenizer", "t", build=writes("hello"), **arguments)
    assert resumed.artifact.digest == undisturbed.artifact.digest


def test_an_artifact_without_a_manifest_is_unfinished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    built = make(store)
    (Path(built.artifact.address) / MANIFEST).unlink()
    assert list(Store(tmp_path).list_artifacts()) == []
    again = make(Store(tmp_path))
    assert not again.reused
    assert again.artifact.digest == built.artifact.digest


_KILLED_WHILE_BUILDING = """
import os, signal, sys
from components.core.store import Store
def build(folder):
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
Store(sys.argv[1]).get_or_build(
    "tokenizer", "t", config={"x": 1}, parents={}, code_version=1, build=build
)
"""


def test_a_killed_process_releases_its_lock_and_publishes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_WHILE_BUILDING, str(tmp_path)], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert not make(Store(tmp_path)).reused
    assert sorted(os.listdir(next(tmp_path.glob("tokenizer/*")))) == [
        "content.txt",
        MANIFEST,
        "observed",
    ]


@pytest.mark.parametrize("damage", ["damaged", "missing"])
def test_fetch_verified_detects_damage(tmp_path: Path, damage: str) -> None:
    artifact = make(Store(tmp_path)).artifact
    file = Path(artifact.address) / "content.txt"
    file.unlink() if damage == "missing" else file.write_text("hullo")
    with pytest.raises(ArtifactError, match=rf"content\.txt is {damage}(.|\n)*remove"):
        Store(tmp_path).fetch_verified(artifact)


def test_a_single_file_is_read_and_verified(store: Store) -> None:
    artifact = make(store).artifact
    assert store.read_file(artifact, "content.txt") == b"hello"
    with pytest.raises(ArtifactError, match=r"absent\.txt is missing or damaged"):
        store.read_file(artifact, "absent.txt")
    store.fs.pipe_file(f"{artifact.address}/content.txt", b"hullo")
    with pytest.raises(ArtifactError, match=r"content\.txt is missing or damaged"):
        store.read_file(artifact, "content.txt")


def test_the_diff_names_the_field_that_differs_from_the_nearest_sibling(store: Store) -> None:
    parent = make(store, 7).artifact
    make(store, 1, parents={"p": parent})
    newest = make(store, 2, parents={"p": parent}).artifact
    sibling, differences = diff_against_nearest(store, newest) or pytest.fail("no sibling found")
    assert [tuple(difference) for difference in differences] == [("config.x", 1, 2)]
    assert sibling.parents == newest.parents


def test_an_artifact_without_siblings_has_no_diff(store: Store) -> None:
    assert diff_against_nearest(store, make(store).artifact) is None


def test_lineage_lists_parents_before_children(store: Store) -> None:
    a = make(store, 1, text="a").artifact
    b = make(store, 2, text="b", parents={"first": a}).artifact
    c = make(store, 3, text="c", parents={"first": a, "second": b}).artifact
    assert [artifact.label for artifact in store.lineage(c)] == [a.label, b.label, c.label]


def test_loading_an_absent_artifact_is_an_error(store: Store) -> None:
    with pytest.raises(ArtifactError, match="no artifact is published"):
        store.load("tokenizer/t-000000000000")


def test_an_unknown_label_is_an_error_with_the_most_similar_labels(store: Store) -> None:
    label = make(store).artifact.label
    with pytest.raises(ArtifactError) as caught:
        store.load(f"{label[:-2]}x")
    assert caught.value.expected == f"KIND/NAME-RECIPE, such as {label}"


def test_an_artifact_can_be_loaded_by_its_label_and_its_address(store: Store) -> None:
    artifact = make(store).artifact
    assert store.load(artifact.label) == store.load(artifact.address) == artifact


@pytest.mark.parametrize("name", ["", "..", "../../evil", "a/b", "/tmp/evil", "a\\b", ".building"])
def test_a_name_cannot_leave_the_store(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="cannot be named"):
        store.get_or_build(
            "tokenizer", name, config={}, parents={}, code_version=1, build=must_not_build
        )
    with pytest.raises(ArtifactError, match="cannot be named"):
        store.get_or_build(name, "t", config={}, parents={}, code_version=1, build=must_not_build)  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("*evil*"))


def test_a_store_with_an_unknown_file_system_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"(?s)nosuch://bucket/store cannot be opened: .*fix: "):
        Store("nosuch://bucket/store")


def test_a_build_on_a_full_disk_is_a_disk_full_error(tmp_path: Path) -> None:
    with limited_disk(tmp_path / "disk", size_kb=64) as disk:
        with (
            pytest.raises(OSError, match="No space left"),
            (disk / "all of it").open("wb", buffering=0) as full,
        ):
            while True:
                full.write(bytes(4096))
        with pytest.raises(DiskFullError, match=r"the disk filled up while .*t"):
            make(Store(disk))


READS: dict[str, Callable[[Store], object]] = {
    "all": lambda store: list(store.list_artifacts()),
    "load": lambda store: store.load("tokenizer/t-0791ece07dbf"),
    "load what it does not have": lambda store: store.load("tokenizer/t-000000000000"),
    "find": lambda store: store.find("checkpoint", "c", "0" * 64),
    "build the same": lambda store: store.get_or_build(
        "tokenizer", "t", config={"x": 1}, parents={}, code_version=1, build=must_not_build
    ),
    "build another": lambda store: store.get_or_build(
        "checkpoint", "c", config={}, parents={}, code_version=1, build=must_not_build
    ),
}


@pytest.mark.parametrize("read", READS)
def test_a_store_of_codegen_0_1_is_refused_by_every_access(tmp_path: Path, read: str) -> None:
    """The first commit wrote `golden/first_store`."""
    root = Path(shutil.copytree(GOLDEN / "first_store", tmp_path / "store"))
    for _ in range(2):
        with pytest.raises(ArtifactError) as refused:
            READS[read](Store(root))
        assert refused.value.got.startswith(
            f"the store {root} holds an artifact written by codegen 0.1: "
        )
        assert refused.value.expected == "artifacts of manifest format 2"
        assert "--exec store=" in refused.value.fix
        assert "remove that store" in refused.value.fix
    published = {
        path.relative_to(root)
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
    assert published == {
        path.relative_to(GOLDEN / "first_store") for path in GOLDEN.glob("first_store/*/*/*")
    }


@pytest.mark.parametrize("read", ["all", "find"])
def test_a_store_of_a_later_version_is_refused(store: Store, read: str) -> None:
    manifest = f"{make(store).artifact.address}/{MANIFEST}"
    document = json.loads(store.fs.cat_file(manifest))
    store.fs.pipe_file(manifest, json.dumps(document | {"format": 3}).encode())
    root = store.fs.unstrip_protocol(store.root)
    with pytest.raises(
        ArtifactError, match=r"another version of codegen \(manifest format 3\): tokenizer/t-"
    ):
        READS[read](Store(root, scratch=store.scratch))


class Bounds(Config):
    smallest: int = 1
    largest: int = 1000


class Settings(Config):
    seed: int
    bounds: Bounds = Bounds()


def test_a_manifest_shows_the_defaults_that_its_hash_omits(store: Store) -> None:
    config = {"settings": Settings(seed=1), "also": 2}
    artifact = store.get_or_build(
        "tokenizer", "t", config=config, parents={}, code_version=1, build=writes("a")
    ).artifact
    manifest = store.manifest(artifact)
    assert manifest.description["config"] == {"settings": {"seed": 1}, "also": 2}
    assert fingerprint(manifest.description) == artifact.recipe_hash
    assert manifest.config == {
        "settings": {"seed": 1, "bounds": {"smallest": 1, "largest": 1000}},
        "also": 2,
    }
