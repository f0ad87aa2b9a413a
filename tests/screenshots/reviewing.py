"""The pictures of docs/reviewing.md, taken again: `python tests/screenshots/reviewing.py WORKSPACE`.

WORKSPACE is that of two runs of one recipe whose last stage differs, as the page says. Needs Debian's chromium. Look at each
picture before it is committed; none may be larger than 200 kB.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parents[1]))  # Helpers are imported as the tests do.

from fixtures.browser import Page, browser
from fixtures.tracking_server import tracking_server
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES = 200_000
WIDTH = 1280
LOSS = "training_by_tokens/loss"


def main(workspace: Path) -> None:
    """Serve what is in the workspace, and take every picture."""
    with tracking_server(workspace / "mlflow") as server, tempfile.TemporaryDirectory() as profile:
        client = MlflowClient(server.uri)
        experiment = next(one for one in client.search_experiments() if one.name != "Default")
        trained = client.search_runs(
            [experiment.experiment_id], "tags.stage = 'mono' and tags.kind = 'checkpoint'"
        )
        runs = [
            client.get_run(run.info.run_id) for run in trained if run.data.tags["reused"] == "false"
        ]
        with browser(Path(profile), width=WIDTH) as page:
            page.open(server.uri, "Model training", "MLflow Assistant")
            page.click("[aria-label='Close']")  # A panel for questions to a model of MLflow's own.
            page.click("div, span, label", "Model training")
            _experiment(page, server.uri, experiment, runs)
            _model(page, server.uri, f"{experiment.name}-mono")
    for path in sorted(IMAGES.glob("reviewing-*")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")
        if path.stat().st_size > MOST_BYTES:
            raise SystemExit(f"{path} is larger than {MOST_BYTES:,} bytes")


def _experiment(page: Page, uri: str, experiment: Experiment, runs: list[Run]) -> None:
    place = f"{uri}/#/experiments/{experiment.experiment_id}"
    page.open(f"{place}/runs", f"pipeline {experiment.name}")
    _picture(page, "runs", 400)
    ids, where = (
        quote(json.dumps([run.info.run_id for run in runs])),
        quote(json.dumps([experiment.experiment_id])),
    )
    page.open(f"{uri}/#/compare-runs?runs={ids}&experiments={where}", "Parameters")
    page.click("button[role=switch]")
    _picture(page, "compare", 1400)
    chart = {
        "plot_metric_keys": json.dumps([LOSS]),
        "plot_layout": json.dumps({"autosize": True, "xaxis": {}, "yaxis": {}}),
        "x_axis": "step",
        "y_axis_scale": "linear",
        "line_smoothness": "1",
        "show_point": "true",
        "deselected_curves": "[]",
        "last_linear_y_axis_range": "[]",
    }
    shown = "&".join(f"{name}={quote(value)}" for name, value in chart.items())
    page.open(
        f"{uri}/#/metric?runs={ids}&metric={quote(json.dumps(LOSS))}&experiments={where}&{shown}",
        LOSS,
    )
    _picture(page, "curves", 800)
    page.open(f"{place}/runs/{runs[0].info.run_id}", "Datasets")
    _picture(page, "run", 800)
    page.open(f"{place}/models", f"{experiment.name}-mono")
    _picture(page, "models", 600)
    model_id = runs[0].outputs.model_outputs[0].model_id
    page.open(f"{place}/models/{model_id}", "Datasets used", "bits_per_byte")
    _picture(page, "model", 1000)


def _model(page: Page, uri: str, name: str) -> None:
    page.open(f"{uri}/#/models/{name}", "champion")
    _picture(page, "versions", 1400)
    page.open(f"{uri}/#/models/{name}/versions/1", "left out by a rule", "Licenses")
    _picture(page, "card", 1800)


def _picture(page: Page, name: str, height: int) -> None:
    page.picture(IMAGES / f"reviewing-{name}.webp", WIDTH, height)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
