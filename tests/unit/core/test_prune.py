"""Pruning of a store: what roots need, removal, interruptions, and processes that use the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.artifact import Artifact, Kind, Parent
from components.core.errors import ArtifactError
from components.core.locks import exclusive_lock
from components.core.prune import (
    artifact_size,
    exclude_users,
    finish_remote_removals,
    kept_builds,
    label_group,
    needed_labels,
    plan_prune,
    remove_artifact,
    remove_leftover,
)
from components.core.store import Store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(tmp_path / "store")
    return Store(request.getfixturevalue("s3"), scratch=tmp_path / "scratch")


def writes(text: str) -> Callable[[Path], dict[str, int]]:
    def build(folder: Path) -> dict[str, int]:
        (folder / "content.txt").write_text(text)
        return {}

    return build


def make(store: Store, kind: Kind, name: str, seed: int = 0, **parents: Artifact) -> Artifact:
    return store.get_or_build(
        kind,
        name,
        config={"seed": seed},
        parents=parents,
        code_version=1,
        build=writes(f"{kind} {name} {seed}"),
    ).artifact


def labels(artifacts: tuple[Artifact, ...]) -> set[str]:
    return {artifact.label for artifact in artifacts}


def two_recipes(store: Store) -> dict[str, Artifact]:
    """A tokenizer of both recipes, and a corpus, two stages and results of each."""
    artifacts = {"tokenizer": make(store, "tokenizer", "gpt2")}
    for recipe in ("a", "b"):
        corpus = make(store, "prepared-corpus", f"corpus-{recipe}", t=artifacts["tokenizer"])
        nl = make(store, "checkpoint", f"{recipe}-nl", corpus=corpus)
        mono = make(store, "checkpoint", f"{recipe}-mono", corpus=corpus, initial=nl)
        samples = make(store, "samples", f"{recipe}-mono-humaneval", checkpoint=mono)
        score = make(
            store, "evaluation", f"{recipe}-mono-humaneval", checkpoint=mono, samples=samples
        )
        artifacts |= {f"{recipe}-corpus": corpus, f"{recipe}-nl": nl, f"{recipe}-mono": mono}
        artifacts |= {f"{recipe}-samples": samples, f"{recipe}-score": score}
    return artifacts


def test_a_root_keeps_its_inputs_and_the_results_of_checkpoints(store: Store) -> None:
    made = two_recipes(store)

    def kept(*names: str) -> set[str]:
        roots = {made[name].label for name in names}
        needed = needed_labels(made.values(), roots)
        return {name for name, artifact in made.items() if artifact.label in needed}

    assert kept("a-nl") == {"a-nl", "a-corpus", "tokenizer"}
    a = {"tokenizer", "a-corpus", "a-nl", "a-mono", "a-samples", "a-score"}
    assert kept("a-mono") == kept("a-score") == a
    assert kept("a-mono", "b-corpus") == a | {"b-corpus"}
    assert kept() == set()


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Artifact], set[str]]:
    """Artifacts that have earlier artifacts as inputs, and roots."""
    kinds: tuple[Kind, ...] = ("prepared-corpus", "checkpoint", "samples", "evaluation")
    artifacts: list[Artifact] = []
    for number in range(draw(st.integers(1, 9))):
        parents = draw(st.lists(st.sampled_from(artifacts), max_size=3)) if artifacts else []
        unique = {parent.label: parent.as_parent(parent.name) for parent in parents}
        # A parent of another store has no artifact here.
        if draw(st.booleans()):
            unique["x"] = Parent(role="x", kind="tokenizer", name="x", address="x", digest="x")
        artifacts.append(
            Artifact(
                kind=draw(st.sampled_from(kinds)),
                name=f"n{number}",
                address=f"/store/{number}",
                recipe_hash=f"{number:064}",
                digest=f"digest-{draw(st.integers(0, 6))}",
                parents=tuple(unique.values()),
            )
        )
    roots = draw(st.sets(st.sampled_from([artifact.label for artifact in artifacts])))
    return artifacts, roots


@given(graphs())
def test_needed_artifacts_are_the_smallest_closed_set(
    graph: tuple[list[Artifact], set[str]],
) -> None:
    artifacts, roots = graph
    # The relation "a needs b", and its closure by repetition.
    needs = {
        (a.label, b.label)
        for a in artifacts
        for b in artifacts
        if any((parent.kind, parent.digest) == (b.kind, b.digest) for parent in a.parents)
        or (
            a.kind == "checkpoint"
            and b.kind in ("samples", "evaluation")
            and any((p.kind, p.digest) == ("checkpoint", a.digest) for p in b.parents)
        )
    }
    expected = set(roots)
    for _ in artifacts:
        expected |= {b for a, b in needs if a in expected}
    assert needed_labels(artifacts, roots) == expected


def test_only_removable_artifacts_that_no_root_needs_are_removed(store: Store) -> None:
    made = two_recipes(store)
    all_labels = {artifact.label for artifact in made.values()}
    removable = all_labels - {made["b-corpus"].label}
    plan = plan_prune(store, {made["a-mono"].label}, removable, keep=1)
    removed = {name for name in made if made[name].label in labels(plan.removed_artifacts)}
    assert removed == {"b-nl", "b-mono", "b-samples", "b-score"}
    assert labels(plan.kept_artifacts) == all_labels - labels(plan.removed_artifacts)
    size_bytes = sum(map(artifact_size, plan.removed_artifacts))
    size_bytes += sum(leftover.size_bytes for leftover in plan.leftovers)
    assert size_bytes == sum(artifact_size(made[name]) for name in removed)

    assert all(remove_artifact(store, artifact) for artifact in plan.removed_artifacts)
    assert labels(tuple(store.list_artifacts())) == labels(plan.kept_artifacts)
    opened_again = Store(store.fs.unstrip_protocol(store.root), scratch=store.scratch)
    for artifact in plan.kept_artifacts:
        opened_again.fetch_verified(artifact)
    again = two_recipes(store)
    assert {name: again[name].digest for name in made} == {n: made[n].digest for n in made}


KILLED_REMOVAL = """
import os, shutil, signal, sys
from components.core.prune import remove_artifact
from components.core.store import Store

