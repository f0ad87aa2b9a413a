"""Missing extras: each feature reports its own extra, and nothing else needs one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from components.core.errors import ConfigError
from components.core.extras import EXTRA_MODULES, require_extra

PROJECT = Path(__file__).parents[3]
WITHOUT_EXTRAS = r"""
import json, shutil, sys
from pathlib import Path

for module in json.loads(sys.argv[1]):
    sys.modules[module] = None  # Import and find_spec behave as if it were not installed.

import pyarrow as pa
from components.core.errors import CodegenError
from components.core.remote_errors import open_file_system
from components.data.config import RedactionConfig
from components.data.dvc.dvc_remote import check_remote
from components.data.filters.redaction import redact, require_detectors
from components.data.sources.config import Source
from components.data.sources.partitions import list_partitions
from dvc.repo import Repo
import flows.cli.main, flows.pipeline, flows.servers.completions
import components.preparation.corpus_pipeline

folder = Path(sys.argv[2])
(folder / "a.avro").write_bytes(b"Obj\x01")
project = folder / "project"
project.mkdir()
with Repo.init(str(project), no_scm=True) as repo:
    with repo.config.edit() as config:
        config["core"]["remote"] = "cloud"
        config["remote"]["cloud"] = {"url": "s3://bucket/corpora"}
shutil.copy("data.dvc", project)
texts = pa.array(["write to 8.8.8.8"], type=pa.large_string())
features = {
    "avro": lambda: list_partitions([Source(uri=str(folder / "a.avro"))]),
    "redaction": lambda: require_detectors(RedactionConfig(enabled=True)),
    "redact e-mail": lambda: redact(texts, RedactionConfig(enabled=True, kinds=("email",))),
    "redact addresses": lambda: redact(texts, RedactionConfig(enabled=True, kinds=("ip_address",))),
    "s3": lambda: open_file_system("s3://bucket/a"),
    "DVC": lambda: check_remote(project),
}
errors = {}
for name, feature in features.items():
    try:
        feature()
    except CodegenError as error:
        errors[name] = [type(error).__name__, error.got, error.expected, error.fix]
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The errors of all features in a process without the packages of any extra."""
    modules = [module for modules in EXTRA_MODULES.values() for module in modules]
    folder = tmp_path_factory.mktemp("without-extras")
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, json.dumps(modules), str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    result: dict[str, list[str]] = json.loads(process.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("feature", "extra", "subject"),
    [
        ("avro", "avro", "a.avro"),
        ("redaction", "redaction", "redaction of a corpus"),
        ("redact e-mail", "redaction", "redaction of a corpus"),
        ("s3", "s3", "s3://bucket/a"),
        ("DVC", "s3", "the DVC remote cloud"),
    ],
)
def test_a_feature_without_its_packages_names_the_extra(
    errors: dict[str, list[str]], feature: str, extra: str, subject: str
) -> None:
    kind, got, expected, fix = errors[feature]
    assert kind == "ConfigError"
    assert subject in got
    assert f"`{extra}`" in expected
    assert f"pip install '.[{extra}]'" in fix


def test_features_without_optional_packages_need_no_extra(errors: dict[str, list[str]]) -> None:
    assert "redact addresses" not in errors


def test_the_error_lists_the_missing_modules_only(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra("avro", "a test")
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(ConfigError) as error:
        require_extra("avro", "a test")
    assert "cramjam" in error.value.got
    assert "fastavro" not in error.value.got


def test_every_declared_extra_has_the_modules_of_its_packages() -> None:
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    declared = pyproject["project"]["optional-dependencies"]
    assert set(declared) == {*EXTRA_MODULES, "dev"}
    distributions = packages_distributions()
    for extra, modules in EXTRA_MODULES.items():
        packages = {re.split(r"[^\w-]", line)[0] for line in declared[extra]}
        names = {distributions.get(module, [module])[0].replace("_", "-") for module in modules}
        assert names == {package.replace("_", "-") for package in packages}
