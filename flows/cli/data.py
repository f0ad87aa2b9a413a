"""`codegen data ...`: the raw corpora, which DVC versions, and the prepared ones, which machines share.

Every command is a thin call of a flow or a component; heavy libraries are imported inside the command that needs them.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.core.errors import DataError, RemoteError
from flows.cli.options import (
    ExecutionOverrides,
    Json,
    RecipeName,
    RecipeOverrides,
    artifact_summary,
    console,
    load_execution,
    load_recipe,
    print_json,
)

if TYPE_CHECKING:
    from components.core.store_sync import CopyResult
    from components.data.dvc.dvc_remote import RemoteState

data = typer.Typer(
    no_args_is_help=True,
    help="The raw corpora in data/, versioned by DVC, and what was prepared from them.",
)

_MAX_NAMED = 5
"""Files that a line names before it only counts."""
_SAMPLE_MB = 64
"""A minute's work at most on two cores (measured: 5 MB/s on a busy machine)."""


class From(StrEnum):
    """Where a pull takes its bytes from."""

    auto = "auto"
    remote = "remote"
    archives = "archives"


Origin = Annotated[
    From,
    typer.Option("--from", help="DVC's remote, the pinned archives, or whichever has the bytes."),
]
Root = Annotated[
    str, typer.Argument(help="The shared root: a folder or any fsspec URI, s3://bucket/prefix.")
]
SampleMb = Annotated[
    int, typer.Option(help="MB of text to read of each corpus, from the beginnings of its files.")
]
Labels = Annotated[
    list[str],
    typer.Argument(help="prepared-corpus/NAME-RECIPE, as a run prints it. None: the recipe's."),
]


