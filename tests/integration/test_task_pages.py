"""Every command of the pages on adding a corpus, a model size and a benchmark and on using a model, in their order."""

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
from fixtures.doc_commands import WAIT_S, commands, environment, python_of, typed
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
    """A project that the pages share, as a person's would be."""
    return new_project(tmp_path_factory.mktemp("pages") / "project")


@pytest.fixture(scope="module")
def places(fixture_archives: FixtureArchives) -> list[str]:
    return [f"pins={fixture_archives.folder / 'pins.json'}", f"archives={fixture_archives.folder}"]


def _recipe_of(page: str, function: str) -> recipes.Recipe:
    """What a page's function makes when it stands in `flows/settings/recipes.py`."""
    names = dict(vars(recipes))
    exec(python_of(page), names)
    made: recipes.Recipe = names[function]()
    return made


def test_adding_a_corpus(folder: Path, places: list[str]) -> None:
    for number in range(200):
        file = folder / "checkouts" / f"repository{number % 4}" / f"module{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(program("Python", f"mine {number}"))
    done = typed(commands("adding-a-corpus.md"), folder, places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "repository3" in done.stdout
    made = next(
        one
        for one in Store(folder / "var/store").list_artifacts()
        if (one.kind, one.name) == ("prepared-corpus", "mono")
    )
    languages = made.statistics["languages"]
    assert isinstance(languages, dict)
    assert languages["Python"]["documents"] == 200
    assert _recipe_of("adding-a-corpus.md", "mine").data.sources == {
        "mono": (Source(uri="/data/checkouts/*/"),)
    }


def test_adding_a_model_size(folder: Path, places: list[str]) -> None:
    looks = [
        one
        for one in commands("adding-a-model-size.md")
        if one.startswith(("codegen recipe", "codegen plan"))
    ]
    looked = typed(looks, folder)  # Which ask nothing of a place.
    assert looked.returncode == 0, looked.stderr
    done = typed(
        [one for one in commands("adding-a-model-size.md") if one not in looks], folder, places
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "codegen-1b: 1.4" in looked.stdout
    assert "codegen run -r 350m --set name=codegen-1b" in looked.stdout
    trained = next(
        one for one in Store(folder / "var/store").list_artifacts() if one.name == "try-nl"
    )
    assert trained.label in done.stdout
    assert load_config(Path(trained.address)).num_layers == 3
    assert _recipe_of("adding-a-model-size.md", "codegen_1b").model.d_model == 2048


def test_adding_a_benchmark(folder: Path) -> None:
    write_reciting(folder / "models" / "adder", ADDER)
    done = typed(commands("adding-a-benchmark.md"), folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"pass@1 +│ 100\.00 %", done.stdout)) == 2, done.stdout


def test_using_a_model(folder: Path) -> None:
    execution = Execution(project=str(folder), workspace="used")
    made = register_champion(execution, "codegen-tiny-mono", ADDER)
    lines = commands("using-a-model.md")
    (serve,) = (one for one in lines if "models serve" in one)
    before, after = lines[: lines.index(serve)], lines[lines.index(serve) + 1 :]
    done = typed(before, folder, ["workspace=used"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(ADDER)
    with _server(serve, folder) as port:
        curls = [one.replace(":8000/", f":{port}/") for one in after if one.startswith("curl ")]
        assert len(curls) == 3
        completion, models, health = (json.loads(_curl(one)) for one in curls)
    assert completion["choices"][0]["text"] == ADDER.removeprefix("def add(a, b):")
    assert models["data"][0]["digest"] == completion["digest"] == made.digest
    assert health == {"status": "ok"}
    rest = [one for one in after if not one.startswith("curl ")]
    assert typed(rest, folder, ["workspace=used"]).returncode == 0
    assert load_config(folder / "out" / "mono").context_length == 256


@contextmanager
def _server(line: str, folder: Path) -> Iterator[int]:
    """The port of a server that a page's command starts; a signal ends it well."""
    port = free_port()
    words = [str(port) if one == "8000" else one for one in shlex.split(line)[1:]]
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
    assert process.returncode == 0


def _curl(line: str) -> str:
    """What curl would print; not every machine has it."""
    words = shlex.split(line)
    address = next(one for one in words if one.startswith("http://"))
    data = words[words.index("-d") + 1].encode() if "-d" in words else None
    headers = dict([words[words.index("-H") + 1].split(": ")]) if "-H" in words else {}
    request = urllib.request.Request(address, data, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310
        return str(answer.read().decode())
