"""Against the real `transformers`, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures.models import TINY, TOKENIZER, lively_model, write_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CodeGenConfig, CodeGenForCausalLM

from components.core.errors import ArtifactError, ConfigError
from components.core.fingerprint import list_files
from components.model.config import ModelConfig
from components.model.huggingface import load_checkpoint, logit_parity, save_checkpoint

SHAPES = {
    "tiny": TINY,
    "all dimensions rotate": TINY.replace(rotary_dims=8),
    "three layers of eight heads": TINY.replace(num_layers=3, num_heads=8, head_dim=4, rotary_dims=2),
    "350M's heads": ModelConfig(num_layers=1, num_heads=16, head_dim=64, rotary_dims=32, context_length=128, vocab_rows=600),
}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def checkpoint(tmp_path: Path, tokenizer_folder: Path) -> Path:
    save_checkpoint(lively_model(), tokenizer_folder, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_computes_the_same_logits(shape: str, tokenizer_folder: Path, tmp_path: Path) -> None:
    model = lively_model(SHAPES[shape], sharpness=1.0)
    save_checkpoint(model, tokenizer_folder, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(theirs, CodeGenForCausalLM)
    tokens = torch.randint(model.config.vocab_rows, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)
    assert logit_parity(tmp_path) < 1e-5


def test_a_checkpoint_is_loaded_bit_for_bit(checkpoint: Path) -> None:
    saved, loaded = lively_model(), load_checkpoint(checkpoint)
    assert loaded.config == saved.config
    pairs = zip(saved.named_parameters(), loaded.named_parameters(), strict=True)
    assert all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)


def test_a_model_that_transformers_saved_is_loaded(tmp_path: Path) -> None:
    settings = {"n_embd": 32, "n_head": 4, "n_layer": 2, "rotary_dim": 4, "n_positions": 64, "vocab_size": 100}
    torch.manual_seed(0)
    theirs = CodeGenForCausalLM(CodeGenConfig(**settings)).half().float().eval()
    theirs.save_pretrained(tmp_path)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(load_checkpoint(tmp_path)(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)


def test_the_same_weights_give_the_same_bytes(checkpoint: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
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


def test_a_user_of_transformers_can_generate_and_never_meets_a_padding_row(checkpoint: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    with torch.no_grad():
        model.lm_head.bias[TOKENIZER.num_ids :] += 1000.0
    prompt = tokenizer("def add(a, b):", return_tensors="pt")
    drawn = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert len(drawn) > 0
    assert (drawn < TOKENIZER.num_ids).all()
    assert model.config.eos_token_id == tokenizer.eos_token_id == TOKENIZER.eot_id


def rewrite(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_tensor_is_named(checkpoint: Path) -> None:
    rewrite(checkpoint, lambda tensors: tensors.pop("transformer.h.1.mlp.fc_in.bias"))
    with pytest.raises(ArtifactError, match=r"lacks the tensor transformer\.h\.1\.mlp\.fc_in\.bias"):
        load_checkpoint(checkpoint)


def test_a_tensor_too_many_is_named(checkpoint: Path) -> None:
    rewrite(checkpoint, lambda tensors: tensors.update({"transformer.h.2.ln_1.bias": torch.zeros(32)}))
    with pytest.raises(ArtifactError, match=r"has also the tensor transformer\.h\.2\.ln_1\.bias"):
        load_checkpoint(checkpoint)


def test_a_tensor_of_another_shape_is_named(checkpoint: Path) -> None:
    rewrite(checkpoint, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(32, 512)}))
    with pytest.raises(ArtifactError, match=r"has lm_head\.weight of shape \[32, 512\]\n.*\[512, 32\]"):
        load_checkpoint(checkpoint)


def test_the_mask_that_old_releases_stored_is_no_weight(checkpoint: Path) -> None:
    rewrite(checkpoint, lambda tensors: tensors.update({"transformer.h.0.attn.causal_mask": torch.ones(64, 64)}))
    load_checkpoint(checkpoint)


def test_weights_that_were_cut_short_name_the_tensor(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"ends inside the tensor transformer\.wte\.weight"):
        load_checkpoint(checkpoint)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtifactError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "config.json does not exist"),
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", '{"n_embd": 32}', "has no 'n_head'"),
        ("config.json", '{"n_embd": 32, "n_head": 4, "model_type": "gptj"}', "has activation_function None"),
        ("model.safetensors", None, "model.safetensors does not exist"),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_why(checkpoint: Path, file: str, content: str | None, message: str) -> None:
    if content is None:
        (checkpoint / file).unlink()
    else:
        (checkpoint / file).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        load_checkpoint(checkpoint)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="495 ids"):
        save_checkpoint(lively_model(TINY.replace(vocab_rows=494)), tokenizer_folder, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not exist"):
        save_checkpoint(lively_model(), tmp_path, tmp_path / "no")
