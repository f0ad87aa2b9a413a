"""Checkpoints as plain folders in Hugging Face's CodeGen format, written and read.

What is written loads with `AutoModelForCausalLM` and `AutoTokenizer`, and has the same bytes for the same weights. The names
and the order of rows that the format demands are applied here and known nowhere else: released checkpoints keep queries,
values and keys in four blocks, a remainder of the four TPU cores that the authors trained on. Not covered: weights split
over several files, and formats other than safetensors.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.core.errors import ArtifactError, ConfigError
from components.core.files import read_json, write_json, writing
from components.model.config import QKV_BLOCKS, ModelConfig
from components.model.transformer import LAYER_NORM_EPSILON, CodeGen

WEIGHTS, CONFIG, GENERATION_CONFIG = "model.safetensors", "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

_NAMES = {
    "embedding": "transformer.wte",
    "blocks": "transformer.h",
    "norm": "ln_1",
    "qkv": "attn.qkv_proj",
    "attention_out": "attn.out_proj",
    "mlp_in": "mlp.fc_in",
    "mlp_out": "mlp.fc_out",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
}
"""Our names of modules, and those of `transformers.CodeGenForCausalLM`."""

_NO_WEIGHTS = (".attn.causal_mask", ".attn.masked_bias")
"""Constants that old releases of transformers stored beside the weights."""

_SHARED_SETTINGS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": LAYER_NORM_EPSILON,
    "model_type": "codegen",
    "n_inner": None,
    "tie_word_embeddings": False,
}
"""What every model of ours has in common, by Hugging Face's names."""

_PARITY_TOKENS = (2, 128)
"""Batch and length (at most) of the random tokens that `logit_parity` compares."""


def save_checkpoint(model: CodeGen, tokenizer_folder: Path, folder: Path) -> None:
    """Write `config.json`, `generation_config.json`, `model.safetensors` and the tokenizer's two files into `folder`.

    Args:
        tokenizer_folder: holds `tokenizer.json` and `tokenizer_config.json`, whose end-of-text ends generation.
        folder: made if it does not exist; files of these names in it are replaced, each atomically.

    Raises:
        ArtifactError: the tokenizer's files are missing, or name no end-of-text.
        ConfigError: the tokenizer has more ids than the model has rows.
        StorageFull: no room is left.
    """
    eot_id, num_ids = _read_tokenizer(tokenizer_folder)
    if num_ids > model.config.vocab_rows:
        raise ConfigError(
            f"the tokenizer in {tokenizer_folder} has {num_ids:,} ids",
            expected=f"at most as many as the model has rows, {model.config.vocab_rows:,}",
            do="raise vocab_rows, or use the tokenizer that the model was trained with",
        )
    tensors = {_their_name(name): _to_theirs(name, weight.detach().cpu()) for name, weight in model.named_parameters()}
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / CONFIG, _settings(model, eot_id))
    padding_rows = list(range(num_ids, model.config.vocab_rows))
    ends = {"bos_token_id": eot_id, "eos_token_id": eot_id, "pad_token_id": eot_id}
    write_json(folder / GENERATION_CONFIG, ends | ({"suppress_tokens": padding_rows} if padding_rows else {}))
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        with writing(folder / name) as temporary:
            shutil.copyfile(tokenizer_folder / name, temporary)


def load_checkpoint(folder: Path) -> CodeGen:
    """The model of a folder that `save_checkpoint` wrote, or of a released CodeGen checkpoint; in fp32, on the CPU.

    Raises:
        ArtifactError: a file is missing, is no CodeGen model, was cut short, or lacks a tensor or has one too many or of
            another shape; the message names it.
    """
    config = load_config(folder)
    with torch.device("meta"):
        model = CodeGen(config)
    model.to_empty(device="cpu")
    path = folder / WEIGHTS
    wanted = {_their_name(name): (name, parameter) for name, parameter in model.named_parameters()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name for name in file.keys() if not name.endswith(_NO_WEIGHTS)}  # noqa: SIM118 (not a dict)
            if missing_or_more := sorted(found ^ set(wanted)):
                name = missing_or_more[0]
                raise _damaged(
                    path, f"{'lacks' if name in wanted else 'has also'} the tensor {name}", "a CodeGen model's own"
                )
            for theirs, (ours, parameter) in wanted.items():
                tensor = file.get_tensor(theirs)
                if tensor.shape != parameter.shape:
                    raise _damaged(path, f"has {theirs} of shape {list(tensor.shape)}", str(list(parameter.shape)))
                with torch.no_grad():
                    parameter.copy_(_to_ours(ours, tensor))
    except FileNotFoundError:
        raise _damaged(path, "does not exist", "the weights of a checkpoint") from None
    except SafetensorError as error:
        cut = _first_cut_tensor(path)
        got = f"ends inside the tensor {cut}" if cut else f"cannot be read ({error})"
        raise _damaged(path, got, "a whole safetensors file") from error
    return model


