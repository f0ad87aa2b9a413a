"""Export of a checkpoint by label, address or folder; checkpoints of a store are verified."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.models import lively_model, write_tokenizer
from transformers import AutoModelForCausalLM

from components.core.artifact import Artifact
from components.core.errors import ArtifactError
from components.model.config import CheckpointFormat, Dtype
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
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in checkpoint.files:
        (copy / file.path).write_bytes((Path(checkpoint.address) / file.path).read_bytes())
    for number, name in enumerate((checkpoint.label, checkpoint.address, str(copy))):
        out = tmp_path / f"out{number}"
        result = export_model(
            execution, name, out, checkpoint_format=CheckpointFormat.gptj, dtype=Dtype.fp16
        )
        assert f"{out}: gptj in fp16" in result.summary
        assert type(AutoModelForCausalLM.from_pretrained(out)).__name__ == "GPTJForCausalLM"
        assert not (out / "manifest.json").exists()


def export_to(execution: Execution, name: str, out: Path) -> None:
    export_model(execution, name, out, checkpoint_format=CheckpointFormat.codegen, dtype=Dtype.fp32)


def test_a_damaged_checkpoint_of_the_store_is_not_exported(
    execution: Execution, checkpoint: Artifact, tmp_path: Path
) -> None:
    """A single weight differs, which only the digest can detect."""
    out = tmp_path / "out"
    with (Path(checkpoint.address) / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x00\x00\x3e")
    for name in (checkpoint.label, checkpoint.address):
        with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged"):
            export_to(execution, name, out)
    assert not out.exists()


def test_a_missing_checkpoint_is_an_error(execution: Execution, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact is published at checkpoint/none"):
        export_to(execution, "checkpoint/none", tmp_path / "out")
