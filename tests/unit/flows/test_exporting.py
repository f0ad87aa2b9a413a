"""A checkpoint is found by label, address or folder; one that the store keeps is verified first."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.models import lively_model, write_tokenizer
from transformers import AutoModelForCausalLM

from components.core.artifact import Artifact
from components.core.errors import ArtifactError
from components.model.formats import CheckpointFormat, Dtype
from components.model.huggingface import save_checkpoint
from flows.settings.execution import Execution
from flows.steps.resolve_model import export_model


@pytest.fixture
def execution(tmp_path: Path) -> Execution:
    return Execution(workspace=str(tmp_path / "workspace"))


@pytest.fixture
def checkpoint(execution: Execution, tmp_path: Path) -> Artifact:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")

    def build(folder: Path) -> dict[str, int]:
        save_checkpoint(lively_model(sharpness=1.0), tokenizer, folder)
        return {}

    store = execution.open_store()
    return store.get_or_build(
        "checkpoint", "tiny-mono", config={}, parents={}, code_version=1, build=build
    ).artifact


def test_a_checkpoint_is_exported_by_label_address_or_folder(
    execution: Execution, checkpoint: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    for file in checkpoint.files:
        (tmp_path / "copy" / file.path).write_bytes(
            (Path(checkpoint.address) / file.path).read_bytes()
        )
    for number, named in enumerate((checkpoint.label, checkpoint.address, str(tmp_path / "copy"))):
        out = tmp_path / f"out{number}"
        exported = export_model(
            execution, named, out, layout=CheckpointFormat.gptj, dtype=Dtype.fp16
        )
        assert f"{out}: gptj in fp16" in exported.line
        assert type(AutoModelForCausalLM.from_pretrained(out)).__name__ == "GPTJForCausalLM"
        assert not (out / "manifest.json").exists()


def test_a_damaged_checkpoint_of_the_store_is_not_exported(
    execution: Execution, checkpoint: Artifact, tmp_path: Path
) -> None:
    """One weight among many: nothing but the digest can tell."""
    with (Path(checkpoint.address) / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x00\x00\x3e")
    for named in (checkpoint.label, checkpoint.address):
        with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged"):
            export_model(
                execution,
                named,
                tmp_path / "out",
                layout=CheckpointFormat.codegen,
                dtype=Dtype.fp32,
            )
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_nowhere_is_said_so(execution: Execution, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact is published at checkpoint/none"):
        export_model(
            execution,
            "checkpoint/none",
            tmp_path / "out",
            layout=CheckpointFormat.codegen,
            dtype=Dtype.fp32,
        )
