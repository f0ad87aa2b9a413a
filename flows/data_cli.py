"""`codegen data ...`: the raw corpora, which DVC versions, and the prepared ones, which machines share.

Every command is a thin call of a flow or a component; heavy libraries are imported inside the command that needs them.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.core.errors import DataError, RemoteError
from flows.options import Places, RecipeName, Sets, chosen_execution, chosen_recipe, console
from flows.recipes import recipe as recipe_of

if TYPE_CHECKING:
    from components.core.transfer import Copied

data = typer.Typer(no_args_is_help=True, help="The raw corpora in data/, versioned by DVC, and what was prepared from them.")

_MAX_NAMED = 5
"""Files that a line names before it only counts."""
_SAMPLE_MB = 64
"""A minute's work at most on two cores (measured: 5 MB/s on a busy machine)."""


class From(StrEnum):
    """Where a pull takes its bytes from."""

    auto = "auto"
    remote = "remote"
    archives = "archives"


Origin = Annotated[From, typer.Option("--from", help="DVC's remote, the pinned archives, or whichever has the bytes.")]
Root = Annotated[str, typer.Argument(help="The shared root: a folder or any fsspec URI, s3://bucket/prefix.")]
SampleMb = Annotated[int, typer.Option(help="MB of text to read of each corpus, from the beginnings of its files.")]
Labels = Annotated[list[str], typer.Argument(help="prepared-corpus/NAME-RECIPE, as a run prints it. None: the recipe's.")]


@data.command()
def pull(preset: str = "starter", origin: Origin = From.auto, at: Places = []) -> None:  # noqa: B006 - Typer copies it
    """Bring a preset's bytes into data/, from DVC's remote or the pinned archives, and commit their md5 with DVC."""
    chosen = recipe_of("starter").override([f"data.preset={preset}"])
    execution = chosen_execution(at)
    from flows.prepare import pull as pull_data

    console.print(pull_data(chosen, execution, origin.value).summary, soft_wrap=True, markup=False)


@data.command()
def push(at: Places = []) -> None:  # noqa: B006
    """Send the committed bytes of data/ to DVC's default remote; what it has is not sent again."""
    project = chosen_execution(at).project_path
    from components.data import remote

    done = remote.push(project)
    sent = f"{done.num_sent} of {done.num_objects} objects were sent" if done.num_sent else "nothing was to be sent"
    console.print(f"the DVC remote {done.name} ({done.url}) has everything: {sent}", soft_wrap=True, markup=False)


@data.command()
def status(at: Places = []) -> None:  # noqa: B006
    """Whether data/ is what data.dvc commits, and whether DVC's remote has it all; names the files that are not."""
    project = chosen_execution(at).project_path
    from components.data import versioning

    versioning.require_dvc(project)
    committed = versioning.committed(project)
    if committed is None and (project / versioning.DATA_DVC).exists():
        raise DataError(
            "data.dvc is damaged: it states no md5 of data/",
            expected="a file that DVC wrote whole",
            do="take it back from git, or write it anew with `codegen data pull`",
        )
    if committed is None:
        raise DataError("data.dvc does not exist", expected="the md5 of a pulled corpus", do="run `codegen data pull`")
    clean = versioning.is_clean(project)
    if clean:
        console.print(f"clean: preset {committed.preset}, md5 {committed.md5}")
    console.print(_remote_line(project), soft_wrap=True, markup=False)
    if not clean:
        changed = ", ".join(versioning.changed_paths(project)) or "files are missing"
        raise DataError(
            f"data/ or DVC's cache is not as committed: {changed}",
            expected=f"the preset {committed.preset}, md5 {committed.md5}",
            do="run `codegen data pull`, or `dvc add data` where the change is meant",
        )


def _remote_line(project: Path) -> str:
    """What to say of the remote. That it does not answer is no fault of data/."""
    from components.data import remote

    try:
        state = remote.remote_state(project)
    except RemoteError as error:
        return f"remote: unknown, {error.got}"
    if state is None:
        return "remote: none is configured (`dvc remote add --default NAME URL`)"
    if not state.lacking:
        return f"remote: {state.name} ({state.url}) has all {state.num_objects} objects"
    named, more = ", ".join(state.lacking[:_MAX_NAMED]), len(state.lacking) - _MAX_NAMED
    return (
        f"remote: {state.name} ({state.url}) lacks {named}{f' and {more} more' if more > 0 else ''}; run `codegen data push`"
    )


