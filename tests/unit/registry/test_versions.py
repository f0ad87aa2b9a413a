"""A registered checkpoint can be loaded by alias in both ways, is registered once, and survives a kill."""

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.versions import add_version

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, TrackingError
from components.core.fingerprint import sha256_file
from components.model.huggingface import logit_parity
from components.registry.tracking import TrackedRun, Tracking
from components.registry.versions import download, find_version, register

NAME = "codegen-tiny-mono"
MD5 = "0123456789abcdef0123456789abcdef"


def _register(run: TrackedRun, made: tuple[Artifact, Path], **evaluations: Artifact) -> Artifact:
    checkpoint, folder = made
    return register(
        checkpoint,
        folder,
        name=NAME,
        stage="mono",
        run=run,
        evaluations=evaluations,
        dvc_md5=MD5,
        parity=logit_parity,
        max_logit_difference=1e-4,
    )


def test_a_model_is_loaded_by_alias(tracking: Tracking, make_checkpoint, tmp_path: Path) -> None:
    import mlflow
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tracking.run("register", experiment="tiny") as run:
        registered = _register(run, make_checkpoint("one"))
    assert registered.address == f"models:/{NAME}/1"
    tracking.client.set_registered_model_alias(NAME, "champion", "1")

    pipeline = mlflow.transformers.load_model(f"models:/{NAME}@champion", device="cpu")
    written = pipeline("def f", max_new_tokens=1, do_sample=False)[0]["generated_text"]
    assert written.startswith("def f")

    folder = download(tracking, f"models:/{NAME}@champion", tmp_path / "fetched")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    ids = model.generate(
        **tokenizer("def f", return_tensors="pt"), max_new_tokens=1, do_sample=False
    )
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == written


def test_a_version_says_where_it_comes_from(
    tracking: Tracking, make_checkpoint, make_evaluation: Callable[[float], Artifact]
) -> None:
    checkpoint, folder = make_checkpoint("one")
    with tracking.run("register", experiment="tiny") as run:
        registered = _register(run, (checkpoint, folder), bits_per_byte=make_evaluation(2.5))
    version = tracking.client.get_model_version(NAME, "1")
    assert version.tags["checkpoint_digest"] == registered.digest == checkpoint.digest
    assert (version.tags["recipe"], version.tags["dvc_md5"], version.tags["stage"]) == (
        checkpoint.recipe,
        MD5,
        "mono",
    )
    assert version.tags["bits_per_byte/multi/Cpp"] == "3.5"
    assert version.run_id == run.id
    assert f"`{checkpoint.digest}`" in version.description
    assert (
        f'mlflow.set_tracking_uri("{tracking.uri}")' in version.description
    )  # A card that can be followed as it stands.
    assert "| multi/C++ | 3.5 |" in version.description
    assert [parent.role for parent in registered.parents] == ["checkpoint", "bits_per_byte"]

    model = tracking.client.get_logged_model(version.tags["model_id"])
    assert {metric.key: metric.value for metric in model.metrics}[
        "bits_per_byte/mono/Python"
    ] == 2.5
    assert [
        output.model_id for output in tracking.client.get_run(run.id).outputs.model_outputs
    ] == [model.model_id]
    weights = Path(model.artifact_location.removeprefix("file://")) / "model" / "model.safetensors"
    assert sha256_file(weights) == sha256_file(folder / "model.safetensors")


def test_the_same_checkpoint_is_registered_once(
    tracking: Tracking, make_checkpoint, make_evaluation: Callable[[float], Artifact]
) -> None:
    with tracking.run("register", experiment="tiny") as run:
        first = _register(run, make_checkpoint("one"))
        other = _register(run, make_checkpoint("two"))
    with tracking.run("again", experiment="tiny") as run:
        again = _register(run, make_checkpoint("one"), bits_per_byte=make_evaluation(2.5))
    assert [one.statistics["version"] for one in (first, other, again)] == [1, 2, 1]
    assert (again.recipe, again.digest) == (first.recipe, first.digest)
    assert len(tracking.client.search_model_versions(f"name = '{NAME}'")) == 2
    version = tracking.client.get_model_version(NAME, "1")
    assert (
        version.tags["bits_per_byte/mono/Python"] == "2.5"
    )  # New figures about an old version are kept.
    assert "| mono/Python | 2.5 |" in version.description


_REGISTER_AND_DIE = """
import json, os, signal, sys
from pathlib import Path
from mlflow import MlflowClient
from components.core.artifact import Artifact
from components.registry.versions import register
from components.registry.tracking import Tracking
uri, artifacts, record, moment = sys.argv[1:]
setattr(MlflowClient, moment, lambda *arguments, **more: os.kill(os.getpid(), signal.SIGKILL))
checkpoint = Artifact.parse(json.loads(record))
with Tracking(uri, Path(artifacts)).run("register", experiment="tiny") as run:
    about = {"name": "codegen-tiny-mono", "stage": "mono", "evaluations": {}, "dvc_md5": "md5"}
    about |= {"parity": lambda _: 0.0, "max_logit_difference": 1e-4}
    register(checkpoint, Path(checkpoint.address), run=run, **about)
"""


