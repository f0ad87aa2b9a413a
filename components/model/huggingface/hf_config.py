"""`config.json` both ways, and what a checkpoint has to know of its tokenizer.

Only what tells one CodeGen from another is read; what all of them share is demanded as it is, or may be left out where
`transformers` would fill in the same. Dropout is ignored: we train without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import ArtifactError, ConfigError
from components.core.files import read_json
from components.model.config import ModelConfig
from components.model.formats import CheckpointFormat
from components.model.transformer import LAYER_NORM_EPSILON

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

TOKENIZER_CLASSES = {
    CheckpointFormat.codegen: "CodeGenTokenizer",
    CheckpointFormat.gptj: "GPT2Tokenizer",
}
"""Both read the same `tokenizer.json`; servers that know GPT-J need not know CodeGen's."""

_MODEL_TYPE = "codegen"
_ARCHITECTURES = {
    CheckpointFormat.codegen: "CodeGenForCausalLM",
    CheckpointFormat.gptj: "GPTJForCausalLM",
}

_SHARED_SETTINGS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": LAYER_NORM_EPSILON,
    "n_inner": None,
    "tie_word_embeddings": False,
}
"""What every model of ours has in common, by Hugging Face's names; also their defaults in `transformers.CodeGenConfig`."""

_OTHER_NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}
"""`transformers` takes these for the former."""


_MOST, _MOST_LAYERS = 1 << 24, 1_000
"""Of any dimension, so that no product of two overflows; and of layers: 30,000 took a minute to be made and then refused.
Assumption: more than any model has."""


class TokenizerFacts(NamedTuple):
    """What a model's files say about its tokenizer."""

    eot_id: int
    num_ids: int


def load_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder.

    Raises:
        ArtifactError: there is no `config.json`, or it describes another kind of model.
    """
    path = folder / CONFIG
    settings = _read(path, "the configuration of a CodeGen checkpoint")
    if settings.get("model_type") != _MODEL_TYPE:
        raise damaged(path, f"has model_type {settings.get('model_type')!r}", f"{_MODEL_TYPE!r}")
    width, num_heads = _count(path, settings, "n_embd"), _count(path, settings, "n_head")
    for key, value in _SHARED_SETTINGS.items():
        if settings.get(key, value) != value and not (
            key == "n_inner" and settings[key] == 4 * width
        ):
            raise damaged(
                path, f"has {key} {settings[key]!r}", f"{value!r}, as every CodeGen model"
            )
    if width % num_heads:
        raise damaged(
            path, f"has n_embd {width} and n_head {num_heads}", "a width that the heads divide"
        )
    try:
        return ModelConfig.parse(
            {
                "num_layers": _count(path, settings, "n_layer"),
                "num_heads": num_heads,
                "head_dim": width // num_heads,
                "rotary_dim": _count(path, settings, "rotary_dim"),
                "context_length": _count(path, settings, "n_positions"),
                "padded_vocab_size": _count(path, settings, "vocab_size"),
            }
        )
    except ConfigError as error:
        raise damaged(path, "describes no model that can be", error.expected) from error


def settings_of(
    config: ModelConfig, eot_id: int, layout: CheckpointFormat, dtype: str
) -> dict[str, Any]:
    """`config.json` of a model; `dtype` by torch's name."""
    settings = {
        **_SHARED_SETTINGS,
        "architectures": [_ARCHITECTURES[layout]],
        "attn_pdrop": 0.0,
        "bos_token_id": eot_id,
        "dtype": dtype,
        "embd_pdrop": 0.0,
        "eos_token_id": eot_id,
        "model_type": str(layout),
        "n_embd": config.d_model,
        "n_head": config.num_heads,
        "n_layer": config.num_layers,
        "n_positions": config.context_length,
        "pad_token_id": eot_id,
        "resid_pdrop": 0.0,
        "rotary_dim": config.rotary_dim,
        "tokenizer_class": TOKENIZER_CLASSES[layout],
        "vocab_size": config.padded_vocab_size,
    }
    return settings | (
        {"n_ctx": config.context_length} if layout == CheckpointFormat.codegen else {}
    )


def read_tokenizer(folder: Path) -> TokenizerFacts:
    """The id of the end-of-text, and how many ids there are.

    Raises:
        ArtifactError: a file of the tokenizer is missing or no JSON, or names no end-of-text.
    """
    tokenizer = _read(folder / TOKENIZER, "a tokenizer in Hugging Face's format")
    eos_token = _read(folder / TOKENIZER_CONFIG, "a tokenizer in Hugging Face's format").get(
        "eos_token"
    )
    if isinstance(eos_token, dict):  # As transformers writes a token with its options.
        eos_token = eos_token.get("content")
    try:
        ids = tokenizer["model"]["vocab"] | {
            token["content"]: token["id"] for token in tokenizer["added_tokens"]
        }
        num_ids = max(ids.values()) + 1
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(
            folder / TOKENIZER, f"has no vocabulary ({error!r})", "model.vocab and added_tokens"
        ) from error
    if not isinstance(eos_token, str) or eos_token not in ids:
        raise damaged(
            folder / TOKENIZER_CONFIG, f"has eos_token {eos_token!r}", "a token of the vocabulary"
        )
    return TokenizerFacts(ids[eos_token], num_ids)


def damaged(path: Path, got: str, expected: str) -> ArtifactError:
    """The error of a file that is not as it has to be."""
    return ArtifactError(
        f"{path} {got}",
        expected=expected,
        fix="restore the folder or fetch it again; what we trained can be built again",
    )


def _read(path: Path, what: str) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise damaged(path, "does not exist", what) from None
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})", what) from error
    except (ValueError, RecursionError) as error:  # No JSON, or no UTF-8; or nested without an end.
        raise damaged(path, f"is not JSON ({error})", what) from error
    if not isinstance(content, dict):
        raise damaged(path, f"holds a JSON {type(content).__name__}", what)
    return content


def _count(path: Path, settings: dict[str, Any], key: str) -> int:
    value = settings.get(key, settings.get(_OTHER_NAMES.get(key, key)))
    most = _MOST_LAYERS if key == "n_layer" else _MOST
    if type(value) is not int or not 1 <= value <= most:
        got = f"has no {key!r}" if value is None else f"has {key} {value!r}"
        raise damaged(
            path,
            got,
            f"{key}, a whole number from 1 to {most:,}, as in the configuration of a CodeGen checkpoint",
        )
    return value
