"""Hugging Face's format: `config.json`, the tokenizer's files, and the names and rows of tensors.

`config.json`: values that differ between CodeGen models are read; values that all CodeGen models
share must match, or may be absent if the default of `transformers` matches. Dropout is ignored.

Tensors: released CodeGen checkpoints store queries, values and keys fused and in four blocks, from
the four TPU cores that the authors trained on. GPT-J stores three matrices, heads in order. The
rest of the two architectures is the same: rotary pairs and angles, a LayerNorm per block, a head
with bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from components.core.errors import ArtifactError, ConfigError
from components.core.files import parse_json
from components.model.config import QKV_BLOCKS, CheckpointFormat, ModelConfig
from components.model.transformer import LAYER_NORM_EPSILON

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

TOKENIZER_CLASSES = {
    CheckpointFormat.codegen: "CodeGenTokenizer",
    CheckpointFormat.gptj: "GPT2Tokenizer",
}
"""Both read the same `tokenizer.json`; servers that support GPT-J may not support CodeGen's."""

_MODEL_TYPE = "codegen"
_ARCHITECTURES = {
    CheckpointFormat.codegen: "CodeGenForCausalLM",
    CheckpointFormat.gptj: "GPTJForCausalLM",
}

_SHARED_VALUES = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": LAYER_NORM_EPSILON,
    "n_inner": None,
    "tie_word_embeddings": False,
}
"""Values that all CodeGen models share; also the defaults of `transformers.CodeGenConfig`."""

_ALIASES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}
"""Other keys that `transformers` accepts."""

_MAX_DIMENSION = 1 << 24
"""So that no product of two dimensions overflows (assumption: larger than any model)."""
_MAX_LAYERS = 1_000
"""30,000 layers took a minute to create (assumption: more than any model has)."""

