"""Prometheus metrics of a training and of the completions server."""

from __future__ import annotations

import logging
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from components.core.network import free_port
from components.training.metrics import StepMetrics
from flows.runtime.monitoring import training_metrics
from flows.servers.completion_metrics import CompletionMetrics
from flows.settings.execution import Execution

STEP = StepMetrics(
    step=12,
    tokens=24_576,
    loss=4.25,
    learning_rate=2.5e-4,
    grad_norm=0.9,
    tokens_per_s=7_000.0,
    mfu=0.5,
    elapsed_s=60.0,
    time_left_s=30.0,
)
SKIPPED = STEP.replace(step=13, loss=None, grad_norm=None, skipped=True)


def samples(text: str) -> dict[str, float]:
    """Return the values by metric name, of the last sample of each."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        return str(response.read().decode())


def test_the_steps_of_a_stage_are_exported_until_its_end(tmp_path: Path) -> None:
    port = free_port()
    execution = Execution(project=str(tmp_path), metrics_port=port)
    with training_metrics(execution, "codegen-tiny", "nl", 40) as record:
        record(STEP)
        record(SKIPPED)
        text = scrape(port)
    values = samples(text)
    assert values["codegen_training_step"] == 13
    assert values["codegen_training_steps"] == 40
    assert values["codegen_training_tokens"] == 24_576
    assert values["codegen_training_loss_nats"] == 4.25
    assert values["codegen_training_skipped_batches_total"] == 1
    assert 'codegen_training_step{recipe="codegen-tiny",stage="nl"} 13.0' in text
    with pytest.raises(urllib.error.URLError):
        scrape(port)
    with training_metrics(execution, "codegen-tiny", "multi", 40):  # The port is free again.
        assert 'stage="multi"' in scrape(port)


def test_a_port_in_use_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        execution = Execution(project=str(tmp_path), metrics_port=port)
        with (
            caplog.at_level(logging.WARNING),
            training_metrics(execution, "codegen-tiny", "nl", 40) as record,
        ):
            record(STEP)
    (warning,) = caplog.records
    assert f"127.0.0.1:{port}" in warning.getMessage()


def test_no_port_is_opened_by_default(tmp_path: Path) -> None:
    with training_metrics(Execution(project=str(tmp_path)), "codegen-tiny", "nl", 40) as record:
        record(STEP)


def test_requests_are_counted_by_status_and_only_of_one_path() -> None:
    metrics = CompletionMetrics("adder", "0123")
    app = FastAPI()
    app.add_middleware(metrics.measure, path="/v1/completions")

    @app.get("/v1/completions")
    def complete(fail: bool = False) -> str:
        if fail:
            raise ValueError
        metrics.tokens.inc(5)
        return "text"

    client = TestClient(app, raise_server_exceptions=False)
    for query in ("", "", "?fail=true", "?fail=maybe"):
        client.get(f"/v1/completions{query}")
    client.get("/docs")
    text = metrics.response().body.decode()
    assert 'codegen_requests_total{status="200"} 2.0' in text
    assert 'codegen_requests_total{status="422"} 1.0' in text
    assert 'codegen_requests_total{status="500"} 1.0' in text
    assert 'codegen_model_info{digest="0123",model="adder"} 1.0' in text
    values = samples(text)
    assert values["codegen_completion_tokens_total"] == 10
    assert values["codegen_request_duration_seconds_count"] == 4
    assert values["codegen_active_requests"] == 0
