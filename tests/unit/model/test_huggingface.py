"""What we write, against the real `transformers`: both layouts, every dtype, whole and in shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from fixtures.checkpoints import checkpoint_shards, transformers_model, write_transformers_checkpoint
from fixtures.models import TINY, TOKENIZER, lively_model, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CodeGenForCausalLM, GPTJForCausalLM

from components.core.errors import ArtifactError, ConfigError
from components.core.fingerprint import list_files
from components.model.config import ModelConfig
from components.model.formats import CheckpointFormat, Dtype
from components.model.huggingface import load_checkpoint, logit_parity, save_checkpoint
from components.model.huggingface.parity import difference, logits_of_codegen
from components.model.transformer import CodeGen
from components.tokenizer.encoder import Encoder

SHAPES = {
    "tiny": TINY,
    "all dimensions rotate": TINY.replace(rotary_dim=8),
    "three layers of eight heads": TINY.replace(
        num_layers=3, num_heads=8, head_dim=4, rotary_dim=2
    ),
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


def bits(model: CodeGen) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("layout", CheckpointFormat)
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_computes_the_same_logits(
    shape: str, layout: CheckpointFormat, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = lively_model(SHAPES[shape], sharpness=1.0)
    save_checkpoint(model, tokenizer_folder, tmp_path, layout=layout)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (
        type(theirs)
        is {CheckpointFormat.codegen: CodeGenForCausalLM, CheckpointFormat.gptj: GPTJForCausalLM}[
            layout
        ]
    )
    tokens = torch.randint(
        model.config.padded_vocab_size, (2, 50), generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)
    assert difference(tmp_path, logits_of_codegen(model)) < 1e-5
    if layout is CheckpointFormat.codegen:
        assert logit_parity(tmp_path) < 1e-5


def test_a_folder_of_another_model_is_seen_in_its_logits(
    checkpoint: Path, tokenizer_folder: Path
) -> None:
    """One row of one matrix, exchanged with its neighbour."""
    model = lively_model(sharpness=1.0)
    with torch.no_grad():
        model.blocks[1].qkv.weight[[8, 9]] = model.blocks[1].qkv.weight[[9, 8]]
    save_checkpoint(model, tokenizer_folder, checkpoint)
    assert difference(checkpoint, logits_of_codegen(model)) < 1e-5
    assert difference(checkpoint, logits_of_codegen(lively_model(sharpness=1.0))) > 1e-3


@pytest.mark.parametrize("layout", CheckpointFormat)
def test_what_is_larger_than_the_limit_is_split_and_loads_the_same(
    layout: CheckpointFormat, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = lively_model(sharpness=1.0)
    save_checkpoint(model, tokenizer_folder, tmp_path / "whole", layout=layout)
    save_checkpoint(
        model, tokenizer_folder, tmp_path / "split", layout=layout, max_shard_bytes=10_000
    )
    assert not checkpoint_shards(tmp_path / "whole")
    split = {path: load_file(path) for path in checkpoint_shards(tmp_path / "split")}
    assert_equal(
        {name: tensor for tensors in split.values() for name, tensor in tensors.items()},
        load_file(tmp_path / "whole" / "model.safetensors"),
    )
    for tensors in split.values():  # A tensor that is larger has a file of its own.
        assert len(tensors) == 1 or sum(tensor.numel() * 4 for tensor in tensors.values()) <= 10_000
    assert difference(tmp_path / "split", logits_of_codegen(model)) < 1e-5
    if (
        layout is CheckpointFormat.gptj
    ):  # 4,096 bytes each, so the three do not all fit beside what comes before them.
        parts = {
            file.name
            for file, tensors in split.items()
            if any(".h.0.attn." in name for name in tensors)
        }
        assert len(parts) > 1
    else:
        assert_equal(bits(load_checkpoint(tmp_path / "split")), bits(model))


def test_what_replaces_a_model_leaves_none_of_its_files(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    """What is left of it, a reader would take for the weights."""
    model = lively_model()
    forms: dict[str, int] = {"many": 10_000, "few": 60_000, "whole": 10**9}
    for form, limit in forms.items():
        save_checkpoint(model, tokenizer_folder, tmp_path / form, max_shard_bytes=limit)
    for form in ("many", "few", "whole", "few", "many"):
        (tmp_path / "one").mkdir(exist_ok=True)
        (tmp_path / "one" / "pytorch_model.bin").write_text("old")
        save_checkpoint(model, tokenizer_folder, tmp_path / "one", max_shard_bytes=forms[form])
        assert list_files(tmp_path / "one") == list_files(tmp_path / form)


@pytest.mark.parametrize("layout", CheckpointFormat)
@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [(Dtype.fp32, torch.float32), (Dtype.fp16, torch.float16), (Dtype.bf16, torch.bfloat16)],
)
def test_weights_are_stored_as_asked(
    dtype: Dtype,
    torch_dtype: torch.dtype,
    layout: CheckpointFormat,
    tokenizer_folder: Path,
    tmp_path: Path,
) -> None:
    model = lively_model()
    save_checkpoint(model, tokenizer_folder, tmp_path, layout=layout, dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {
        torch_dtype
    }
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert theirs.dtype == torch_dtype
    assert torch.equal(theirs.lm_head.weight, model.head.weight.to(torch_dtype))
    if layout is CheckpointFormat.codegen:
        rounded = {name: tensor.to(torch_dtype).float() for name, tensor in bits(model).items()}
        assert_equal(bits(load_checkpoint(tmp_path)), rounded)


def test_a_weight_that_a_dtype_cannot_hold_is_named(tokenizer_folder: Path, tmp_path: Path) -> None:
    model = lively_model()
    with torch.no_grad():
        model.blocks[1].mlp_in.bias[3] = -70_000.0
    with pytest.raises(
        ConfigError,
        match=r"h\.1\.mlp\.fc_in\.bias holds 70000, too large for float16\n.*65504\n.*bf16",
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
def test_there_and_back_nothing_changes(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_folder: Path,
    shape: ModelConfig,
    dtype: Dtype,
    limit: int,
    seed: int,
) -> None:
    """Theirs, ours, theirs: the tensors are the same to the bit; and what we write again has the same bytes."""
    folder, names = (
        tmp_path_factory.mktemp("round"),
        {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"},
    )
    torch_dtype = getattr(torch, names[dtype])
    theirs = transformers_model(shape, torch_dtype, seed)
    write_transformers_checkpoint(theirs, folder / "theirs", "bin", torch_dtype)
    ours = load_checkpoint(folder / "theirs")
    save_checkpoint(ours, tokenizer_folder, folder / "ours", dtype=dtype, max_shard_bytes=limit)
    back = AutoModelForCausalLM.from_pretrained(folder / "ours", dtype="auto")
    assert_equal(dict(back.state_dict()), dict(theirs.state_dict()))
    save_checkpoint(
        load_checkpoint(folder / "ours"),
        tokenizer_folder,
        folder / "again",
        dtype=dtype,
        max_shard_bytes=limit,
    )
    assert list_files(folder / "again") == list_files(folder / "ours")


def test_a_checkpoint_is_loaded_bit_for_bit(checkpoint: Path) -> None:
    saved, loaded = lively_model(), load_checkpoint(checkpoint)
    assert loaded.config == saved.config
    pairs = zip(saved.named_parameters(), loaded.named_parameters(), strict=True)
    assert all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)


def test_the_same_weights_give_the_same_bytes(
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


@pytest.mark.parametrize("layout", CheckpointFormat)
def test_a_user_of_transformers_can_generate_and_never_meets_a_padding_row(
    layout: CheckpointFormat, tokenizer_folder: Path, tmp_path: Path
) -> None:
    save_checkpoint(lively_model(), tokenizer_folder, tmp_path, layout=layout)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    with torch.no_grad():
        model.lm_head.bias[TOKENIZER.num_ids :] += 1000.0
    prompt = tokenizer("def add(a, b):", return_tensors="pt")
    drawn = model.generate(**prompt, max_new_tokens=8, do_sample=False)[
        0, prompt.input_ids.shape[1] :
    ]
    assert len(drawn) > 0
    assert (drawn < TOKENIZER.num_ids).all()
    assert model.config.eos_token_id == tokenizer.eos_token_id == TOKENIZER.eot_id


def test_both_layouts_have_the_tokenizer_that_trained_the_model(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Runs of white space are tokens of their own, and survive `skip_special_tokens`."""
    text = "def f(x):\n        return x\n\t\t\t\ty   = 'é'  <|endoftext|>\n"
    encoder = Encoder(tokenizer_folder)
    expected = encoder.encode_reference([text.partition("<|")[0]])[0]
    for layout in CheckpointFormat:
        save_checkpoint(lively_model(), tokenizer_folder, tmp_path / layout, layout=layout)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / layout)
        assert (
            type(tokenizer).__name__
            == {
                CheckpointFormat.codegen: "CodeGenTokenizer",
                CheckpointFormat.gptj: "GPT2Tokenizer",
            }[layout]
        )
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
    ids=["no JSON", "no vocabulary", "no end", "an unknown end"],
)
def test_a_tokenizer_that_is_none_is_refused(
    file: str, content: str, message: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / file).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        save_checkpoint(lively_model(), tmp_path / "tokenizer", tmp_path / "no")


def test_an_end_of_text_with_options_is_understood(tokenizer_folder: Path, tmp_path: Path) -> None:
    """As old releases of transformers wrote it."""
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    end = {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "normalized": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": end}))
    save_checkpoint(lively_model(), tmp_path / "tokenizer", tmp_path / "checkpoint")
    assert (
        json.loads((tmp_path / "checkpoint" / "config.json").read_text())["eos_token_id"]
        == TOKENIZER.eot_id
    )


def test_a_tokenizer_with_more_ids_than_rows_is_refused(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="495 ids"):
        save_checkpoint(
            lively_model(TINY.replace(padded_vocab_size=494)), tokenizer_folder, tmp_path / "no"
        )
    assert not (tmp_path / "no").exists()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not exist"):
        save_checkpoint(lively_model(), tmp_path, tmp_path / "no")