_MODULE_NAMES = {
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
"""From our module names to those of `CodeGenForCausalLM`. GPT-J differs in the fused projection."""

_FUSED = "qkv.weight"
_GPTJ_PROJECTIONS = ("q_proj", "k_proj", "v_proj")

CONSTANT_SUFFIXES = (".attn.causal_mask", ".attn.masked_bias")
"""Names of constants that old releases of transformers stored beside the weights."""


class TokenizerInfo(NamedTuple):
    """The facts about a tokenizer that a model's files contain."""

    eot_id: int
    num_ids: int


def load_config(folder: Path) -> ModelConfig:
    """Read the shape of the model in a folder.

    Raises:
        ArtifactError: `config.json` is missing or describes another kind of model.
    """
    path = folder / CONFIG
    values = _read_object(path, "the configuration of a CodeGen checkpoint")
    if values.get("model_type") != _MODEL_TYPE:
        raise invalid_file(path, f"has model_type {values.get('model_type')!r}", f"{_MODEL_TYPE!r}")
    width = _count(path, values, "n_embd")
    num_heads = _count(path, values, "n_head")
    _check_shared_values(path, values, width)
    if width % num_heads:
        raise invalid_file(
            path, f"has n_embd {width} and n_head {num_heads}", "n_embd divisible by n_head"
        )
    try:
        return ModelConfig.parse(
            {
                "num_layers": _count(path, values, "n_layer"),
                "num_heads": num_heads,
                "head_dim": width // num_heads,
                "rotary_dim": _count(path, values, "rotary_dim"),
                "context_length": _count(path, values, "n_positions"),
                "padded_vocab_size": _count(path, values, "vocab_size"),
            }
        )
    except ConfigError as error:
        raise invalid_file(path, "describes an invalid model", error.expected) from error


def _check_shared_values(path: Path, values: dict[str, Any], width: int) -> None:
    for key, expected in _SHARED_VALUES.items():
        value = values.get(key, expected)
        is_default_width = key == "n_inner" and value == 4 * width
        if value != expected and not is_default_width:
            raise invalid_file(
                path, f"has {key} {value!r}", f"{expected!r}, as in every CodeGen model"
            )


def to_hf_config(
    config: ModelConfig, eot_id: int, checkpoint_format: CheckpointFormat, dtype: str
) -> dict[str, Any]:
    """Return the content of `config.json`; `dtype` is torch's name."""
    values = {
        **_SHARED_VALUES,
        "architectures": [_ARCHITECTURES[checkpoint_format]],
        "attn_pdrop": 0.0,
        "bos_token_id": eot_id,
        "dtype": dtype,
        "embd_pdrop": 0.0,
        "eos_token_id": eot_id,
        "model_type": str(checkpoint_format),
        "n_embd": config.d_model,
        "n_head": config.num_heads,
        "n_layer": config.num_layers,
        "n_positions": config.context_length,
        "pad_token_id": eot_id,
        "resid_pdrop": 0.0,
        "rotary_dim": config.rotary_dim,
        "tokenizer_class": TOKENIZER_CLASSES[checkpoint_format],
        "vocab_size": config.padded_vocab_size,
    }
    if checkpoint_format == CheckpointFormat.codegen:
        values["n_ctx"] = config.context_length
    return values


def read_tokenizer(folder: Path) -> TokenizerInfo:
    """Read the end-of-text id and the number of ids.

    Raises:
        ArtifactError: a tokenizer file is missing or not JSON, or has no end-of-text token.
    """
    tokenizer = _read_object(folder / TOKENIZER, "a tokenizer in Hugging Face's format")
    tokenizer_config = _read_object(
        folder / TOKENIZER_CONFIG, "a tokenizer in Hugging Face's format"
    )
    eos_token = tokenizer_config.get("eos_token")
    if isinstance(eos_token, dict):  # transformers writes a token with options like this.
        eos_token = eos_token.get("content")
    try:
        ids = dict(tokenizer["model"]["vocab"])
        for token in tokenizer["added_tokens"]:
            ids[token["content"]] = token["id"]
        num_ids = max(ids.values()) + 1
    except (KeyError, TypeError, ValueError) as error:
        raise invalid_file(
            folder / TOKENIZER, f"has no vocabulary ({error!r})", "model.vocab and added_tokens"
        ) from error
    if not isinstance(eos_token, str) or eos_token not in ids:
        raise invalid_file(
            folder / TOKENIZER_CONFIG, f"has eos_token {eos_token!r}", "a token of the vocabulary"
        )
    return TokenizerInfo(ids[eos_token], num_ids)


def codegen_name(name: str) -> str:
    """Return the name of a parameter of `CodeGen` in CodeGen's format."""
    return ".".join(_MODULE_NAMES.get(module, module) for module in name.split("."))


def to_hf(name: str, weight: Tensor, checkpoint_format: CheckpointFormat) -> dict[str, Tensor]:
    """Convert a parameter of `CodeGen` to tensors of a checkpoint format, by name.

    Works on the meta device, too, for the shapes.
    """
    hf_name = codegen_name(name)
    if not name.endswith(_FUSED):
        return {hf_name: weight}
    if checkpoint_format == CheckpointFormat.gptj:
        names = [hf_name.replace("qkv_proj", projection) for projection in _GPTJ_PROJECTIONS]
        return dict(zip(names, weight.chunk(3), strict=True))
    rows = weight.view(3, QKV_BLOCKS, -1, weight.shape[1])
    return {hf_name: rows[[0, 2, 1]].transpose(0, 1).reshape(weight.shape).contiguous()}


def from_codegen(name: str, weight: Tensor) -> list[Tensor]:
    """Return the blocks of rows that are the parameter `name` of `CodeGen`, in order, as views.

    Rows [block][q, v, k] of the fused projection become [q, k, v][block].
    """
    if not name.endswith(_FUSED):
        return [weight]
    rows = weight.view(QKV_BLOCKS, 3, -1, weight.shape[1])
    return [rows[block, projection] for projection in (0, 2, 1) for block in range(QKV_BLOCKS)]


def invalid_file(path: Path, problem: str, expected: str) -> ArtifactError:
    """Return the error for an invalid file of a checkpoint."""
    return ArtifactError(
        f"{path} {problem}",
        expected=expected,
        fix="restore the folder or download it again; rebuild it if this project trained it",
    )


def _read_object(path: Path, expected: str) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise invalid_file(path, "does not exist", expected) from None
    except OSError as error:
        raise invalid_file(path, f"cannot be read ({error.strerror})", expected) from error
    except ValueError as error:  # Not JSON, not UTF-8, or nested too deeply.
        raise invalid_file(path, f"is not JSON ({error})", expected) from error
    if not isinstance(content, dict):
        raise invalid_file(path, f"holds a JSON {type(content).__name__}", expected)
    return content


def _count(path: Path, values: dict[str, Any], key: str) -> int:
    value = values.get(key, values.get(_ALIASES.get(key, key)))
    maximum = _MAX_LAYERS if key == "n_layer" else _MAX_DIMENSION
    if type(value) is not int or not 1 <= value <= maximum:
        problem = f"has no {key!r}" if value is None else f"has {key} {value!r}"
        raise invalid_file(path, problem, f"{key}, an integer from 1 to {maximum:,}")
    return value