@data.command()
def diff(
    before: Annotated[str, typer.Argument(help="A git revision of data.dvc.")] = "HEAD",
    after: Annotated[str | None, typer.Argument(help="Another. None: data/ as it lies here.")] = None,
    at: Places = [],  # noqa: B006
) -> None:
    """The files of data/ that were added, removed, modified or renamed between two versions, in documents."""
    project = chosen_execution(at).project_path
    from components.data.differences import differences

    found = differences(project, before, after)
    if not found.changes:
        console.print(f"no file differs between {found.before} and {found.after}", soft_wrap=True, markup=False)
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
    corpus: Annotated[str | None, typer.Argument(help="nl, multi or mono. None: all of them.")] = None,
    recipe: RecipeName = "starter",
    sample_mb: SampleMb = _SAMPLE_MB,
    sets: Sets = [],  # noqa: B006
    at: Places = [],  # noqa: B006
) -> None:
    """What preparation will come to, from a sample: documents, rejects, tokens, disk, hours; nothing is prepared."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at)
    from flows.estimate import described, notes
    from flows.estimate import estimate as foretell

    is_whole = True
    for name, found in foretell(chosen, execution, corpus, sample_mb):
        is_whole &= found.is_whole
        for line in described(name, found, chosen, execution):
            console.print(line, soft_wrap=True, markup=False)
    for note in notes(chosen, is_whole):
        console.print(note, soft_wrap=True, markup=False)


@data.command("push-prepared")
def push_prepared(
    root: Root,
    labels: Labels = [],  # noqa: B006
    recipe: RecipeName = "starter",
    sets: Sets = [],  # noqa: B006
    at: Places = [],  # noqa: B006
) -> None:
    """Copy prepared corpora, and the tokenizer they stand on, to a root that machines share."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at)
    from flows.sharing import push_prepared as share

    _say_copied(share(chosen, execution, root, labels))


@data.command("pull-prepared")
def pull_prepared(
    root: Root,
    labels: Labels = [],  # noqa: B006
    recipe: RecipeName = "starter",
    sets: Sets = [],  # noqa: B006
    at: Places = [],  # noqa: B006
) -> None:
    """Copy prepared corpora, and their tokenizer, from a shared root; `codegen prepare` reuses them then."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at)
    from flows.sharing import pull_prepared as share

    _say_copied(share(chosen, execution, root, labels))


def _say_copied(copied: list[Copied]) -> None:
    for one in copied:
        how = "was there" if one.was_there else f"{one.num_files} of {len(one.artifact.files)} files copied"
        console.print(f"{one.artifact.digest[:12]}  {one.artifact.label}  {how}", soft_wrap=True, markup=False)


@data.command()
def suites(
    folder: Annotated[Path, typer.Argument(help="Where to; what is there already stays as it is.")],
    at: Places = [],  # noqa: B006
) -> None:
    """Copy the rules of validation, Great Expectations suites in JSON, into a folder, to be edited."""
    project = chosen_execution(at).project_path
    from components.validation.suite_files import copy_suites

    copies = copy_suites(folder)
    for path in copies:
        console.print(f"{path}", soft_wrap=True, markup=False)
    place = folder.resolve()
    given = place.relative_to(project) if place.is_relative_to(project) else place
    how = f"{len(copies)} suites were copied" if copies else f"{folder} has every suite"
    console.print(f"{how}; apply them with --set validation.suites={given}", soft_wrap=True, markup=False)


@data.command()
def card(recipe: RecipeName = "starter", sets: Sets = [], at: Places = []) -> None:  # noqa: B006
    """The dataset card of the prepared corpora, in Markdown: sources, licences, sizes, what was left out, digests."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at)
    from flows.corpora import dataset_card, find

    typer.echo(dataset_card(chosen, execution, find(chosen, execution, execution.open_store())), nl=False)