def kill(path, **_):
    if os.path.exists(path):
        os.kill(os.getpid(), signal.SIGKILL)

shutil.rmtree = kill
store = Store(sys.argv[1])
remove_artifact(store, store.load(sys.argv[2]))
"""


def test_a_killed_removal_leaves_a_valid_store_and_is_finished_later(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = two_recipes(store)
    label = made["a-nl"].label
    process = subprocess.run([sys.executable, "-c", KILLED_REMOVAL, store.root, label], check=False)
    assert process.returncode == -signal.SIGKILL
    store = Store(tmp_path / "store")
    assert label not in labels(tuple(store.list_artifacts()))
    assert len(list(store.list_artifacts())) == len(made) - 1

    rebuilt = make(store, "checkpoint", "a-nl", corpus=made["a-corpus"])
    assert rebuilt.digest == made["a-nl"].digest
    plan = plan_prune(store, (), (), keep=1)
    (leftover,) = plan.leftovers
    assert leftover.reason == "interrupted removal"
    assert leftover.size_bytes > 0
    assert remove_leftover(store, leftover)
    assert not plan_prune(store, (), (), keep=1).leftovers
    store.fetch_verified(rebuilt)


def test_an_interrupted_remote_removal_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}", scratch=tmp_path)
    first = make(store, "tokenizer", "gpt2", 1)
    second = make(store, "tokenizer", "gpt2", 2)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for artifact in (first, second):
        with monkeypatch.context() as patch:
            patch.setattr(type(store.fs), "rm", interrupt)
            with pytest.raises(KeyboardInterrupt):
                remove_artifact(store, artifact)
        assert store.fs.exists(f"{artifact.address}/content.txt")
    assert not list(store.list_artifacts())

    again = make(store, "tokenizer", "gpt2", 2)
    finish_remote_removals(store)
    assert not store.fs.exists(first.address)
    assert list(store.list_artifacts()) == [again]
    assert not store.fs.glob(f"{store.root}/.removed/*/*")
    store.fetch_verified(again)


def test_nothing_is_removed_while_a_process_uses_or_builds(store: Store) -> None:
    artifact = make(store, "tokenizer", "gpt2")
    with (
        store.use("a flow"),
        store.use("another flow"),
        pytest.raises(ArtifactError, match="a flow run uses"),
        exclude_users(store),
    ):
        pass
    with exclude_users(store):
        pass
    with store.build_lock(artifact.kind, artifact.name, artifact.recipe_hash):
        assert not remove_artifact(store, artifact)
    assert list(store.list_artifacts()) == [artifact]


def test_the_newest_unfinished_builds_and_needed_copies_stay(store: Store) -> None:
    kept = make(store, "tokenizer", "gpt2", 1)
    removed = make(store, "tokenizer", "gpt2", 2)
    building = store.scratch / ".building"
    folders = {}
    for age, name in enumerate(["newest", "older", "oldest"]):
        folder = building / "checkpoint" / f"mono-{name:_<12}"
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_bytes(b"12345")
        attempts = Path(f"{folder}.attempts.jsonl")
        attempts.touch()
        os.utime(attempts, (1e9 - age, 1e9 - age))
        folders[name] = folder
    published = building / "tokenizer" / Path(kept.address).name
    published.mkdir(parents=True)
    expected = {folders["older"], folders["oldest"], published}
    if not store.is_local:
        store.fetch_verified(kept)
        expected.add(store.fetch_verified(removed))

    plan = plan_prune(store, {kept.label}, {removed.label}, keep=1)
    assert {leftover.path for leftover in plan.leftovers} == expected
    assert sum(leftover.size_bytes for leftover in plan.leftovers if "mono" in str(leftover)) == 10
    assert all(remove_leftover(store, leftover) for leftover in plan.leftovers)
    assert not any(path.exists() for path in expected)
    assert folders["newest"].is_dir()
    assert not Path(f"{folders['older']}.attempts.jsonl").exists()


def add_build(store: Store, name: str, age_s: int) -> Path:
    folder = store.building_folder("checkpoint", name, "0" * 64)
    folder.mkdir(parents=True)
    os.utime(folder, (1e9 - age_s, 1e9 - age_s))
    return folder


def test_the_snapshot_of_a_killed_follower_is_removed_and_not_the_training(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    training = add_build(store, "a-nl", age_s=9)
    export = add_build(store, "a-nl-step-00000008", age_s=1)
    older_export = add_build(store, "a-nl-step-00000004", age_s=2)
    snapshot = Path(f"{training}.snapshot")
    (snapshot / "step-00000008").mkdir(parents=True)

    plan = plan_prune(store, (), (), keep=1)
    assert {leftover.path: leftover.reason for leftover in plan.leftovers} == {
        snapshot: "snapshot of a follower",
        older_export: "unfinished, older than the newest 1",
    }
    assert kept_builds(store, "checkpoint", keep=1) == [training, export]
    (leftover,) = [leftover for leftover in plan.leftovers if leftover.path == snapshot]
    with exclusive_lock(Path(f"{training}.follow.lock"), "follow a-nl"):
        assert not remove_leftover(store, leftover)
    assert snapshot.is_dir()
    assert remove_leftover(store, leftover)
    assert not snapshot.exists()
    assert training.is_dir()


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("a-nl", "a-nl"),
        ("a-nl-step-00000004", "a-nl-step"),
        ("a-nl-step-00000004-humaneval", "a-nl-step-humaneval"),
        ("a-step-4", "a-step-4"),
    ],
)
def test_checkpoints_inside_a_stage_are_a_group(name: str, group: str) -> None:
    assert label_group(f"checkpoint/{name}-123456789012") == f"checkpoint/{group}"
