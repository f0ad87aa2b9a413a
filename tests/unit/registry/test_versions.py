"""Registration: a checkpoint is registered once, survives interruptions, and loads by alias."""

import functools
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.versions import DVC_MD5, NAME, add_version, register_checkpoint

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, TrackingError
from components.core.fingerprint import sha256_file
from components.model.huggingface import logit_parity
from components.registry.tracking import Tracking
from components.registry.versions import download, find_version

_register = functools.partial(register_checkpoint, parity=logit_parity)


def _local_path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def test_mlflow_and_transformers_load_a_model_by_alias(
    tracking: Tracking, make_checkpoint, tmp_path: Path
) -> None:
    import mlflow
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tracking.run("register", experiment="tiny") as run:
        registered = _register(run, *make_checkpoint("one"))
    assert registered.address == f"models:/{NAME}/1"
    tracking.client.set_registered_model_alias(NAME, "champion", "1")

    pipeline = mlflow.transformers.load_model(f"models:/{NAME}@champion", device="cpu")
    completion = pipeline("def f", max_new_tokens=1, do_sample=False)[0]["generated_text"]
    assert completion.startswith("def f")

    folder = download(tracking, f"models:/{NAME}@champion", tmp_path / "download")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("def f", return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == completion


def test_a_version_records_its_origin_and_its_metrics(
    tracking: Tracking, make_checkpoint, make_evaluation: Callable[[float], Artifact]
) -> None:
    checkpoint, folder = make_checkpoint("one")
    with tracking.run("register", experiment="tiny") as run:
        registered = _register(
            run, checkpoint, folder, evaluations={"bits_per_byte": make_evaluation(2.5)}
        )
    version = tracking.client.get_model_version(NAME, "1")
    assert version.tags["checkpoint_digest"] == registered.digest == checkpoint.digest
    assert version.tags["recipe"] == checkpoint.recipe_hash
    assert version.tags["dvc_md5"] == DVC_MD5
    assert version.tags["stage"] == "mono"
    assert version.tags["bits_per_byte/multi/Cpp"] == "3.5"
    assert version.run_id == run.id
    assert f"`{checkpoint.digest}`" in version.description
    # The commands of the card work unchanged.
    assert f'mlflow.set_tracking_uri("{tracking.uri}")' in version.description
    assert "| multi/C++ | 3.5 |" in version.description
    assert [parent.role for parent in registered.parents] == ["checkpoint", "bits_per_byte"]

    model = tracking.client.get_logged_model(version.tags["model_id"])
    metrics = {metric.key: metric.value for metric in model.metrics}
    assert metrics["bits_per_byte/mono/Python"] == 2.5
    outputs = tracking.client.get_run(run.id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id]
    weights = _local_path(model.artifact_location) / "model" / "model.safetensors"
    assert sha256_file(weights) == sha256_file(folder / "model.safetensors")


def test_a_checkpoint_is_registered_once_and_later_metrics_are_added(
    tracking: Tracking, make_checkpoint, make_evaluation: Callable[[float], Artifact]
) -> None:
    with tracking.run("register", experiment="tiny") as run:
        first = _register(run, *make_checkpoint("one"))
        second = _register(run, *make_checkpoint("two"))
    with tracking.run("again", experiment="tiny") as run:
        again = _register(
            run, *make_checkpoint("one"), evaluations={"bits_per_byte": make_evaluation(2.5)}
        )
    registered = (first, second, again)
    assert [artifact.statistics["version"] for artifact in registered] == [1, 2, 1]
    assert (again.recipe_hash, again.digest) == (first.recipe_hash, first.digest)
    assert len(tracking.client.search_model_versions(f"name = '{NAME}'")) == 2
    version = tracking.client.get_model_version(NAME, "1")
    assert version.tags["bits_per_byte/mono/Python"] == "2.5"
    assert "| mono/Python | 2.5 |" in version.description


_REGISTER_AND_DIE = """
import json, os, signal, sys
from pathlib import Path
from mlflow import MlflowClient
from components.core.artifact import Artifact
from components.registry.versions import register
from components.registry.tracking import Tracking
uri, artifacts, record, method = sys.argv[1:]
setattr(MlflowClient, method, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
checkpoint = Artifact.parse(json.loads(record))
with Tracking(uri, Path(artifacts)).run("register", experiment="tiny") as run:
    register(
        checkpoint,
        Path(checkpoint.address),
        run=run,
        name="codegen-tiny-mono",
        stage="mono",
        evaluations={},
        dvc_md5="md5",
        parity=lambda _: 0.0,
        max_logit_difference=1e-4,
    )
"""


@pytest.mark.parametrize("method", ["log_model_artifacts", "create_model_version"])
def test_the_next_registration_finishes_an_interrupted_one(
    tracking: Tracking, make_checkpoint, method: str, tmp_path: Path
) -> None:
    checkpoint, folder = make_checkpoint("one")
    arguments = [tracking.uri, str(tracking.artifacts), checkpoint.model_dump_json(), method]
    killed = subprocess.run([sys.executable, "-c", _REGISTER_AND_DIE, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert find_version(tracking, NAME, checkpoint.digest) is None
    with tracking.run("again", experiment="tiny") as run:
        registered = _register(run, checkpoint, folder)
    assert len(tracking.client.search_logged_models([run.experiment_id])) == 1
    downloaded = download(tracking, registered.address, tmp_path / "download")
    assert (downloaded / "model.safetensors").exists()


def test_the_download_of_a_damaged_model_is_an_error(
    tracking: Tracking, make_checkpoint, tmp_path: Path
) -> None:
    with tracking.run("register", experiment="tiny") as run:
        registered = _register(run, *make_checkpoint("one"))
    version = tracking.client.get_model_version(NAME, "1")
    location = tracking.client.get_logged_model(version.tags["model_id"]).artifact_location
    with (_local_path(location) / "model" / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x7f")
    with pytest.raises(ArtifactError, match="SHA-256") as caught:
        download(tracking, registered.address, tmp_path / "download")
    assert registered.digest[:12] in caught.value.expected


def test_an_incomplete_or_foreign_checkpoint_is_not_registered(
    tracking: Tracking, make_checkpoint, tmp_path: Path
) -> None:
    checkpoint, folder = make_checkpoint("one")
    with tracking.run("register", experiment="tiny") as run:
        with pytest.raises(ArtifactError, match=r"has no config\.json, model\.safetensors"):
            _register(run, checkpoint, tmp_path)
        for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
        with pytest.raises(ArtifactError, match="type 'gpt2'"):
            _register(run, checkpoint, tmp_path)
    assert tracking.client.search_registered_models() == []


@pytest.mark.parametrize(
    "model", ["codegen-none@champion", "codegen-none/1", f"{NAME}@missing", f"{NAME}/9"]
)
def test_a_missing_model_version_or_alias_is_an_error(
    tracking: Tracking, tmp_path: Path, model: str
) -> None:
    tracking.client.create_registered_model(NAME)
    with pytest.raises(TrackingError, match=f"the registry has no {model}"):
        download(tracking, f"models:/{model}", tmp_path)


def test_a_checkpoint_with_other_logits_in_transformers_is_not_registered(
    tracking: Tracking, make_checkpoint, tmp_path: Path
) -> None:
    """Two keys for the number of heads: we read the key of the releases, transformers the last."""
    checkpoint, folder = make_checkpoint("one")
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_attention_heads": 8}))
    with tracking.run("register", experiment="tiny") as run:
        with pytest.raises(ArtifactError, match=r"logits .* differ by 0\.\d+"):
            _register(run, checkpoint, copy)
        assert tracking.client.search_registered_models() == []
        assert tracking.client.search_logged_models([run.experiment_id]) == []
        registered = _register(run, checkpoint, folder)
    assert 0 <= float(str(registered.statistics["logit_difference"])) < 1e-5


@pytest.mark.parametrize("difference", [math.nan, math.inf, 1.1e-4])
def test_a_logit_difference_above_the_maximum_or_nan_is_not_registered(
    tracking: Tracking, make_checkpoint, difference: float
) -> None:
    checkpoint, folder = make_checkpoint("one")
    with (
        tracking.run("register", experiment="tiny") as run,
        pytest.raises(ArtifactError, match="nothing was registered"),
    ):
        _register(run, checkpoint, folder, parity=lambda _: difference)
    assert tracking.client.search_registered_models() == []


def test_a_logit_difference_is_measured_once_per_environment(
    tracking: Tracking, make_checkpoint
) -> None:
    checkpoint, folder = make_checkpoint("one")
    measurements: list[float] = []

    def parity(_: Path) -> float:
        measurements.append(1e-6 * (len(measurements) + 1))
        return measurements[-1]

    differences = []
    with tracking.run("register", experiment="tiny") as run:
        # An unknown environment ("") is measured every time.
        for environment in ("", "", "commit a", "commit b", "commit b"):
            registered = _register(
                run, checkpoint, folder, parity=parity, parity_environment=environment
            )
            differences.append(registered.statistics["logit_difference"])
        assert differences == pytest.approx([1e-6, 2e-6, 3e-6, 4e-6, 4e-6])
        # The stored difference is compared with the current maximum.
        with pytest.raises(ArtifactError, match="nothing was registered"):
            _register(
                run,
                checkpoint,
                folder,
                parity=parity,
                parity_environment="commit b",
                max_logit_difference=1e-7,
            )
        assert len(measurements) == 4


def test_a_version_registered_by_another_tool_is_an_error(
    tracking: Tracking, tmp_path: Path
) -> None:
    add_version(tracking)
    with pytest.raises(TrackingError, match=f"models:/{NAME}/1 has no tag checkpoint_digest"):
        download(tracking, f"models:/{NAME}/1", tmp_path)
