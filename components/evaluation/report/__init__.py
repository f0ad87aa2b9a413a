"""The page of results: one HTML file that loads nothing, the same for a terminal, and a page of samples beside it.

Both are rendered from one page of plain values (`page.py`), which is composed from the artifacts of a run and from nothing
else. Reading artifacts is all it does: no figure is measured here. Not covered: comparing several runs (that is MLflow's).
"""

from components.evaluation.report.html import render_html, render_samples
from components.evaluation.report.results import RegisteredVersion, RunResults
from components.evaluation.report.text import render_rich, render_text

__all__ = [
    "RegisteredVersion",
    "RunResults",
    "render_html",
    "render_rich",
    "render_samples",
    "render_text",
]