@pytest.mark.parametrize("moment", ["log_model_artifacts", "create_model_version"])
def test_a_killed_registration_is_finished_by_the_next(
    tracking: Tracking, make_checkpoint, moment: str, tmp_path: Path
) -> None:
    checkpoint, folder = make_checkpoint("one")
    arguments = [tracking.uri, str(tracking.artifacts), checkpoint.model_dump_json(), moment]
    killed = subprocess.run([sys.executable, "-c", _REGISTER_AND_DIE, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert find_version(tracking, NAME, checkpoint.digest) is None
    with tracking.run("again", experiment="tiny") as run:
        registered = _register(run, (checkpoint, folder))
    assert len(tracking.client.search_logged_models([run.experiment_id])) == 1
    assert (
        download(tracking, registered.address, tmp_path / "fetched") / "model.safetensors"
    ).exists()


def test_a_damaged_model_is_not_handed_out(
    tracking: Tracking, make_checkpoint, tmp_path: Path
) -> None:
    with tracking.run("register", experiment="tiny") as run:
        registered = _register(run, make_checkpoint("one"))
    version = tracking.client.get_model_version(NAME, "1")
    place = tracking.client.get_logged_model(version.tags["model_id"]).artifact_location
    with (Path(place.removeprefix("file://")) / "model" / "model.safetensors").open(
        "r+b"
    ) as weights:
        weights.seek(-1, 2)
        weights.write(b"\x7f")
    with pytest.raises(ArtifactError, match="was fetched with SHA-256"):
        download(tracking, registered.address, tmp_path / "fetched")


def test_what_is_no_checkpoint_is_not_registered(
    tracking: Tracking, make_checkpoint, tmp_path: Path
) -> None:
    checkpoint, folder = make_checkpoint("one")
    with tracking.run("register", experiment="tiny") as run:
        with pytest.raises(ArtifactError, match=r"has no config\.json, model\.safetensors"):
            _register(run, (checkpoint, tmp_path))
        for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
        with pytest.raises(ArtifactError, match="type 'gpt2'"):
            _register(run, (checkpoint, tmp_path))
    assert tracking.client.search_registered_models() == []


@pytest.mark.parametrize(
    "absent", ["codegen-none@champion", "codegen-none/1", f"{NAME}@nobody", f"{NAME}/9"]
)
def test_a_model_that_does_not_exist_is_said(
    tracking: Tracking, tmp_path: Path, absent: str
) -> None:
    tracking.client.create_registered_model(NAME)
    with pytest.raises(TrackingError, match=f"the registry has no {absent}"):
        download(tracking, f"models:/{absent}", tmp_path)


def test_what_transformers_computes_otherwise_is_not_registered(
    tracking: Tracking, make_checkpoint, tmp_path: Path
) -> None:
    """Two names for the number of heads: we go by the one that releases use, transformers by the last."""
    checkpoint, folder = make_checkpoint("one")
    copy = shutil.copytree(folder, tmp_path / "copy")
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "num_attention_heads": 8}))
    with tracking.run("register", experiment="tiny") as run:
        with pytest.raises(
            ArtifactError,
            match=r"the logits that transformers computes from .* differ from ours by 0\.\d+",
        ):
            _register(run, (checkpoint, copy))
        assert tracking.client.search_registered_models() == []
        assert tracking.client.search_logged_models([run.experiment_id]) == []
        registered = _register(run, (checkpoint, folder))
    assert 0 <= float(str(registered.statistics["logit_difference"])) < 1e-5


@pytest.mark.parametrize("difference", [math.nan, math.inf, 1.1e-4])
def test_a_difference_that_is_too_large_or_no_number_is_not_registered(
    tracking: Tracking, make_checkpoint, difference: float
) -> None:
    checkpoint, folder = make_checkpoint("one")
    about = {
        "name": NAME,
        "stage": "mono",
        "evaluations": {},
        "dvc_md5": MD5,
        "max_logit_difference": 1e-4,
    }
    with (
        tracking.run("register", experiment="tiny") as run,
        pytest.raises(ArtifactError, match="nothing was registered"),
    ):
        register(checkpoint, folder, run=run, parity=lambda _: difference, **about)
    assert tracking.client.search_registered_models() == []


def test_a_difference_that_the_same_code_found_is_not_measured_again(
    tracking: Tracking, make_checkpoint
) -> None:
    checkpoint, folder = make_checkpoint("one")
    about = {
        "name": NAME,
        "stage": "mono",
        "evaluations": {},
        "dvc_md5": MD5,
        "max_logit_difference": 1e-4,
    }
    measured: list[float] = []

    def parity(_: Path) -> float:
        measured.append(1e-6 * (len(measured) + 1))
        return measured[-1]

    found = []
    with tracking.run("register", experiment="tiny") as run:
        for by in (
            "",
            "",
            "commit a",
            "commit b",
            "commit b",
        ):  # Code that nobody can name finds nothing again.
            registered = register(
                checkpoint, folder, run=run, parity=parity, parity_environment=by, **about
            )
            found.append(registered.statistics["logit_difference"])
        assert found == pytest.approx([1e-6, 2e-6, 3e-6, 4e-6, 4e-6])
        with pytest.raises(
            ArtifactError, match="nothing was registered"
        ):  # What is known is held to the limit of today.
            register(
                checkpoint,
                folder,
                run=run,
                parity=parity,
                parity_environment="commit b",
                **about | {"max_logit_difference": 1e-7},
            )
        assert len(measured) == 4


def test_a_version_that_somebody_else_registered_is_said(
    tracking: Tracking, tmp_path: Path
) -> None:
    add_version(tracking)
    with pytest.raises(TrackingError, match=f"models:/{NAME}/1 does not state the digest"):
        download(tracking, f"models:/{NAME}/1", tmp_path)
