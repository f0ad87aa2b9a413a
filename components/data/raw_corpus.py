"""Raw corpora as artifacts.

DVC stores the bytes of `data/`, so they are not copied into the store: their artifacts are computed
from `data/` after a check against `data.dvc`. A manual change of `data/`, or of sources that a
`.dvc` file pins, therefore stops a flow before any expensive step. The content is checked in
`components.validation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from fsspec.implementations.local import LocalFileSystem
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.errors import DataError
from components.core.fingerprint import digest_of_files, fingerprint, list_files, sha256_file
from components.data.config import PRESET_CORPORA, DataConfig
from components.data.dvc import dvc_pins, dvc_repo
from components.data.dvc.dvc_objects import shorten_list
from components.data.dvc.dvc_pins import SourcePins
from components.data.dvc.dvc_repo import DATA, DATA_DVC, DvcPointer
from components.data.sources.code_files import list_files as list_code_files
from components.data.sources.config import Source
from components.data.sources.listing import Entry, find_entry
from components.data.sources.location import FileLocation, resolve_uri
from components.data.sources.partitions import list_partitions

_MAX_LISTED = 5
"""Changed files listed in an error, and URIs in an address; further names are counted."""


def load_raw_artifacts(project: Path) -> dict[str, Artifact]:
    """The artifacts "nl", "multi" and "mono", of kind "raw-corpus", from `project/data`.

    Raises:
        DataError: nothing was pulled, or `data/` differs from `data.dvc`; the message lists the
            corpora.
    """
    project = project.resolve()
    pointer = dvc_repo.read_pointer(project)
    if pointer is None or not (project / DATA).is_dir():
        raise DataError(
            f"{project / (DATA if pointer else DATA_DVC)} does not exist or is incomplete",
            expected=f"{DATA}/ with the raw corpora, and {DATA_DVC} with their md5",
            fix="run `codegen data pull`",
        )
    require_clean_data(project, pointer)
    return {name: _raw_artifact(project / DATA / name, pointer) for name in PRESET_CORPORA}


def _raw_artifact(folder: Path, pointer: DvcPointer) -> Artifact:
    files = list_files(folder)
    statistics: dict[str, JsonValue] = {
        "num_files": len(files),
        "size_bytes": sum(file.size_bytes for file in files),
        "num_documents": sum(count_lines(folder / file.path) for file in files),
    }
    return Artifact(
        kind="raw-corpus",
        name=folder.name,
        address=str(folder),
        recipe_hash=fingerprint({"pull": pointer.recipe_hash, "folder": folder.name}),
        digest=digest_of_files(files),
        statistics=statistics,
        provenance={**_dvc_provenance({DATA_DVC: pointer.md5}), "preset": pointer.preset},
        files=files,
    )


def require_same_bytes(raw: Artifact, project: Path) -> None:
    """Check, after a corpus was read, that files pinned by DVC did not change meanwhile.

    Another run may have pulled another preset into the project. Sources without a pin are not
    checked.

    Raises:
        DataError: the files have other bytes now.
    """
    if "preset" not in raw.provenance:
        if checksums := cast(dict[str, str], raw.provenance.get("dvc_pins", {})):
            dvc_pins.require_unchanged(project, checksums)
        return
    data = Path(raw.address).parent
    md5 = dvc_repo.compute_md5(data.parent, data) if data.is_dir() else "nothing"
    if md5 != raw.provenance["dvc_md5"]:
        raise DataError(
            f"{data} was changed while {raw.name} was read: it holds {md5}",
            expected=f"{raw.provenance['dvc_md5']} until the corpora are prepared",
            fix="run the same command again after the other run has ended, or use a clone of the "
            "project for each run",
        )


def count_lines(path: Path) -> int:
    """Number of lines in a file: the documents of a JSON Lines file."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def require_clean_data(project: Path, pointer: DvcPointer) -> None:
    """Check that `data/` holds the bytes that `data.dvc` commits.

    Raises:
        DataError: the bytes differ; the message lists corpora and files.
    """
    md5 = dvc_repo.compute_md5(project, project / DATA)
    if md5 == pointer.md5:
        return
    paths = dvc_repo.changed_paths(project)
    if paths:
        corpora = ", ".join(sorted({Path(path).parts[1] for path in paths}))
        changed = f"{corpora} ({shorten_list(paths, _MAX_LISTED)})"
    else:
        changed = "files that are not in DVC's cache"
    raise DataError(
        f"{DATA}/ has md5 {md5}; changed: {changed}",
        expected=f"md5 {pointer.md5}, which {DATA_DVC} commits",
        fix=f"run `codegen data pull --preset {pointer.preset}` to restore the committed bytes, or "
        f"run `dvc add {DATA}` if the change is intended",
    )


