"""Exports are complete and verified, or leave nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from fixtures.checkpoints import SMALL_MODEL, released_config, transformers_model, write_bin_shards
from fixtures.models import TINY, lively_model, write_tokenizer
from fixtures.tmpfs import limited_disk
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.core.errors import ArtifactError, ConfigError, DiskFullError
from components.core.fingerprint import list_files
from components.model.config import CheckpointFormat, Dtype
from components.model.huggingface import export_checkpoint, save_checkpoint


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A folder as the authors released CodeGen: fp16, PyTorch files, config of 2022, tokenizer."""
    folder = write_tokenizer(tmp_path / "released")
    model = transformers_model(SMALL_MODEL.replace(padded_vocab_size=512), torch.float16)
    (folder / "config.json").write_text(json.dumps(released_config(model.config)))
    write_bin_shards(dict(model.half().state_dict()), folder)
    return folder


@pytest.mark.parametrize("checkpoint_format", CheckpointFormat)
@pytest.mark.parametrize("dtype", Dtype)
def test_a_released_folder_is_exported_in_every_format_and_dtype(
    checkpoint_format: CheckpointFormat, dtype: Dtype, released: Path, tmp_path: Path
) -> None:
    difference = export_checkpoint(
        released,
        tmp_path / "deep" / "out",
        checkpoint_format=checkpoint_format,
        dtype=dtype,
        max_shard_bytes=30_000,
    )
    assert difference < 1e-5
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "out", dtype=torch.float32)
    reference = transformers_model(SMALL_MODEL.replace(padded_vocab_size=512), torch.float16)
    text = AutoTokenizer.from_pretrained(tmp_path / "deep" / "out")(
        "def f():\n    return 1", return_tensors="pt"
    )
    with torch.no_grad():
        if dtype is Dtype.bf16:  # Not buffers: transformers stores its rotations there.
            for parameter in reference.parameters():
                parameter.copy_(parameter.bfloat16())
        torch.testing.assert_close(
            exported(**text).logits, reference(**text).logits, atol=1e-5, rtol=0
        )
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_exports_are_deterministic(released: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export_checkpoint(
            released,
            tmp_path / name,
            checkpoint_format=CheckpointFormat.gptj,
            dtype=Dtype.fp16,
            max_shard_bytes=30_000,
        )
    assert list_files(tmp_path / "first") == list_files(tmp_path / "second")


def test_existing_files_are_not_replaced(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    for path in (out, out / "mine"):
        with pytest.raises(ConfigError, match=f"{path.name} exists"):
            export_checkpoint(released, path)
    (out / "mine").unlink()
    export_checkpoint(released, out)
    assert (out / "model.safetensors").exists()


def test_a_failed_export_leaves_nothing(released: Path, tmp_path: Path) -> None:
    model = lively_model(TINY)
    with torch.no_grad():
        model.head.bias[3] = 1e6
    large = tmp_path / "large"
    save_checkpoint(model, released, large)
    before = list_files(tmp_path)
    with pytest.raises(
        ConfigError, match=r"lm_head\.bias has the value 1e\+06, too large for float16"
    ):
        export_checkpoint(large, tmp_path / "out", dtype=Dtype.fp16)
    (large / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not exist"):
        export_checkpoint(large, tmp_path / "out")
    shutil.move(tmp_path / "tokenizer.json", large / "tokenizer.json")
    assert list_files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "released"]


def test_a_full_disk_is_an_error_and_leaves_no_partial_files(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    with limited_disk(tmp_path / "disk", size_kb=16) as disk:
        with pytest.raises(
            DiskFullError, match=r"the disk filled up while writing model\.safetensors"
        ):
            save_checkpoint(lively_model(), tmp_path / "tokenizer", disk)
        assert not list(disk.iterdir())
