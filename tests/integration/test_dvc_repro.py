"""`dvc repro` in a fresh clone: data/ from pinned archives, prepared corpora, metrics.json."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.processes import environment_without_settings
from fixtures.projects import FixtureArchives

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[2]
FILES = (
    "dvc.yaml",
    ".dvc/config",
    ".dvc/.gitignore",
    ".gitignore",
    "components/data/archives/corpus.json",
    "components/data/archives/pins.py",
    "components/preparation/corpus_pipeline.py",
    "components/tokenizer/vocabulary.py",
)


class Clone:
    """A git repository with the files of the checkout that DVC reads, for the test archives."""

    def __init__(self, folder: Path, archives: FixtureArchives) -> None:
        self.folder = folder / "clone"
        for name in FILES:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes((CHECKOUT / name).read_bytes())
        self._overrides = [f"pins={archives.folder / 'pins.json'}"]
        self.write_params()
        commands = folder / "bin"
        commands.mkdir()
        program = commands / "codegen"
        program.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m flows.cli.main "$@"\n'
        )
        program.chmod(0o755)
        self._environment = environment_without_settings() | {
            "CODEGEN_ARCHIVES": str(archives.folder),
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
        }
        self.git("init", "-q")

    def write_params(self, *overrides: str) -> None:
        params = {"recipe": "tiny", "set": overrides, "exec": self._overrides}
        (self.folder / "params.yaml").write_text(json.dumps({"prepare": params}))

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        return self._run("git", *identity, *arguments)

    def dvc(self, *arguments: str) -> str:
        return self._run(sys.executable, "-m", "dvc", *arguments)

    def _run(self, *command: str) -> str:
        completed = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout


def test_dvc_repro_builds_data_and_metrics_in_a_fresh_clone(
    fixture_archives: FixtureArchives, tmp_path: Path
) -> None:
    clone = Clone(tmp_path, fixture_archives)
    clone.dvc("repro", "--pull")
    assert (clone.folder / "data/mono/scripts-1.0.jsonl").exists()
    assert json.loads(clone.dvc("status", "--json")) == {"prepare": ["always changed"]}
    clone.git("add", "-A")
    clone.git("commit", "-q", "-m", "data")
    tracked = set(clone.git("ls-files").split())
    assert tracked == {*FILES, "data.dvc", "dvc.lock", "metrics.json", "params.yaml"}

    (metrics,) = json.loads(clone.dvc("metrics", "show", "--json"))[""]["data"].values()
    counts = metrics["data"]["multi"]
    assert counts["raw_documents"] == 6 * 120 + 2
    assert counts["rejected"] == {"mean line length": 1}  # A line of 1,007 characters.
    assert counts["duplicates"] == 1
    assert counts["documents"] == 6 * 120

    clone.write_params("seed=1")
    (changes,) = json.loads(clone.dvc("params", "diff", "--json")).values()
    assert changes == {"prepare.set": {"old": "[]", "new": "['seed=1']"}}
