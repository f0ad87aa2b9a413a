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

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy, pytest.mark.timeout(900)]

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
_WITHOUT_MTPB = "data.decontamination.enabled=false"


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
        params = {"recipe": "tiny", "set": [_WITHOUT_MTPB, *overrides], "exec": self._overrides}
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
            timeout=400,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout


def test_dvc_repro_builds_everything_and_reports_changes(
    fixture_archives: FixtureArchives, tmp_path: Path
) -> None:
    clone = Clone(tmp_path, fixture_archives)
    clone.dvc("repro", "--pull")
    assert (clone.folder / "data/mono/scripts-1.0.jsonl").exists()
    assert clone.dvc("status", "--json").strip() == '{"prepare": ["always changed"]}'
    clone.git("add", "-A")
    clone.git("commit", "-q", "-m", "data")
    tracked = set(clone.git("ls-files").split())
    assert tracked == {*FILES, "data.dvc", "dvc.lock", "metrics.json", "params.yaml"}

    # Without these limits, the document with a line of 1,007 characters is not rejected.
    limits = ("max_line_length=2000", "max_mean_line_length=2000")
    clone.write_params(*(f"data.filters.{limit}" for limit in limits))
    clone.dvc("repro")
    (params,) = json.loads(clone.dvc("params", "diff", "--json")).values()
    assert params["prepare.set"]["new"] == [
        _WITHOUT_MTPB,
        *(f"data.filters.{limit}" for limit in limits),
    ]
    (changes,) = json.loads(clone.dvc("metrics", "diff", "--json"))["diff"].values()
    assert changes["multi.documents"] == {"old": 720, "new": 721, "diff": 1}
    assert changes["multi.rejected.line length"]["old"] == 1
    assert "multi.raw_documents" not in changes
    assert "nl.documents" not in changes
