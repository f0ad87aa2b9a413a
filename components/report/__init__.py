"""The results report: an HTML file without external resources, a terminal version, and a page of
samples.

Sections are built from the artifacts of a run as plain data (`page.py`, `table.py`, `charts.py`)
and rendered with Jinja2 templates. The report reads artifacts and measures nothing. Comparing
several runs is MLflow's job.
"""

from components.report.rendering import render_html, render_samples, render_text
from components.report.results import RegisteredVersion, RunResults

__all__ = ["RegisteredVersion", "RunResults", "render_html", "render_samples", "render_text"]