def corpus_sources(data: DataConfig, corpus: str, project: Path) -> tuple[Source, ...]:
    """The sources of a corpus that the recipe declares, else the JSON Lines files of `data/`."""
    return data.corpora[corpus].sources or (
        Source(uri=str(project / DATA / corpus / "*.jsonl"), title=f"{DATA}/{corpus}"),
    )


def artifact_from_listing(
    name: str, sources: Sequence[Source], project: Path | None = None
) -> Artifact:
    """The artifact of a corpus that is read from the sources of a recipe.

    A local file is identified by the SHA-256 of its bytes, a remote file by the checksum that its
    store reports (S3: the ETag), because reading it would cost as much as preparing it.

    Args:
        name: of the corpus.
        sources: what to read.
        project: folder with `.dvc` files that may pin the sources. None: nothing is pinned.

    Raises:
        DataError, FetchError: a source has no file, cannot be listed, or differs from its pin.
    """
    partitions = list_partitions(sources)
    pins = SourcePins({}, False)
    if project:
        pins = dvc_pins.verify_pins(project, {partition.uri for partition in partitions})
    locations = {partition.file: resolve_uri(partition.uri) for partition in partitions}
    states = {file: _file_state(location) for file, location in sorted(locations.items())}
    size_bytes = sum(partition.size_bytes for partition in partitions)
    return Artifact(
        kind="raw-corpus",
        name=name,
        address=_shorten_uris(sources),
        recipe_hash=fingerprint({"sources": tuple(sources)}),
        digest=fingerprint(states),
        statistics={"num_files": len(locations), "size_bytes": size_bytes},
        provenance={
            "listing": dict[str, JsonValue](states),
            **(_dvc_provenance(pins.checksums) if pins.is_complete else {}),
        },
    )


def _dvc_provenance(checksums: Mapping[str, str]) -> dict[str, JsonValue]:
    """The checksums by `.dvc` file, and as text for tags."""
    return {
        "dvc_pins": dict[str, JsonValue](checksums),
        "dvc_md5": shorten_list(checksums.values(), _MAX_LISTED),
    }


def _shorten_uris(sources: Sequence[Source]) -> str:
    """The first URIs and the number of further URIs. The recipe has all; MLflow refuses the source
    of a dataset above 65,535 characters."""
    uris = [source.uri for source in sources[:_MAX_LISTED]]
    num_more = len(sources) - len(uris)
    return ", ".join(uris) + (f" and {num_more} more" if num_more > 0 else "")


def _file_state(location: FileLocation) -> str:
    entry = find_entry(location)
    if entry is not None and entry.kind == "file":
        return _content_state(entry)
    _, code_files = list_code_files(location)  # A folder, or a glob.
    return fingerprint({file.path: _content_state(file.entry) for file in code_files})


def _content_state(entry: Entry) -> str:
    fs, path = entry.location
    if entry.kind != "file":  # Its content is not read.
        return entry.kind
    if isinstance(fs, LocalFileSystem):
        return f"sha256:{sha256_file(Path(path))}"
    return f"{fs.protocol}:{fs.checksum(path)}"
