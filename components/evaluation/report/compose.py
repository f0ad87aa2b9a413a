"""The page, section by section, in the order in which a person asks: what came of it, from what, how good, how made."""

from __future__ import annotations

from components.core.store import Store
from components.evaluation.report.bits import bits_section
from components.evaluation.report.corpus import corpus_section
from components.evaluation.report.headline import headline, summary_section
from components.evaluation.report.lineage import lineage_section
from components.evaluation.report.making import (
    commands_section,
    commit_of,
    provenance_section,
    steps_section,
)
from components.evaluation.report.page import Page
from components.evaluation.report.programs import program_sections
from components.evaluation.report.results import RunResults
from components.evaluation.report.training import training_section
from components.evaluation.report.wording import duration


def compose(results: RunResults, store: Store) -> Page:
    """Read the artifacts of a run and say what they hold.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    return Page(
        title=f"Results of {results.recipe}",
        subtitle=_subtitle(results),
        headline=headline(results),
        sections=(
            summary_section(results, store),
            lineage_section(results),
            corpus_section(results, store),
            training_section(results, store),
            bits_section(results, store),
            *program_sections(results, store),
            steps_section(results, store),
            provenance_section(results),
            commands_section(results),
        ),
    )


def _subtitle(results: RunResults) -> str:
    """When this run began, how long it took, from which commit and where."""
    made_by = results.made_by
    code = commit_of(made_by)
    parts = [
        f"run begun {made_by.get('created_at', 'at an unknown time')}",
        f"took {duration(results.total_s)}",
        f"commit {code.text}" + (f" {code.note}" if code.note else ""),
        str(made_by.get("host", "")),
    ]
    return " \u00b7 ".join(part for part in parts if part)