@data.command()
def pull(
    preset: Annotated[str, typer.Option(help="starter or tiny.")] = "starter",
    origin: Origin = From.auto,
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """Bring a preset's bytes into data/, from DVC's remote or the pinned archives, and commit their md5 with DVC."""
    chosen = load_recipe("starter", [f"data.preset={preset}"])
    execution = load_execution(at)
    from flows.steps.prepare_corpora import pull_data

    pulled = pull_data(chosen, execution, origin.value)
    if as_json:
        print_json(pulled)
    else:
        typer.echo(pulled.summary)


@data.command()
def push(as_json: Json = False, at: ExecutionOverrides = []) -> None:
    """Send the committed bytes of data/ to DVC's default remote; what it has is not sent again."""
    project = load_execution(at).project_path
    from components.data.dvc import dvc_remote

    done = dvc_remote.push(project)
    if as_json:
        print_json(done)
        return
    sent = (
        f"{done.num_sent} of {done.num_objects} objects were sent"
        if done.num_sent
        else "nothing was to be sent"
    )
    console.print(
        f"the DVC remote {done.name} ({done.url}) has everything: {sent}",
        soft_wrap=True,
        markup=False,
    )


@data.command()
def status(as_json: Json = False, at: ExecutionOverrides = []) -> None:
    """Whether data/ is what data.dvc commits, and whether DVC's remote has it all; names the files that are not."""
    project = load_execution(at).project_path
    from components.data.dvc import dvc_repo

    committed, clean = dvc_repo.require_committed(project), dvc_repo.is_clean(project)
    changed = [] if clean else dvc_repo.changed_paths(project)
    remote, unknown = _remote_state(project)
    if as_json:
        print_json(
            {
                "clean": clean,
                **committed._asdict(),
                "changed": changed,
                "remote": remote,
                "remote_unknown": unknown,
            }
        )
    else:
        if clean:
            typer.echo(f"clean: preset {committed.preset}, md5 {committed.md5}")
        typer.echo(_remote_line(remote, unknown))
    if not clean:
        raise DataError(
            f"data/ or DVC's cache is not as committed: {', '.join(changed) or 'files are missing'}",
            expected=f"the preset {committed.preset}, md5 {committed.md5}",
            fix="run `codegen data pull`, or `dvc add data` where the change is meant",
        )


def _remote_state(project: Path) -> tuple[RemoteState | None, str | None]:
    """The remote, and why nothing is known of it: that it does not answer is no fault of data/."""
    from components.data.dvc import dvc_remote

    try:
        return dvc_remote.remote_state(project), None
    except RemoteError as error:
        return None, error.got


def _remote_line(state: RemoteState | None, unknown: str | None) -> str:
    if unknown:
        return f"remote: unknown, {unknown}"
    if state is None:
        return "remote: none is configured (`dvc remote add --default NAME URL`)"
    if not state.missing:
        return f"remote: {state.name} ({state.url}) has all {state.num_objects} objects"
    named, more = ", ".join(state.missing[:_MAX_NAMED]), len(state.missing) - _MAX_NAMED
    return f"remote: {state.name} ({state.url}) lacks {named}{f' and {more} more' if more > 0 else ''}; run `codegen data push`"


@data.command()
def diff(
    before: Annotated[str, typer.Argument(help="A git revision of data.dvc.")] = "HEAD",
    after: Annotated[
        str | None, typer.Argument(help="Another. None: data/ as it lies here.")
    ] = None,
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """The files of data/ that were added, removed, modified or renamed between two versions, in documents."""
    project = load_execution(at).project_path
    from components.data.dvc.dvc_diff import differences

    found = differences(project, before, after)
    if as_json:
        print_json(found)
        return
    if not found.changes:
        console.print(
            f"no file differs between {found.before} and {found.after}",
            soft_wrap=True,
            markup=False,
        )
    for change in found.changes:
        path = f"{change.renamed_from} -> {change.path}" if change.renamed_from else change.path
        documents = _documents(change.num_documents_before, change.num_documents)
        console.print(f"{change.kind:<9} {path}{documents}", soft_wrap=True, markup=False)


def _documents(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        number = after if before is None else before
        return "" if number is None else f"  {number:,} documents"
    return f"  {before:,} documents" if before == after else f"  {before:,} -> {after:,} documents"


@data.command()
def estimate(
    corpus: Annotated[
        str | None, typer.Argument(help="nl, multi or mono. None: all of them.")
    ] = None,
    recipe: RecipeName = "starter",
    sample_mb: SampleMb = _SAMPLE_MB,
    as_json: Json = False,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
) -> None:
    """What preparation will come to, from a sample: documents, rejects, tokens, disk, hours; nothing is prepared."""
    chosen, execution = load_recipe(recipe, sets), load_execution(at)
    from flows.steps.estimate_corpus import estimate_corpora as foretell
    from flows.steps.estimate_corpus import estimate_notes, format_estimate

    if as_json:
        print_json(dict(foretell(chosen, execution, corpus, sample_mb)))
        return
    is_whole = True
    for name, found in foretell(chosen, execution, corpus, sample_mb):
        is_whole &= found.is_whole
        for line in format_estimate(name, found, chosen, execution):
            console.print(line, soft_wrap=True, markup=False)
    for note in estimate_notes(chosen, is_whole):
        console.print(note, soft_wrap=True, markup=False)


@data.command("push-prepared")
def push_prepared(
    root: Root,
    labels: Labels = [],
    recipe: RecipeName = "starter",
    as_json: Json = False,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
) -> None:
    """Copy prepared corpora, and the tokenizer they stand on, to a root that machines share."""
    chosen, execution = load_recipe(recipe, sets), load_execution(at)
    from flows.steps.corpora import push_prepared as share

    _say_copied(share(chosen, execution, root, labels), as_json)


@data.command("pull-prepared")
def pull_prepared(
    root: Root,
    labels: Labels = [],
    recipe: RecipeName = "starter",
    as_json: Json = False,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
) -> None:
    """Copy prepared corpora, and their tokenizer, from a shared root; `codegen prepare` reuses them then."""
    chosen, execution = load_recipe(recipe, sets), load_execution(at)
    from flows.steps.corpora import pull_prepared as share

    _say_copied(share(chosen, execution, root, labels), as_json)


def _say_copied(copied: list[CopyResult], as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    **artifact_summary(one.artifact),
                    "was_there": one.was_there,
                    "num_files": one.num_files,
                }
                for one in copied
            ]
        )
        return
    for one in copied:
        how = (
            "was there"
            if one.was_there
            else f"{one.num_files} of {len(one.artifact.files)} files copied"
        )
        console.print(
            f"{one.artifact.digest[:12]}  {one.artifact.label}  {how}", soft_wrap=True, markup=False
        )


@data.command()
def suites(
    folder: Annotated[Path, typer.Argument(help="Where to; what is there already stays as it is.")],
    at: ExecutionOverrides = [],
) -> None:
    """Copy the rules of validation, Great Expectations suites in JSON, into a folder, to be edited."""
    project = load_execution(at).project_path
    from components.validation.suite_files import copy_suites

    copies = copy_suites(folder)
    for path in copies:
        console.print(f"{path}", soft_wrap=True, markup=False)
    place = folder.resolve()
    given = place.relative_to(project) if place.is_relative_to(project) else place
    how = f"{len(copies)} suites were copied" if copies else f"{folder} has every suite"
    console.print(
        f"{how}; apply them with --set validation.suites={given}", soft_wrap=True, markup=False
    )


@data.command()
def card(
    recipe: RecipeName = "starter", sets: RecipeOverrides = [], at: ExecutionOverrides = []
) -> None:
    """The dataset card of the prepared corpora, in Markdown: sources, licences, sizes, what was left out, digests."""
    chosen, execution = load_recipe(recipe, sets), load_execution(at)
    from flows.steps.corpora import find_corpora
    from flows.steps.prepare_corpora import dataset_card

    typer.echo(
        dataset_card(chosen, execution, find_corpora(chosen, execution, execution.open_store())),
        nl=False,
    )
