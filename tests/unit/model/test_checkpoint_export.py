"""A folder becomes another one, whole and compared, or nothing appears."""

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
from components.model.formats import CheckpointFormat, Dtype
from components.model.huggingface import export_checkpoint, save_checkpoint


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A folder as the authors released CodeGen: fp16, PyTorch's files, the config of 2022; and its tokenizer."""
    folder = write_tokenizer(tmp_path / "released")
    model = transformers_model(SMALL_MODEL.replace(padded_vocab_size=512), torch.float16)
    (folder / "config.json").write_text(json.dumps(released_config(model.config)))
    write_bin_shards(dict(model.half().state_dict()), folder)
    return folder


@pytest.mark.parametrize("layout", CheckpointFormat)
@pytest.mark.parametrize("dtype", Dtype)
def test_a_released_folder_is_exported_in_every_way(
    layout: CheckpointFormat, dtype: Dtype, released: Path, tmp_path: Path
) -> None:
    found = export_checkpoint(
        released, tmp_path / "deep" / "out", layout=layout, dtype=dtype, max_shard_bytes=30_000
    )
    assert found < 1e-5
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "out", dtype=torch.float32)
    reference = transformers_model(SMALL_MODEL.replace(padded_vocab_size=512), torch.float16)
    text = AutoTokenizer.from_pretrained(tmp_path / "deep" / "out")(
        "def f():\n    return 1", return_tensors="pt"
    )
    with torch.no_grad():
        if dtype is Dtype.bf16:  # The weights alone: transformers keeps its rotations as a buffer.
            for parameter in reference.parameters():
                parameter.copy_(parameter.bfloat16())
        torch.testing.assert_close(
            theirs(**text).logits, reference(**text).logits, atol=1e-5, rtol=0
        )
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_the_same_checkpoint_gives_the_same_bytes(released: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_checkpoint(
            released,
            tmp_path / name,
            layout=CheckpointFormat.gptj,
            dtype=Dtype.fp16,
            max_shard_bytes=30_000,
        )
    assert list_files(tmp_path / "one") == list_files(tmp_path / "two")


def test_what_is_there_is_not_replaced(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    for place in (out, out / "mine"):
        with pytest.raises(ConfigError, match=f"{place.name} exists"):
            export_checkpoint(released, place)
    (out / "mine").unlink()
    export_checkpoint(released, out)
    assert (out / "model.safetensors").exists()


def test_what_cannot_be_exported_leaves_nothing(released: Path, tmp_path: Path) -> None:
    model = lively_model(TINY)
    with torch.no_grad():
        model.head.bias[3] = 1e6
    big = tmp_path / "big"
    save_checkpoint(model, released, big)
    before = list_files(tmp_path)
    with pytest.raises(ConfigError, match=r"lm_head\.bias holds 1e\+06, too large for float16"):
        export_checkpoint(big, tmp_path / "out", dtype=Dtype.fp16)
    (big / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not exist"):
        export_checkpoint(big, tmp_path / "out")
    shutil.move(tmp_path / "tokenizer.json", big / "tokenizer.json")
    assert list_files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "released"]


def test_a_disk_that_fills_up_is_told_and_nothing_half_is_left(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    with limited_disk(tmp_path / "disk", size_kb=16) as disk:
        with pytest.raises(
            DiskFullError, match=r"the disk filled up while writing model\.safetensors"
        ):
            save_checkpoint(lively_model(), tmp_path / "tokenizer", disk)
        assert not list(disk.iterdir())
