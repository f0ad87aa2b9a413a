"""The sections on the programs that the models write: one per benchmark, and what some of the programs look like."""

from __future__ import annotations

from components.core.store import Store
from components.evaluation.report.functions import humaneval_section
from components.evaluation.report.gallery import samples_section
from components.evaluation.report.page import Section
from components.evaluation.report.results import RunResults
from components.evaluation.report.turns import mtpb_section


def program_sections(results: RunResults, store: Store) -> tuple[Section, ...]:
    """HumanEval, MTPB, and samples."""
    return (
        humaneval_section(results, store),
        mtpb_section(results, store),
        samples_section(results, store),
    )
