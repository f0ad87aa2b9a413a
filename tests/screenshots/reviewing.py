"""Screenshots of docs/reviewing.md: `python tests/screenshots/reviewing.py WORKSPACE`.

WORKSPACE contains two runs of a recipe with different last stages, as described on the page. Needs
Debian's chromium. Check each picture before you commit it; the limit is 200 kB per picture.
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
MAX_BYTES = 200_000
WIDTH = 1280
LOSS = "training_by_tokens/loss"


def main(workspace: Path) -> None:
    """Serve the workspace and take all screenshots."""
    with tracking_server(workspace / "mlflow") as server, tempfile.TemporaryDirectory() as profile:
        client = MlflowClient(server.uri)
        experiment = next(
            experiment for experiment in client.search_experiments() if experiment.name != "Default"
        )
        trained = client.search_runs(
            [experiment.experiment_id], "tags.stage = 'mono' and tags.kind = 'checkpoint'"
        )
        runs = [
            client.get_run(run.info.run_id) for run in trained if run.data.tags["reused"] == "false"
        ]
        with browser(Path(profile), width=WIDTH) as page:
            page.open(server.uri, "Model training", "MLflow Assistant")
            page.click("[aria-label='Close']")  # The panel of the MLflow Assistant.
            page.click("div, span, label", "Model training")
            _take_experiment(page, server.uri, experiment, runs)
            _take_model(page, server.uri, f"{experiment.name}-mono")
    for path in sorted(IMAGES.glob("reviewing-*")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")
        if path.stat().st_size > MAX_BYTES:
            raise SystemExit(f"{path} is larger than {MAX_BYTES:,} bytes")


def _take_experiment(page: Page, uri: str, experiment: Experiment, runs: list[Run]) -> None:
    url = f"{uri}/#/experiments/{experiment.experiment_id}"
    page.open(f"{url}/runs", f"pipeline {experiment.name}")
    _take_screenshot(page, "runs", 400)
    run_ids = quote(json.dumps([run.info.run_id for run in runs]))
    experiment_ids = quote(json.dumps([experiment.experiment_id]))
    page.open(f"{uri}/#/compare-runs?runs={run_ids}&experiments={experiment_ids}", "Parameters")
    page.click("button[role=switch]")
    _take_screenshot(page, "compare", 1400)
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
    query = "&".join(f"{name}={quote(value)}" for name, value in chart.items())
    page.open(
        f"{uri}/#/metric?runs={run_ids}&metric={quote(json.dumps(LOSS))}"
        f"&experiments={experiment_ids}&{query}",
        LOSS,
    )
    _take_screenshot(page, "curves", 800)
    page.open(f"{url}/runs/{runs[0].info.run_id}", "Datasets")
    _take_screenshot(page, "run", 800)
    page.open(f"{url}/models", f"{experiment.name}-mono")
    _take_screenshot(page, "models", 600)
    model_id = runs[0].outputs.model_outputs[0].model_id
    page.open(f"{url}/models/{model_id}", "Datasets used", "bits_per_byte")
    _take_screenshot(page, "model", 1000)


def _take_model(page: Page, uri: str, name: str) -> None:
    page.open(f"{uri}/#/models/{name}", "champion")
    _take_screenshot(page, "versions", 1400)
    page.open(f"{uri}/#/models/{name}/versions/1", "left out by a rule", "Licenses")
    _take_screenshot(page, "card", 1800)


def _take_screenshot(page: Page, name: str, height: int) -> None:
    page.picture(IMAGES / f"reviewing-{name}.webp", WIDTH, height)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
