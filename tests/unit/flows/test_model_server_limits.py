"""Limits of `codegen models serve`: hostile and slow clients, a real model and real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from fixtures.models import write_reciting

from components.core.network import free_port
from components.evaluation.sampling.sampler import Sampler
from flows.servers.completions import create_app
from flows.servers.request_limits import BodyLimit, RequestLimits, server_config

PROGRAM = "def add(a, b):\n    return a + b\n"
GREEDY = {"prompt": "def add(a", "temperature": 0, "max_tokens": 32}
DEEP = "[" * 100_000 + "]" * 100_000

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    return Sampler(write_reciting(tmp_path_factory.mktemp("checkpoint"), PROGRAM))


@pytest.fixture(scope="module")
def client(sampler: Sampler) -> TestClient:
    return client_of(sampler, RequestLimits())


def client_of(sampler: Sampler, limits: RequestLimits) -> TestClient:
    app = create_app(sampler, "adder", "digest", limits=limits)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def complete(client: TestClient, body: dict[str, Any] | str | bytes) -> tuple[int, Any]:
    content = json.dumps(body) if isinstance(body, dict) else body
    headers = {"content-type": "application/json"}
    response = client.post("/v1/completions", content=content, headers=headers)
    return response.status_code, response.json()


# The fields of the completions API of OpenAI with values that change nothing.
NEUTRAL: list[dict[str, Any]] = [
    {"stream": False},
    {"frequency_penalty": 0, "presence_penalty": 0.0},
    {"n": None},
    {"prompt": ["def add(a"], "n": 1, "logit_bias": {}, "top_p": 1},
    {"logprobs": None, "echo": False, "suffix": None, "best_of": 1, "user": "ada"},
    {"stream_options": None, "stop": None, "seed": None, "logit_bias": None, "model": None},
    {"suffix": "", "stop": [], "temperature": 0.0},
]


@pytest.mark.parametrize("fields", NEUTRAL, ids=str)
def test_neutral_fields_change_nothing(client: TestClient, fields: dict[str, Any]) -> None:
    status, response = complete(client, {**GREEDY, **fields})
    assert status == 200, response
    assert "def add(a" + response["choices"][0]["text"] == PROGRAM


def test_best_of_n_is_neutral(client: TestClient) -> None:
    status, response = complete(client, {**GREEDY, "n": 2, "best_of": 2})
    assert (status, len(response["choices"])) == (200, 2)


UNSUPPORTED: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": 5,
    "echo": True,
    "suffix": "return",
    "best_of": 3,
    "logit_bias": {"50256": -100},
    "presence_penalty": 0.5,
    "frequency_penalty": "0",
    "prompt": ["a", "b"],
    "functions": [],
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_value_is_refused_by_name(client: TestClient, name: str) -> None:
    status, response = complete(client, {**GREEDY, name: UNSUPPORTED[name]})
    assert status == 422
    assert name in response["error"]["message"]


HOSTILE: dict[str, str | bytes | dict[str, Any]] = {
    "deep list": DEEP,
    "deep field": f'{{"prompt": "a", "meta": {DEEP}}}',
    "deep prompt": '{"prompt": ' + '{"a":' * 900 + "1" + "}" * 901,
    "not UTF-8": b"\xff\xfe",
    "not UTF-8 inside": b'{"prompt": "\xff"}',
    "empty": "",
    "many digits": '{"prompt": "a", "max_tokens": ' + "9" * 5000 + "}",
    "null": "null",
    "a list": "[1]",
    "seed too large": {**GREEDY, "seed": 2**63},
    "negative seed": {**GREEDY, "seed": -1},
    "no temperature": {**GREEDY, "temperature": 5e-324},
    "NaN": '{"prompt": "a", "temperature": NaN}',
    "infinite top_p": '{"prompt": "a", "top_p": Infinity}',
    "many stops": {**GREEDY, "stop": ["x"] * 17},
    "long prompt": {**GREEDY, "prompt": "a" * 1_000_001},
    "tokens": {**GREEDY, "prompt": [1, 2]},
    "large body": "x" * 8_000_001,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_request_gets_an_error_and_the_next_a_completion(
    client: TestClient, name: str
) -> None:
    status, response = complete(client, HOSTILE[name])
    assert status == (413 if name == "large body" else status)
    assert 400 <= status < 500, response
    assert response["error"]["message"]
    assert len(response["error"]["message"]) < 1000
    assert complete(client, GREEDY)[0] == 200


def test_too_many_requests_are_refused(sampler: Sampler) -> None:
    status, response = complete(client_of(sampler, RequestLimits(max_requests=0)), GREEDY)
    assert (status, response["error"]["type"]) == (429, "HTTPException")


def test_a_completion_that_takes_too_long_is_ended(sampler: Sampler) -> None:
    client = client_of(sampler, RequestLimits(timeout_s=-1))
    status, response = complete(client, GREEDY)
    assert status == 504
    assert "no completion within" in response["error"]["message"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_refused_while_it_is_received(announced: bool) -> None:
    """By its announced size before any byte, else after the limit."""
    num_received = 0

    async def receive() -> dict[str, Any]:
        nonlocal num_received
        num_received += 1
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    headers = [(b"content-length", b"1000")] if announced else []
    assert _status(receive, headers, RequestLimits(max_body_bytes=100)) == 413
    assert num_received == (0 if announced else 11)


def test_a_body_that_does_not_end_is_refused() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    assert _status(receive, [], RequestLimits(receive_timeout_s=0)) == 408


def _status(receive: Any, headers: list[tuple[bytes, bytes]], limits: RequestLimits) -> int:
    """Return the status of the middleware around an application that is not reached."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(*_: Any) -> None:
        raise AssertionError("reached")

    asyncio.run(BodyLimit(app, limits=limits)({"type": "http", "headers": headers}, receive, send))
    return int(sent[0]["status"])


@contextmanager
def serving(sampler: Sampler, limits: RequestLimits) -> Iterator[int]:
    """Run a server in a thread; yields its port."""
    port = free_port()
    app = create_app(sampler, "adder", "digest", limits=limits)
    config = server_config(app, limits)
    config.host, config.port = "127.0.0.1", port
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join()


def _post(port: int, body: str) -> bytes:
    return (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _read_all(connection: socket.socket) -> bytes:
    connection.settimeout(120)
    chunks = iter(lambda: connection.recv(1 << 16), b"")
    return b"".join(chunks)


def test_clients_that_leave_or_send_no_header_do_not_block_others(sampler: Sampler) -> None:
    with serving(sampler, RequestLimits(receive_timeout_s=1)) as port:
        address = ("127.0.0.1", port)
        long_request = json.dumps({**GREEDY, "n": 128, "temperature": 2.0, "truncate": False})
        for _ in range(3):
            with socket.create_connection(address) as leaving:
                leaving.sendall(_post(port, long_request))
        with socket.create_connection(address) as silent, socket.create_connection(address) as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost:")
            with socket.create_connection(address) as client:
                client.sendall(_post(port, json.dumps(GREEDY)))
                response = _read_all(client)  # Until the server closes the connection.
            assert response.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in response.lower()
            assert _read_all(silent) == b""
            assert _read_all(slow) == b""
