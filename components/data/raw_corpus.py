"""The raw corpora as artifacts: what `data/` holds, once it is known to be what `data.dvc` commits.

Design decision: DVC keeps these bytes, so they are not copied into the store; their records are made on the fly, and a
`data/` that was changed by hand stops the flow here, before anything expensive. What is not covered: whether the content
makes sense, which is the validation room's question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.errors import DataError
from components.core.fingerprint import digest_of_files, fingerprint, list_files, sha256_file
from components.data.config import CORPORA, Corpus, DataConfig
from components.data.dvc import dvc_repo
from components.data.dvc.dvc_repo import DATA, DATA_DVC, DvcPointer
from components.data.sources.config import Source
from components.data.sources.location import FileLocation, resolve_uri, walk
from components.data.sources.partitions import list_partitions

RAW_NAMES = (*CORPORA, "vocabulary")
_MAX_NAMED = 5
"""Changed files that an error names before it only counts."""


def raw_artifacts(project: Path) -> dict[str, Artifact]:
    """The artifacts "nl", "multi", "mono" and "vocabulary", of kind "raw-corpus", read from `project/data`.

    Raises:
        DataError: nothing was pulled, or `data/` is not what `data.dvc` commits; the message names the corpora.
    """
    project = project.resolve()
    committed = dvc_repo.committed(project)
    if committed is None or not (project / DATA).is_dir():
        raise DataError(
            f"{project / (DATA if committed else DATA_DVC)} does not exist, or is not whole",
            expected=f"{DATA}/ with the raw corpora, and {DATA_DVC} that commits their md5",
            fix="run `codegen data pull`",
        )
    require_committed(project, committed)
    return {name: _artifact(project / DATA / name, committed) for name in RAW_NAMES}


def _artifact(folder: Path, committed: DvcPointer) -> Artifact:
    files = list_files(folder)
    statistics: dict[str, JsonValue] = {
        "num_files": len(files),
        "size_bytes": sum(file.size_bytes for file in files),
    }
    if folder.name in CORPORA:
        statistics["num_documents"] = sum(num_lines(folder / file.path) for file in files)
    return Artifact(
        kind="raw-corpus",
        name=folder.name,
        address=str(folder),
        recipe_hash=fingerprint({"pull": committed.recipe, "folder": folder.name}),
        digest=digest_of_files(files),
        statistics=statistics,
        provenance={"dvc_md5": committed.md5, "preset": committed.preset},
        files=files,
    )


def require_same_bytes(raw: Artifact) -> None:
    """Check that a corpus is still what it was when `raw` was made of it; to be called after it was read.

    Another run may have pulled another preset into the project meanwhile. Nothing is checked of sources that a recipe
    declares, which lie elsewhere. Not covered: that the same bytes were put back before the end.

    Raises:
        DataError: `data/` holds other bytes by now.
    """
    if "dvc_md5" not in raw.provenance:
        return
    project = Path(raw.address).parent.parent
    found = dvc_repo.md5_of(project, project / DATA) if (project / DATA).is_dir() else "nothing"
    if found != raw.provenance["dvc_md5"]:
        raise DataError(
            f"{project / DATA} was changed while {raw.name} was read: it holds {found}",
            expected=f"{raw.provenance['dvc_md5']} until the corpora are prepared: one preset at a time in a project",
            fix="run the same command again when the other run has ended, or give each a clone of its own",
        )


def num_lines(path: Path) -> int:
    """Lines of a file: the documents of a JSON Lines file."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def require_committed(project: Path, committed: DvcPointer) -> None:
    """Check that `data/` holds what `data.dvc` commits.

    Raises:
        DataError: it does not; the message names the corpora and files that differ.
    """
    found = dvc_repo.md5_of(project, project / DATA)
    if found == committed.md5:
        return
    changed = dvc_repo.changed_paths(project)
    corpora = sorted({Path(path).parts[1] for path in changed})
    named = ", ".join(changed[:_MAX_NAMED]) + (
        f" and {len(changed) - _MAX_NAMED} more" if len(changed) > _MAX_NAMED else ""
    )
    where = f"{', '.join(corpora)} ({named})" if changed else "files that DVC's cache does not know"
    raise DataError(
        f"{DATA}/ has md5 {found}; changed: {where}",
        expected=f"md5 {committed.md5}, which {DATA_DVC} commits",
        fix=f"run `codegen data pull --preset {committed.preset}` to get the committed bytes back, "
        f"or, if the change is meant, `dvc add {DATA}`",
    )


def sources_of(data: DataConfig, corpus: Corpus, project: Path) -> tuple[Source, ...]:
    """Where the documents of a corpus are: what the recipe names, else the JSON Lines of `data/`."""
    return (data.sources or {}).get(corpus) or (
        Source(uri=str(project / DATA / corpus / "*.jsonl")),
    )


def artifact_from_listing(name: Corpus, sources: Sequence[Source]) -> Artifact:
    """The artifact of a corpus whose files DVC does not keep: what is there now, file by file.

    A local file counts by the SHA-256 of its bytes; one elsewhere by what its store says of it (for S3 the ETag), since
    reading it all only to name it would cost as much as preparing it.

    Raises:
        DataError, FetchError: a source has no file, or cannot be listed.
    """
    partitions = list_partitions(sources)
    places = {partition.file: resolve_uri(partition.uri) for partition in partitions}
    states = {file: _state(place) for file, place in sorted(places.items())}
    digest = fingerprint(states)
    return Artifact(
        kind="raw-corpus",
        name=name,
        address=", ".join(source.uri for source in sources),
        recipe_hash=fingerprint({"sources": tuple(sources)}),
        digest=digest,
        statistics={
            "num_files": len(places),
            "size_bytes": sum(partition.size_bytes for partition in partitions),
        },
        provenance={"listing": dict[str, JsonValue](states)},
    )


def _state(place: FileLocation) -> str:
    if place.fs.isdir(place.path):
        return fingerprint({entry.path: _state(entry) for entry, _ in walk(place)})
    if isinstance(place.fs, LocalFileSystem):
        return f"sha256:{sha256_file(Path(place.path))}"
    return f"{place.fs.protocol}:{place.fs.checksum(place.path)}"
