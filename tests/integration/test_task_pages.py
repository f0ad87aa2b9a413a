"""Every command, in order, of the pages on adding a corpus, a model size or a benchmark and on
using a model."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fixtures.doc_commands import WAIT_S, environment, page_commands, page_python, run_shell
from fixtures.models import write_reciting
from fixtures.projects import new_project
from fixtures.registered_models import register_champion
from fixtures.synthetic_code import program

from components.core.network import free_port
from components.core.store import Store
from components.data.sources.config import Source
from components.model.huggingface import load_config
from flows.settings import recipes
from flows.settings.execution import Execution

if TYPE_CHECKING:
    from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]

ADDER = "def add(a, b):\n    return a + b\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that all pages share."""
    return new_project(tmp_path_factory.mktemp("pages") / "project")


@pytest.fixture(scope="module")
def overrides(fixture_archives: FixtureArchives) -> list[str]:
    return [f"pins={fixture_archives.folder / 'pins.json'}", f"archives={fixture_archives.folder}"]


def _recipe_of(page: str, function: str) -> recipes.Recipe:
    """Run a function of a page as if it were in `flows/settings/recipes.py`."""
    names = dict(vars(recipes))
    exec(page_python(page), names)
    recipe: recipes.Recipe = names[function]()
    return recipe


def test_adding_a_corpus(folder: Path, overrides: list[str]) -> None:
    for number in range(200):
        file = folder / "checkouts" / f"repository{number % 4}" / f"module{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(program("Python", f"mine {number}"))
    commands = page_commands("adding-a-corpus.md")
    read_only = [line for line in commands if line.startswith("codegen recipe")]
    assert run_shell(read_only, folder).returncode == 0  # These commands have no --exec.
    result = run_shell([line for line in commands if line not in read_only], folder, overrides)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "repository3" in result.stdout
    corpus = next(
        artifact
        for artifact in Store(folder / "var/store").list_artifacts()
        if (artifact.kind, artifact.name) == ("prepared-corpus", "mono")
    )
    languages = corpus.statistics["languages"]
    assert isinstance(languages, dict)
    assert languages["Python"]["documents"] == 200
    assert _recipe_of("adding-a-corpus.md", "mine").data.declared_sources == {
        "mono": (Source(uri="/data/checkouts/*/"),)
    }


def test_adding_a_model_size(folder: Path, overrides: list[str]) -> None:
    commands = page_commands("adding-a-model-size.md")
    read_only = [line for line in commands if line.startswith(("codegen recipe", "codegen plan"))]
    description = run_shell(read_only, folder)  # These commands have no --exec.
    assert description.returncode == 0, description.stderr
    result = run_shell([line for line in commands if line not in read_only], folder, overrides)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "codegen-1b: 1.4" in description.stdout
    assert "codegen run -r 350m --set name=codegen-1b" in description.stdout
    checkpoint = next(
        artifact
        for artifact in Store(folder / "var/store").list_artifacts()
        if artifact.name == "try-nl"
    )
    assert checkpoint.label in result.stdout
    assert load_config(Path(checkpoint.address)).num_layers == 3
    assert _recipe_of("adding-a-model-size.md", "codegen_1b").model.d_model == 2048


def test_adding_a_benchmark(folder: Path) -> None:
    write_reciting(folder / "models" / "adder", ADDER)
    result = run_shell(page_commands("adding-a-benchmark.md"), folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(re.findall(r"pass@1 +100\.00 %", result.stdout)) == 3, result.stdout


def test_using_a_model(folder: Path) -> None:
    execution = Execution(project=str(folder), workspace="used")
    champion = register_champion(execution, "codegen-tiny-mono", ADDER)
    lines = page_commands("using-a-model.md")
    (serve,) = (line for line in lines if "models serve" in line)
    before, after = lines[: lines.index(serve)], lines[lines.index(serve) + 1 :]
    result = run_shell(before, folder, ["workspace=used"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(ADDER)
    with _server(serve, folder) as port:
        curls = [line.replace(":8000/", f":{port}/") for line in after if line.startswith("curl ")]
        assert len(curls) == 3
        completion, models, health = (json.loads(_curl(line)) for line in curls)
    assert completion["choices"][0]["text"] == ADDER.removeprefix("def add(a, b):")
    assert models["data"][0]["digest"] == completion["digest"] == champion.digest
    assert health == {"status": "ok"}
    others = [line for line in after if not line.startswith("curl ")]
    assert run_shell(others, folder, ["workspace=used"]).returncode == 0
    assert load_config(folder / "out" / "mono").context_length == 256


@contextmanager
def _server(line: str, folder: Path) -> Iterator[int]:
    """Start the server of a command of a page, and yield its port."""
    port = free_port()
    words = [str(port) if word == "8000" else word for word in shlex.split(line)[1:]]
    command = [sys.executable, "-m", "flows.cli.main", *words, "--exec", "workspace=used"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + WAIT_S
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                _curl(f"curl http://127.0.0.1:{port}/health")
                break
            except OSError:
                time.sleep(0.3)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 128 + signal.SIGINT


def _curl(line: str) -> str:
    """Run a curl command without curl, which not every machine has."""
    words = shlex.split(line)
    address = next(word for word in words if word.startswith("http://"))
    data = words[words.index("-d") + 1].encode() if "-d" in words else None
    headers = dict([words[words.index("-H") + 1].split(": ")]) if "-H" in words else {}
    request = urllib.request.Request(address, data, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310
        return str(answer.read().decode())
