"""`transformers` loads our checkpoints: both formats, every dtype, sharded or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from fixtures.checkpoints import (
    checkpoint_shards,
    shape_variants,
    transformers_model,
    write_transformers_checkpoint,
)
from fixtures.models import TINY, TOKENIZER, lively_model, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CodeGenForCausalLM, GPTJForCausalLM

from components.core.errors import ArtifactError, ConfigError
from components.core.fingerprint import list_files
from components.model.config import CheckpointFormat, Dtype, ModelConfig
from components.model.huggingface import load_checkpoint, logit_parity, save_checkpoint
from components.model.huggingface.checkpoint_export import logits_of_codegen, max_logit_difference
from components.model.transformer import CodeGen
from components.tokenizer.encoder import Encoder

SHAPES = {
    **shape_variants(TINY),
    "350M's heads": ModelConfig(
        num_layers=1,
        num_heads=16,
        head_dim=64,
        rotary_dim=32,
        context_length=128,
        padded_vocab_size=600,
    ),
}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def checkpoint(tmp_path: Path, tokenizer_folder: Path) -> Path:
    save_checkpoint(lively_model(), tokenizer_folder, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def parameters_of(model: CodeGen) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def assert_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("checkpoint_format", CheckpointFormat)
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_computes_the_same_logits(
    shape: str, checkpoint_format: CheckpointFormat, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = lively_model(SHAPES[shape], sharpness=1.0)
    save_checkpoint(model, tokenizer_folder, tmp_path, checkpoint_format=checkpoint_format)
    classes = {
        CheckpointFormat.codegen: CodeGenForCausalLM,
        CheckpointFormat.gptj: GPTJForCausalLM,
    }
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(reference) is classes[checkpoint_format]
    tokens = torch.randint(
        model.config.padded_vocab_size, (2, 50), generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), reference(tokens).logits, atol=1e-5, rtol=0)
    assert max_logit_difference(tmp_path, logits_of_codegen(model)) < 1e-5
    if checkpoint_format is CheckpointFormat.codegen:
        assert logit_parity(tmp_path) < 1e-5


def test_a_changed_model_has_different_logits(checkpoint: Path, tokenizer_folder: Path) -> None:
    """Two rows of a matrix are swapped."""
    model = lively_model(sharpness=1.0)
    with torch.no_grad():
        model.blocks[1].qkv.weight[[8, 9]] = model.blocks[1].qkv.weight[[9, 8]]
    save_checkpoint(model, tokenizer_folder, checkpoint)
    assert max_logit_difference(checkpoint, logits_of_codegen(model)) < 1e-5
    assert max_logit_difference(checkpoint, logits_of_codegen(lively_model(sharpness=1.0))) > 1e-3


@pytest.mark.parametrize("checkpoint_format", CheckpointFormat)
def test_a_model_above_the_limit_is_sharded_and_loads_the_same(
    checkpoint_format: CheckpointFormat, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = lively_model(sharpness=1.0)
    save_checkpoint(
        model, tokenizer_folder, tmp_path / "single", checkpoint_format=checkpoint_format
    )
    save_checkpoint(
        model,
        tokenizer_folder,
        tmp_path / "split",
        checkpoint_format=checkpoint_format,
        max_shard_bytes=10_000,
    )
    assert not checkpoint_shards(tmp_path / "single")
    split = {path: load_file(path) for path in checkpoint_shards(tmp_path / "split")}
    assert_equal(
        {name: tensor for tensors in split.values() for name, tensor in tensors.items()},
        load_file(tmp_path / "single" / "model.safetensors"),
    )
    for tensors in split.values():  # A larger tensor has a file of its own.
        assert len(tensors) == 1 or sum(tensor.numel() * 4 for tensor in tensors.values()) <= 10_000
    assert max_logit_difference(tmp_path / "split", logits_of_codegen(model)) < 1e-5
    if checkpoint_format is CheckpointFormat.gptj:
        # The three projections of a layer have 4,096 bytes each: too large for a single shard.
        parts = {
            file.name
            for file, tensors in split.items()
            if any(".h.0.attn." in name for name in tensors)
        }
        assert len(parts) > 1
    else:
        assert_equal(parameters_of(load_checkpoint(tmp_path / "split")), parameters_of(model))


def test_files_of_a_replaced_model_are_removed(tokenizer_folder: Path, tmp_path: Path) -> None:
    """A reader would load remaining files."""
    model = lively_model()
    forms: dict[str, int] = {"many": 10_000, "few": 60_000, "single": 10**9}
    for form, limit in forms.items():
        save_checkpoint(model, tokenizer_folder, tmp_path / form, max_shard_bytes=limit)
    for form in ("many", "few", "single", "few", "many"):
        (tmp_path / "replaced").mkdir(exist_ok=True)
        (tmp_path / "replaced" / "pytorch_model.bin").write_text("old")
        save_checkpoint(model, tokenizer_folder, tmp_path / "replaced", max_shard_bytes=forms[form])
        assert list_files(tmp_path / "replaced") == list_files(tmp_path / form)


@pytest.mark.parametrize("checkpoint_format", CheckpointFormat)
@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [(Dtype.fp32, torch.float32), (Dtype.fp16, torch.float16), (Dtype.bf16, torch.bfloat16)],
)
def test_weights_are_stored_in_the_requested_dtype(
    dtype: Dtype,
    torch_dtype: torch.dtype,
    checkpoint_format: CheckpointFormat,
    tokenizer_folder: Path,
    tmp_path: Path,
) -> None:
    model = lively_model()
    save_checkpoint(
        model, tokenizer_folder, tmp_path, checkpoint_format=checkpoint_format, dtype=dtype
    )
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {
        torch_dtype
    }
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert reference.dtype == torch_dtype
    assert torch.equal(reference.lm_head.weight, model.head.weight.to(torch_dtype))
    if checkpoint_format is CheckpointFormat.codegen:
        rounded = {
            name: tensor.to(torch_dtype).float() for name, tensor in parameters_of(model).items()
        }
        assert_equal(parameters_of(load_checkpoint(tmp_path)), rounded)


def test_the_error_names_a_weight_that_a_dtype_cannot_represent(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = lively_model()
    with torch.no_grad():
        model.blocks[1].mlp_in.bias[3] = -70_000.0
    with pytest.raises(
        ConfigError,
        match=r"h\.1\.mlp\.fc_in\.bias has the value 70000, too large for float16\n.*65504\n.*bf16",
    ):
        save_checkpoint(model, tokenizer_folder, tmp_path, dtype=Dtype.fp16)
    save_checkpoint(model, tokenizer_folder, tmp_path, dtype=Dtype.bf16)
    with torch.no_grad():
        model.blocks[1].mlp_in.bias[3] = torch.nan
    with pytest.raises(ArtifactError, match=r"h\.1\.mlp\.fc_in\.bias are not all finite"):
        save_checkpoint(model, tokenizer_folder, tmp_path, dtype=Dtype.fp16)


shapes = st.builds(
    lambda layers, blocks, pairs, rotary, rows: ModelConfig(
        num_layers=layers,
        num_heads=4 * blocks,
        head_dim=2 * pairs,
        rotary_dim=2 * min(rotary, pairs),
        context_length=8,
        padded_vocab_size=495 + rows,
    ),
    *(st.integers(1, 3) for _ in range(4)),
    st.integers(0, 20),
)


@settings(deadline=None, max_examples=25)
@given(
    shape=shapes,
    dtype=st.sampled_from(Dtype),
    limit=st.integers(500, 200_000),
    seed=st.integers(0, 9),
)
def test_a_round_trip_through_our_format_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_folder: Path,
    shape: ModelConfig,
    dtype: Dtype,
    limit: int,
    seed: int,
) -> None:
    """Load from `transformers`, save, load in `transformers`: same bits. Save again: same bytes."""
    folder = tmp_path_factory.mktemp("round")
    names = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    torch_dtype = getattr(torch, names[dtype])
    reference = transformers_model(shape, torch_dtype, seed)
    write_transformers_checkpoint(reference, folder / "reference", "bin", torch_dtype)
    model = load_checkpoint(folder / "reference")
    save_checkpoint(model, tokenizer_folder, folder / "saved", dtype=dtype, max_shard_bytes=limit)
    reloaded = AutoModelForCausalLM.from_pretrained(folder / "saved", dtype="auto")
    assert_equal(dict(reloaded.state_dict()), dict(reference.state_dict()))
    save_checkpoint(
        load_checkpoint(folder / "saved"),
        tokenizer_folder,
        folder / "again",
        dtype=dtype,
        max_shard_bytes=limit,
    )
    assert list_files(folder / "again") == list_files(folder / "saved")


def test_a_checkpoint_is_loaded_exactly(checkpoint: Path) -> None:
    saved = lively_model()
    loaded = load_checkpoint(checkpoint)
    assert loaded.config == saved.config
    assert_equal(parameters_of(loaded), parameters_of(saved))
    assert list(parameters_of(loaded)) == list(parameters_of(saved))


def test_saved_files_are_deterministic(
    checkpoint: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    save_checkpoint(load_checkpoint(checkpoint), tokenizer_folder, tmp_path / "again")
    assert list_files(tmp_path / "again") == list_files(checkpoint)
    names = {file.path for file in list_files(checkpoint)}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("checkpoint_format", CheckpointFormat)
def test_transformers_can_generate_and_never_generates_a_padding_id(
    checkpoint_format: CheckpointFormat, tokenizer_folder: Path, tmp_path: Path
) -> None:
    save_checkpoint(lively_model(), tokenizer_folder, tmp_path, checkpoint_format=checkpoint_format)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        model.lm_head.bias[TOKENIZER.num_ids :] += 1000.0
    prompt = tokenizer("def add(a, b):", return_tensors="pt")
    generated = model.generate(**prompt, max_new_tokens=8, do_sample=False)[
        0, prompt.input_ids.shape[1] :
    ]
    assert len(generated) > 0
    assert (generated < TOKENIZER.num_ids).all()
    assert model.config.eos_token_id == tokenizer.eos_token_id == TOKENIZER.eot_id


def test_both_formats_have_the_tokenizer_of_the_training(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Tokens for runs of white space are kept by `skip_special_tokens`."""
    text = "def f(x):\n        return x\n\t\t\t\ty   = 'é'  <|endoftext|>\n"
    classes = {
        CheckpointFormat.codegen: "CodeGenTokenizer",
        CheckpointFormat.gptj: "GPT2Tokenizer",
    }
    encoder = Encoder(tokenizer_folder)
    expected = encoder.encode_reference([text.partition("<|")[0]])[0]
    for checkpoint_format in CheckpointFormat:
        save_checkpoint(
            lively_model(),
            tokenizer_folder,
            tmp_path / checkpoint_format,
            checkpoint_format=checkpoint_format,
        )
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / checkpoint_format)
        assert type(tokenizer).__name__ == classes[checkpoint_format]
        ids = tokenizer(text).input_ids
        assert ids[: len(expected)] == expected
        assert ids[len(expected)] == encoder.eot_id
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("<|endoftext|>", "")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json is not JSON"),
        ("tokenizer.json", "{}", r"tokenizer\.json has no vocabulary"),
        ("tokenizer_config.json", "{}", r"tokenizer_config\.json has eos_token None"),
        (
            "tokenizer_config.json",
            '{"eos_token": {"content": "</s>"}}',
            r"tokenizer_config\.json has eos_token '</s>'",
        ),
    ],
    ids=["not JSON", "no vocabulary", "no end-of-text", "unknown end-of-text"],
)
def test_an_invalid_tokenizer_is_an_error(
    file: str, content: str, message: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / file).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        save_checkpoint(lively_model(), tmp_path / "tokenizer", tmp_path / "no")


def test_an_end_of_text_token_with_options_is_read(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Old releases of transformers wrote it like this."""
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    eos_token = {
        "__type": "AddedToken",
        "content": "<|endoftext|>",
        "lstrip": False,
        "normalized": True,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": eos_token}))
    save_checkpoint(lively_model(), tmp_path / "tokenizer", tmp_path / "checkpoint")
    assert (
        json.loads((tmp_path / "checkpoint" / "config.json").read_text())["eos_token_id"]
        == TOKENIZER.eot_id
    )


def test_a_tokenizer_with_more_ids_than_rows_is_an_error(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="495 ids"):
        save_checkpoint(
            lively_model(TINY.replace(padded_vocab_size=494)), tokenizer_folder, tmp_path / "no"
        )
    assert not (tmp_path / "no").exists()


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not exist"):
        save_checkpoint(lively_model(), tmp_path, tmp_path / "no")
