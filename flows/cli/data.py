"""`codegen data`: raw corpora under DVC, and prepared corpora that machines share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.core.errors import DataError, RemoteError
from flows.cli.options import artifact_summary, command, print_json, print_line

if TYPE_CHECKING:
    from components.core.store_sync import CopyResult
    from components.data.dvc.dvc_remote import RemoteState
    from flows.settings.execution import Execution
    from flows.settings.recipes import Recipe

data = typer.Typer(
    no_args_is_help=True, help="Manage raw corpora under DVC, and share prepared corpora."
)

_MAX_NAMED = 5
"""Files that a line names; further files are counted."""
_SAMPLE_MB = 64
"""At most a minute on two cores (measured: 5 MB/s on a busy machine)."""


class PullSource(StrEnum):
    """Source of the bytes of a pull."""

    auto = "auto"
    remote = "remote"
    archives = "archives"


class PresetName(StrEnum):
    """The presets of `components.data.config`."""

    starter = "starter"
    tiny = "tiny"


Root = Annotated[
    str, typer.Argument(help="Shared root: a folder or an fsspec URI, e.g. s3://bucket/prefix.")
]
Labels = Annotated[
    list[str],
    typer.Argument(
        help="Corpora as prepared-corpus/NAME-RECIPE. Default: those of the recipe.",
        default_factory=list,
        show_default=False,
    ),
]


@data.command()
@command()
def pull(
    execution: Execution,
    as_json: bool,
    *,
    preset: Annotated[
        PresetName, typer.Option(help="Pinned archives to unpack.")
    ] = PresetName.starter,
    source: Annotated[
        PullSource,
        typer.Option("--from", help="DVC remote, pinned archives, or the first that has the data."),
    ] = PullSource.auto,
) -> None:
    """Fill data/ with the raw corpora of a preset. Their md5 is written to data.dvc."""
    from flows.steps.prepare_corpora import pull_data

    result = pull_data(preset.value, execution, source.value)
    if as_json:
        print_json(result)
    else:
        typer.echo(result.summary)


@data.command()
@command()
def push(execution: Execution, as_json: bool) -> None:
    """Push data/ to the default DVC remote. Files that the remote has are skipped."""
    from components.data.dvc import dvc_remote

    result = dvc_remote.push(execution.project_path)
    if as_json:
        print_json(result)
        return
    sent = f"sent {result.num_sent} of {result.num_objects} objects"
    print_line(f"DVC remote {result.name} ({result.url}) is up to date: {sent}")


@data.command()
@command()
def status(execution: Execution, as_json: bool) -> None:
    """Compare data/ with data.dvc, git and the DVC remote, and pinned corpora with their pins."""
    project = execution.project_path
    from components.data.dvc import dvc_pins
    from components.data.dvc.dvc_repo import DATA, DATA_DVC, require_pointer

    if (project / DATA_DVC).exists():
        require_pointer(project)  # DVC lists no pins if the file is damaged.
    pins = dvc_pins.compare_pins(project)
    errors = []
    document: dict[str, Any] = {"clean": True}
    if not pins or (project / DATA).exists():  # Else the project has own corpora only.
        document, lines, error = _preset_status(project)
        errors += [error] if error else []
        if not as_json:
            print_line("\n".join(lines))
    for pin in pins:
        if not as_json:
            print_line(f"{pin.file}: {pin.difference or f'clean, {pin.checksum}'}")
        if pin.difference:
            expected = f"{pin.checksum}, which {pin.file} pins"
            errors.append(DataError(f"{pin.path} {pin.difference}", expected=expected, fix=pin.fix))
    if as_json:
        is_clean = document["clean"] and not errors
        print_json({**document, "clean": is_clean, "pins": pins})
    if errors:
        raise errors[0]


def _preset_status(project: Path) -> tuple[dict[str, Any], list[str], DataError | None]:
    """Return the state of data/ as a document and as lines, and an error if its bytes differ."""
    from components.data.dvc import dvc_repo
    from components.data.dvc.dvc_objects import shorten_list

    pointer = dvc_repo.require_pointer(project)
    is_unchanged = dvc_repo.is_clean(project)
    is_uncommitted = dvc_repo.differs_from_head(project)
    changed = [] if is_unchanged else dvc_repo.changed_paths(project)
    remote, remote_error = _remote_state(project)
    document = {
        "clean": is_unchanged and not is_uncommitted,
        **pointer._asdict(),
        "uncommitted": is_uncommitted,
        "changed": changed,
        "remote": remote,
        "remote_error": remote_error,
    }
    lines = []
    if is_unchanged:
        state = "modified" if is_uncommitted else "clean"
        lines.append(f"{state}: preset {pointer.preset}, md5 {pointer.md5}")
    if is_uncommitted:
        lines.append(
            "git: data.dvc differs from HEAD; commit it, or run `git checkout HEAD -- "
            "data.dvc` and `codegen data pull`"
        )
    lines.append(_remote_line(remote, remote_error))
    if is_unchanged:
        return document, lines, None
    error = DataError(
        "data/ or the DVC cache differs from the version in data.dvc: "
        f"{shorten_list(changed, _MAX_NAMED) or 'files are missing'}",
        expected=f"the preset {pointer.preset}, md5 {pointer.md5}",
        fix="run `codegen data pull`, or `dvc add data` if the change is intended",
    )
    return document, lines, error


def _remote_state(project: Path) -> tuple[RemoteState | None, str | None]:
    """Return the state of the remote, and the error if it is unreachable."""
    from components.data.dvc import dvc_remote

    try:
        return dvc_remote.check_remote(project), None
    except RemoteError as error:
        return None, error.got


def _remote_line(state: RemoteState | None, error: str | None) -> str:
    from components.data.dvc.dvc_objects import shorten_list

    if error:
        return f"remote: unknown, {error}"
    if state is None:
        return "remote: not configured (`dvc remote add --default NAME URL`)"
    line = f"remote: {state.name} ({state.url})"
    if state.missing:
        line += f" lacks {shorten_list(state.missing, _MAX_NAMED)}; run `codegen data push`"
    else:
        line += f" has all {state.num_objects} objects"
    if not state.verify:
        line += (
            "\nremote: `dvc pull` accepts damaged files; run `dvc remote modify "
            f"{state.name} verify true`"
        )
    return line


@data.command()
@command()
def diff(
    execution: Execution,
    as_json: bool,
    *,
    before: Annotated[str, typer.Argument(help="Git revision of data.dvc.")] = "HEAD",
    after: Annotated[
        str | None, typer.Argument(help="Git revision. Default: the current data/.")
    ] = None,
) -> None:
    """List the files that differ between two versions of data/."""
    from components.data.dvc.dvc_diff import diff_versions

    result = diff_versions(execution.project_path, before, after)
    if as_json:
        print_json(result)
        return
    if not result.changes:
        print_line(f"no differences between {result.before} and {result.after}")
    for change in result.changes:
        path = f"{change.renamed_from} -> {change.path}" if change.renamed_from else change.path
        documents = _document_counts(change.num_documents_before, change.num_documents)
        print_line(f"{change.kind:<9} {path}{documents}")


def _document_counts(old: int | None, new: int | None) -> str:
    if old is not None and new is not None and old != new:
        return f"  {old:,} -> {new:,} documents"
    count = new if old is None else old
    return "" if count is None else f"  {count:,} documents"


@data.command()
@command()
def estimate(
    recipe: Recipe,
    execution: Execution,
    as_json: bool,
    *,
    corpus: Annotated[
        str | None, typer.Argument(help="Corpus: nl, multi or mono. Default: all corpora.")
    ] = None,
    sample_mb: Annotated[
        int, typer.Option(help="MB of text to read per corpus, from the start of its files.")
    ] = _SAMPLE_MB,
) -> None:
    """Estimate the result of a preparation from a sample. Prints documents, rejects, tokens, disk
    and hours."""
    from flows.steps.estimate_corpus import estimate_corpora, estimate_notes, format_estimate

    estimates = estimate_corpora(recipe, execution, corpus, sample_mb)
    if as_json:
        print_json(dict(estimates))
        return
    is_complete = True
    for name, result in estimates:
        is_complete &= result.is_complete
        for line in format_estimate(name, result, recipe, execution):
            print_line(line)
    for line in estimate_notes(recipe, is_complete):
        print_line(line)


@data.command("push-prepared")
@command()
def push_prepared(
    root: Root, labels: Labels, recipe: Recipe, execution: Execution, as_json: bool
) -> None:
    """Copy prepared corpora to a shared root. Their tokenizer is copied too."""
    from flows.steps.corpora import push_prepared as copy_to

    _print_copies(copy_to(recipe, execution, root, labels), as_json)


@data.command("pull-prepared")
@command()
def pull_prepared(
    root: Root, labels: Labels, recipe: Recipe, execution: Execution, as_json: bool
) -> None:
    """Copy prepared corpora from a shared root. `codegen prepare` reuses them."""
    from flows.steps.corpora import pull_prepared as copy_from

    _print_copies(copy_from(recipe, execution, root, labels), as_json)


def _print_copies(copies: list[CopyResult], as_json: bool) -> None:
    documents = []
    for copy in copies:
        counts = {"was_there": copy.was_there, "num_files": copy.num_files}
        documents.append(artifact_summary(copy.artifact) | counts)
    if as_json:
        print_json(documents)
        return
    for copy in copies:
        result = f"{copy.num_files} of {len(copy.artifact.files)} files copied"
        if copy.was_there:
            result = "exists"
        print_line(f"{copy.artifact.digest[:12]}  {copy.artifact.label}  {result}")


@data.command()
@command()
def suites(
    folder: Annotated[Path, typer.Argument(help="Target folder; existing suites are kept.")],
    execution: Execution,
) -> None:
    """Copy the validation suites into a folder, to edit them. They are JSON files of Great
    Expectations."""
    from components.validation.suite_files import copy_suites

    copies = copy_suites(folder)
    for path in copies:
        print_line(f"{path}")
    path = folder.resolve()
    if path.is_relative_to(execution.project_path):
        path = path.relative_to(execution.project_path)
    result = f"copied {len(copies)} suites" if copies else f"{folder} has all suites"
    print_line(f"{result}; use them with --set validation.suites={path}")


@data.command()
@command()
def card(recipe: Recipe, execution: Execution, as_json: bool) -> None:
    """Print the dataset card in Markdown. It has sources, licenses, sizes, rejects and digests.

    With --json, print the counts and digests of the prepared corpora.
    """
    from components.data.card import dataset_metrics
    from flows.steps.corpora import find_corpora
    from flows.steps.prepare_corpora import dataset_card

    corpora = find_corpora(recipe, execution, execution.open_store())
    if as_json:
        print_json(dataset_metrics(corpora.prepared))
    else:
        typer.echo(dataset_card(recipe, execution, corpora), nl=False)
