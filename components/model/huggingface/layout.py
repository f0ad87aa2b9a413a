"""Names and rows of the tensors, ours against those of the two classes of `transformers` that compute a CodeGen.

Released CodeGen checkpoints keep queries, values and keys fused and in four blocks, a remainder of the four TPU cores that
the authors trained on. GPT-J keeps three matrices, heads in order; its rotary positions turn the same pairs by the same
angles, its block has the same single LayerNorm and its head a bias too, so nothing else differs.
Not covered: reading GPT-J.
"""

from __future__ import annotations

from torch import Tensor

from components.model.config import QKV_BLOCKS
from components.model.formats import CheckpointFormat

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
"""Our names of modules, and those of `transformers.CodeGenForCausalLM`; all but the fused one are GPT-J's, too."""

_FUSED = "qkv.weight"
_GPTJ_PARTS = ("q_proj", "k_proj", "v_proj")

NO_WEIGHTS = (".attn.causal_mask", ".attn.masked_bias")
"""Endings of constants that old releases of transformers stored beside the weights."""


def codegen_name(name: str) -> str:
    """What CodeGen's format calls one of our parameters."""
    return ".".join(_NAMES.get(part, part) for part in name.split("."))


def to_hf(name: str, weight: Tensor, layout: CheckpointFormat) -> dict[str, Tensor]:
    """One of our parameters as the tensors that a layout makes of it, by their names; shapes alone on the meta device."""
    theirs = codegen_name(name)
    if not name.endswith(_FUSED):
        return {theirs: weight}
    if layout == CheckpointFormat.gptj:
        names = (theirs.replace("qkv_proj", part) for part in _GPTJ_PARTS)
        return dict(zip(names, weight.chunk(3), strict=True))
    rows = weight.view(3, QKV_BLOCKS, -1, weight.shape[1])
    return {theirs: rows[[0, 2, 1]].transpose(0, 1).reshape(weight.shape).contiguous()}


def from_codegen(name: str, weight: Tensor) -> Tensor:
    """CodeGen's tensor as our parameter `name`: rows [block][q, v, k] of the fused projection become [q, k, v][block]."""
    if not name.endswith(_FUSED):
        return weight
    rows = weight.view(QKV_BLOCKS, 3, -1, weight.shape[1])
    return rows.transpose(0, 1)[[0, 2, 1]].reshape(weight.shape)
