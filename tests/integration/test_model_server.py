"""`codegen models serve` over REST, with a model that memorized a program."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fixtures.codegen_command import HEAVY, run_codegen
from fixtures.doc_commands import WAIT_S, environment
from fixtures.models import write_reciting

from components.core.http_guard import LOOPBACK_NAMES
from components.core.network import free_port
from flows.servers.completions import host_names

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PROGRAM = "def add(a, b):\n    return a + b\n"
GREEDY = {"prompt": "def add(a", "temperature": 0, "max_tokens": 32}


class Server(NamedTuple):
    """A running model server."""

    process: subprocess.Popen[str]
    folder: Path
    port: int

    def get(self, path: str) -> Any:
        return json.loads(self.get_text(path))

    def get_text(self, path: str) -> str:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}{path}", timeout=WAIT_S
        ) as answer:
            return str(answer.read().decode())

    def complete(self, body: Any) -> tuple[int, Any]:
        """Return status and response of a completion request; a string is sent unchanged."""
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        address = f"http://127.0.0.1:{self.port}/v1/completions"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(address, data, {"content-type": "application/json"}),
                timeout=WAIT_S,
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("served-model"), free_port()
    write_reciting(folder / "adder", PROGRAM)
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "models",
        "serve",
        str(folder / "adder"),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*command, "--exec", f"project={folder}"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = Server(process, folder, port)
    try:
        _wait_for(running)
        yield running
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert output.count("\n") == 2, output  # The address and the end, and no traceback.
    assert f"http://127.0.0.1:{port}/v1/completions" in output


def _wait_for(server: Server) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        assert server.process.poll() is None, server.process.stdout and server.process.stdout.read()
        assert time.monotonic() < deadline
        try:
            assert server.get("/health") == {"status": "ok"}
        except OSError:
            time.sleep(0.3)
        else:
            return


def test_a_completion_ends_at_the_end_of_text_token(server: Server) -> None:
    status, response = server.complete(GREEDY)
    (choice,) = response["choices"]
    assert (status, "def add(a" + choice["text"], choice["finish_reason"]) == (200, PROGRAM, "stop")
    (model,) = server.get("/v1/models")["data"]
    assert (response["model"], response["digest"]) == (model["id"], model["digest"])
    assert 'codegen_requests_total{status="200"} 1.0' in server.get_text("/metrics")


def test_a_completion_ends_at_a_stop_text_or_at_max_tokens(server: Server) -> None:
    _, stopped = server.complete({**GREEDY, "stop": ["+", "return"]})
    _, short = server.complete({**GREEDY, "max_tokens": 2})
    choices = [response["choices"][0] for response in (stopped, short)]
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
        (", b):\n    ", "stop"),
        (", b", "length"),
    ]


def test_concurrent_requests_get_the_same_completions_as_sequential_requests(
    server: Server,
) -> None:
    bodies = [
        {**GREEDY, "temperature": 2.0, "n": 3, "seed": seed, "truncate": False} for seed in range(4)
    ]

    def texts(body: dict[str, Any]) -> list[str]:
        return [choice["text"] for choice in server.complete(body)[1]["choices"]]

    expected = [texts(body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as clients:
        assert list(clients.map(texts, bodies)) == expected
    distinct = {text for completions in expected for text in completions}
    assert len(distinct) > len(bodies)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({**GREEDY, "stream": True}, 422, "stream"),
        ({"max_tokens": 3}, 422, "prompt"),
        ({**GREEDY, "prompt": ""}, 422, "prompt"),
        ({**GREEDY, "n": 1000}, 422, "128"),
        ({**GREEDY, "stop": ["x"] * 17}, 422, "stop"),
        ('{"prompt": "a", "temperature": NaN}', 422, "temperature"),
        ('{"prompt": "a", "temperature": 1e999}', 422, "temperature"),
        ('{"prompt": "\\ud800"}', 422, "prompt"),
        ('{"prompt": "a", "\\ud800": 1}', 422, "unicode"),
        ("{", 422, "JSON"),
        ({**GREEDY, "max_tokens": 64}, 400, "context of 64 tokens"),
    ],
)
def test_an_invalid_request_is_rejected_with_the_reason(
    server: Server, body: Any, status: int, word: str
) -> None:
    got, response = server.complete(body)
    assert got == status
    assert word in response["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "evil.example"}, 403),  # After DNS rebinding.
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"host": "localhost", "origin": "http://localhost"}, 200),
        ({"host": "localhost:8000"}, 200),  # Through a tunnel.
    ],
)
def test_foreign_hosts_and_origins_are_refused(
    server: Server, headers: dict[str, str], expected: int
) -> None:
    address = f"http://127.0.0.1:{server.port}/v1/completions"
    all_headers = {"content-type": "application/json", **headers}
    request = urllib.request.Request(address, json.dumps(GREEDY).encode(), all_headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    assert status == expected


def test_beyond_loopback_the_names_of_the_machine_are_allowed() -> None:
    names = host_names("0.0.0.0", ["proxy.example"])  # noqa: S104 - what --host takes
    assert {"127.0.0.1", "localhost", "[::1]", "proxy.example", socket.gethostname()} <= names
    assert "evil.example" not in names
    assert host_names("127.0.0.1") == LOOPBACK_NAMES


def test_invalid_arguments_are_errors_of_three_lines(server: Server, tmp_path: Path) -> None:
    model = server.folder / "adder"
    messages = {  # 192.0.2.1 is an address of no machine: RFC 5737.
        f"models serve {model} --port {server.port}": "Address already in use",
        f"models serve {model} --port {free_port()} --host 192.0.2.1": "192.0.2.1",
        "models serve absent@champion": "absent@champion",
        "models serve absent": "there is no model 'absent'",
        f"complete {os.fsdecode(bytes([255]))} --model {model}": "the prompt is not UTF-8",
    }
    options = {"cwd": tmp_path, "environment": environment(), "preload": (*HEAVY, "uvicorn")}
    for line, word in messages.items():
        result = run_codegen(*line.split(), **options)
        assert (result.returncode, result.stdout) == (1, ""), (line, result)
        assert result.stderr.count("\n") == 3, (line, result)
        assert word in result.stderr
    command = f"models serve {model} --port 65536"
    assert run_codegen(*command.split(), **options).returncode == 2
