"""`codegen models serve` over REST: a model that knows one program by heart, asked by several clients, and ended."""

from __future__ import annotations

import json
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
from fixtures.doc_commands import WAIT_S, environment, run_shell
from fixtures.models import write_reciting

from components.core.http_guard import LOOPBACK_NAMES
from components.core.network import free_port
from flows.servers.completions import host_names

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PROGRAM = "def add(a, b):\n    return a + b\n"
LIKELIEST = {"prompt": "def add(a", "temperature": 0, "max_tokens": 32}


class Server(NamedTuple):
    """A running one."""

    process: subprocess.Popen[str]
    folder: Path
    port: int

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}{path}", timeout=WAIT_S
        ) as answer:
            return json.load(answer)

    def ask(self, body: Any) -> tuple[int, Any]:
        """Status and answer to a request for completions; text is sent as it is."""
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
    one = Server(process, folder, port)
    try:
        _wait_for(one)
        yield one
    finally:
        process.terminate()
        printed, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, printed
    assert printed.count("\n") == 1, (
        printed
    )  # Where it listened, and not a traceback in all that was asked.
    assert f"http://127.0.0.1:{port}/v1/completions" in printed


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


def test_a_completion_ends_where_the_model_ends_it(server: Server) -> None:
    status, answer = server.ask(LIKELIEST)
    (choice,) = answer["choices"]
    assert (status, "def add(a" + choice["text"], choice["finish_reason"]) == (200, PROGRAM, "stop")
    (model,) = server.get("/v1/models")["data"]
    assert (answer["model"], answer["digest"]) == (model["id"], model["digest"])


def test_it_ends_before_a_stop_and_when_tokens_run_out(server: Server) -> None:
    _, stopped = server.ask({**LIKELIEST, "stop": ["+", "return"]})
    _, short = server.ask({**LIKELIEST, "max_tokens": 2})
    ends = [
        (one["choices"][0]["text"], one["choices"][0]["finish_reason"]) for one in (stopped, short)
    ]
    assert ends == [(", b):\n    ", "stop"), (", b", "length")]


def test_requests_at_once_get_what_each_would_get_alone(server: Server) -> None:
    asked = [
        {**LIKELIEST, "temperature": 2.0, "n": 3, "seed": seed, "truncate": False}
        for seed in range(4)
    ]

    def texts(body: dict[str, Any]) -> list[str]:
        return [one["text"] for one in server.ask(body)[1]["choices"]]

    alone = [texts(one) for one in asked]
    with ThreadPoolExecutor(len(asked)) as clients:
        assert list(clients.map(texts, asked)) == alone
    assert len({text for some in alone for text in some}) > len(asked)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({**LIKELIEST, "stream": True}, 422, "stream"),
        ({"max_tokens": 3}, 422, "prompt"),
        ({**LIKELIEST, "prompt": ""}, 422, "prompt"),
        ({**LIKELIEST, "n": 1000}, 422, "128"),
        ({**LIKELIEST, "stop": ["x"] * 17}, 422, "stop"),
        ('{"prompt": "a", "temperature": NaN}', 422, "temperature"),
        ('{"prompt": "a", "temperature": 1e999}', 422, "temperature"),
        ('{"prompt": "\\ud800"}', 422, "prompt"),
        ('{"prompt": "a", "\\ud800": 1}', 422, "unicode"),
        ("{", 422, "JSON"),
        ({**LIKELIEST, "max_tokens": 64}, 400, "context of 64 tokens"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    server: Server, body: Any, status: int, word: str
) -> None:
    got, answer = server.ask(body)
    assert got == status
    assert word in answer["error"]["message"]


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
def test_no_web_page_can_use_the_model(
    server: Server, headers: dict[str, str], expected: int
) -> None:
    address = f"http://127.0.0.1:{server.port}/v1/completions"
    sent = {"content-type": "application/json", **headers}
    request = urllib.request.Request(address, json.dumps(LIKELIEST).encode(), sent)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    assert status == expected


def test_beyond_loopback_it_answers_to_the_names_of_the_machine() -> None:
    names = host_names("0.0.0.0", ["proxy.example"])  # noqa: S104 - what --host takes
    assert {"127.0.0.1", "localhost", "[::1]", "proxy.example", socket.gethostname()} <= names
    assert "evil.example" not in names
    assert host_names("127.0.0.1") == LOOPBACK_NAMES


def test_what_cannot_be_served_is_said_in_three_lines(server: Server, tmp_path: Path) -> None:
    model = server.folder / "adder"
    wrong = {
        f"codegen models serve {model} --port {server.port}": "Address already in use",
        f"codegen models serve {model} --port {free_port()} --host 192.0.2.1": "192.0.2.1",  # Of no machine: RFC 5737.
        "codegen models serve nobody@champion": "the registry has no nobody@champion",
        "codegen models serve nobody": "there is no model 'nobody'",
        f"codegen complete $'\\xff' --model {model}": "the prompt is not UTF-8",
    }
    for line, word in wrong.items():
        done = run_shell(line, tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 3), (line, done)
        assert word in done.stderr
    assert run_shell(f"codegen models serve {model} --port 65536", tmp_path).returncode == 2