def load_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder.

    Raises:
        ArtifactError: there is no `config.json`, or it describes another kind of model.
    """
    path = folder / CONFIG
    try:
        settings = read_json(path)
        width, num_heads = settings["n_embd"], settings["n_head"]
        for key, value in _SHARED_SETTINGS.items():
            if settings.get(key) != value and not (key == "n_inner" and settings.get(key) == 4 * width):
                raise _damaged(path, f"has {key} {settings.get(key)!r}", f"{value!r}, as every CodeGen model")
        return ModelConfig.parse(
            {
                "num_layers": settings["n_layer"],
                "num_heads": num_heads,
                "head_dim": width // num_heads,
                "rotary_dims": settings["rotary_dim"],
                "context_length": settings["n_positions"],
                "vocab_rows": settings["vocab_size"],
            }
        )
    except FileNotFoundError:
        raise _damaged(path, "does not exist", "the configuration of a checkpoint") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, f"is not JSON ({error})", "the configuration of a checkpoint") from error
    except KeyError as error:
        raise _damaged(path, f"has no {error}", "the configuration of a CodeGen checkpoint") from error


def logit_parity(folder: Path, *, seed: int = 0) -> float:
    """The largest absolute difference between our logits and those of `transformers` for a checkpoint, on random tokens.

    In fp32 it is rounding, some 1e-6; more means that the folder is not the model that was trained.
    """
    from transformers import AutoModelForCausalLM  # Slow to import, and the trainer needs this module without it.
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # It would draw a bar for a load of a few milliseconds.
    ours = load_checkpoint(folder).eval()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batch_size, length = _PARITY_TOKENS
    shape = (batch_size, min(length, ours.config.context_length))
    tokens_BT = torch.randint(ours.config.vocab_rows, shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return float((ours(tokens_BT) - theirs(tokens_BT).logits).abs().max())


def _settings(model: CodeGen, eot_id: int) -> dict[str, Any]:
    config = model.config
    return {
        **_SHARED_SETTINGS,
        "architectures": ["CodeGenForCausalLM"],
        "attn_pdrop": 0.0,
        "bos_token_id": eot_id,
        "dtype": str(model.head.weight.dtype).removeprefix("torch."),
        "embd_pdrop": 0.0,
        "eos_token_id": eot_id,
        "n_ctx": config.context_length,
        "n_embd": config.d_model,
        "n_head": config.num_heads,
        "n_layer": config.num_layers,
        "n_positions": config.context_length,
        "pad_token_id": eot_id,
        "resid_pdrop": 0.0,
        "rotary_dim": config.rotary_dims,
        "tokenizer_class": "CodeGenTokenizer",
        "vocab_size": config.vocab_rows,
    }


def _read_tokenizer(folder: Path) -> tuple[int, int]:
    """The id of the end-of-text, and how many ids there are."""
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        if not (folder / name).is_file():
            raise _damaged(folder / name, "does not exist", "a tokenizer in Hugging Face's format")
    tokenizer = read_json(folder / TOKENIZER)
    ids = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    eos_token = read_json(folder / TOKENIZER_CONFIG).get("eos_token")
    if eos_token not in ids:
        raise _damaged(folder / TOKENIZER_CONFIG, f"has eos_token {eos_token!r}", "a token of the vocabulary")
    return ids[eos_token], max(ids.values()) + 1


def _their_name(name: str) -> str:
    return ".".join(_NAMES.get(part, part) for part in name.split("."))


def _to_theirs(name: str, weight: Tensor) -> Tensor:
    """Rows [q, k, v][block] of the fused projection become rows [block][q, v, k]; other weights stay as they are."""
    if not name.endswith("qkv.weight"):
        return weight
    rows = weight.view(3, QKV_BLOCKS, -1, weight.shape[1])
    return rows[[0, 2, 1]].transpose(0, 1).reshape(weight.shape).contiguous()


def _to_ours(name: str, weight: Tensor) -> Tensor:
    """The inverse of `_to_theirs`."""
    if not name.endswith("qkv.weight"):
        return weight
    rows = weight.view(QKV_BLOCKS, 3, -1, weight.shape[1])
    return rows.transpose(0, 1)[[0, 2, 1]].reshape(weight.shape)


def _first_cut_tensor(path: Path) -> str | None:
    """The first tensor whose bytes the file does not hold to their end; None where not even the header is readable.

    A safetensors file is 8 bytes with the header's length, the header in JSON, then the tensors.
    """
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(header_bytes, size_bytes)))
        ends = sorted((entry["data_offsets"][1], name) for name, entry in header.items() if name != "__metadata__")
    except (struct.error, ValueError, KeyError, TypeError):
        return None
    return next((name for end, name in ends if 8 + header_bytes + end > size_bytes), None)


def _damaged(path: Path, got: str, expected: str) -> ArtifactError:
    return ArtifactError(f"{path} {got}", expected=expected, do="restore the folder, or build the checkpoint again")
