"""Released checkpoints: every format gives the weights and logits of `transformers`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from fixtures.checkpoints import (
    CHECKPOINT_FORMATS,
    SMALL_MODEL,
    checkpoint_shards,
    released_config,
    shape_variants,
    transformers_model,
    write_bin_shards,
    write_modified_checkpoint,
    write_transformers_checkpoint,
)
from torch import Tensor
from transformers import CodeGenForCausalLM

from components.core.errors import ArtifactError
from components.model.config import ModelConfig
from components.model.huggingface import load_checkpoint, load_config

SHAPES = {
    **shape_variants(SMALL_MODEL),
    "two heads per block": ModelConfig(
        num_layers=1,
        num_heads=8,
        head_dim=16,
        rotary_dim=12,
        context_length=32,
        padded_vocab_size=300,
    ),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("form", CHECKPOINT_FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_format_and_shape_gives_the_logits_of_transformers(
    form: str, shape: str, tmp_path: Path
) -> None:
    model = transformers_model(SHAPES[shape])
    folder = write_transformers_checkpoint(model, tmp_path / "checkpoint", form)
    assert form.endswith("shards") == (len(checkpoint_shards(folder)) > 1)
    loaded = load_checkpoint(folder)
    assert loaded.config == SHAPES[shape]
    tokens = torch.randint(
        SHAPES[shape].padded_vocab_size, (2, 32), generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens), model(tokens).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", CHECKPOINT_FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_loaded_exactly_for_every_dtype(form: str, dtype: str, tmp_path: Path) -> None:
    model = transformers_model(SMALL_MODEL, DTYPES[dtype])
    loaded = load_checkpoint(
        write_transformers_checkpoint(model, tmp_path / "checkpoint", form, DTYPES[dtype])
    )
    assert loaded.head.weight.dtype == torch.float32
    assert torch.equal(loaded.embedding.weight, model.transformer.wte.weight.float())
    assert torch.equal(loaded.blocks[1].mlp_in.bias, model.transformer.h[1].mlp.fc_in.bias.float())
    # Head 3 of 4 is the last block, whose rows are q, v, k (docs/paper.md, section 2).
    query, value, key = model.transformer.h[1].attn.qkv_proj.weight.float()[72:].split(8)
    weight = loaded.blocks[1].qkv.weight
    for start, expected in ((24, query), (56, key), (88, value)):
        assert torch.equal(weight[start : start + 8], expected)


def test_constants_of_old_releases_are_ignored(tmp_path: Path) -> None:
    constants = {"transformer.h.0.attn.causal_mask": torch.ones(64, 64).bool()}
    constants["transformer.h.1.attn.masked_bias"] = torch.tensor(-1e9)
    folder = write_modified_checkpoint(
        SMALL_MODEL, tmp_path, "bin", lambda tensors: tensors.update(constants)
    )
    model = load_checkpoint(folder)
    os.remove(folder / "pytorch_model.bin")
    write_bin_shards({**transformers_model(SMALL_MODEL).state_dict(), **constants}, folder)
    assert torch.equal(load_checkpoint(folder).head.weight, model.head.weight)


def test_weights_that_share_memory_are_loaded_separately(tmp_path: Path) -> None:
    def tie(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"]

    model = load_checkpoint(write_modified_checkpoint(SMALL_MODEL, tmp_path, "bin", tie))
    assert torch.equal(model.head.weight, model.embedding.weight)
    assert model.head.weight.data_ptr() != model.embedding.weight.data_ptr()


def test_weight_files_have_the_priority_of_transformers(tmp_path: Path) -> None:
    """Safetensors before PyTorch, unsharded before sharded."""
    folder = write_transformers_checkpoint(
        transformers_model(SMALL_MODEL, seed=1), tmp_path / "checkpoint", "safetensors"
    )
    for seed, form in ((2, "safetensors shards"), (3, "bin"), (4, "bin shards")):
        model = transformers_model(SMALL_MODEL, seed=seed)
        source = write_transformers_checkpoint(model, tmp_path / form, form)
        for path in source.glob("*model*"):
            path.rename(folder / path.name)
    order = (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    )
    for seed, file in enumerate(order, start=1):
        expected = transformers_model(SMALL_MODEL, seed=seed).lm_head.bias
        assert torch.equal(load_checkpoint(folder).head.bias, expected)
        if seed < 3:
            assert torch.equal(CodeGenForCausalLM.from_pretrained(folder).lm_head.bias, expected)
        (folder / file).unlink()
    with pytest.raises(
        ArtifactError, match=r"model\.safetensors does not exist\n.*pytorch_model\.bin\.index\.json"
    ):
        load_checkpoint(folder)


def test_a_config_may_omit_defaults_and_use_aliases(tmp_path: Path) -> None:
    values = released_config(transformers_model(SMALL_MODEL).config)
    for name in ("activation_function", "layer_norm_epsilon", "n_inner", "tie_word_embeddings"):
        del values[name]
    aliases = {
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    values |= {alias: values.pop(name) for alias, name in aliases.items()}
    (tmp_path / "config.json").write_text(json.dumps(values | {"n_inner": 128}))
    assert load_config(tmp_path) == SMALL_MODEL


def test_padding_rows_are_loaded(tmp_path: Path) -> None:
    """Released tokenizers have 50,295 ids, embeddings 51,200 rows."""
    shape = ModelConfig(
        num_layers=1,
        num_heads=4,
        head_dim=2,
        rotary_dim=2,
        context_length=8,
        padded_vocab_size=51_200,
    )
    folder = write_transformers_checkpoint(
        transformers_model(shape, torch.float16), tmp_path / "checkpoint", "bin", torch.float16
    )
    assert load_checkpoint(folder).embedding.weight.shape == (51_200, 8)
    assert load_config(folder) == shape
