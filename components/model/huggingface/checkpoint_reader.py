"""A folder in CodeGen's format becomes a model: checked by names, shapes and types first, then copied tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import torch

from components.model.huggingface.hf_config import damaged, load_config
from components.model.huggingface.layout import codegen_name, from_codegen
from components.model.huggingface.weights import StoredTensor, all_finite, stored_weights
from components.model.transformer import CodeGen


def load_checkpoint(folder: Path) -> CodeGen:
    """The model of a folder that `save_checkpoint` wrote, or of a released CodeGen checkpoint; in fp32, on the CPU.

    Weights may be stored in fp32, fp16 or bf16, all of which fp32 holds exactly. A weight that is NaN or infinite is
    refused: such a model computes nothing, and would be found out only after hours of an evaluation.

    Raises:
        ArtifactError: a file is missing, cut short, damaged or no CodeGen model, or the weights lack a tensor, or have one
            too many, of another shape, of another type, or that is not finite; the message names file and tensor.
    """
    config = load_config(folder)
    with torch.device("meta"):
        model = CodeGen(config)
    shapes = {codegen_name(name): parameter.shape for name, parameter in model.named_parameters()}
    stored = stored_weights(folder, shapes)
    _require_fit(folder, stored, shapes)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            path, tensor = stored.pop(codegen_name(name))
            parameter.copy_(from_codegen(name, tensor))
            if not all_finite(parameter):
                num_bad = int((~tensor.isfinite()).sum())
                got = f"has {codegen_name(name)} with {num_bad:,} of {tensor.numel():,} values NaN or infinite"
                raise damaged(path, got, "finite weights")
    return model


def _require_fit(
    folder: Path, stored: dict[str, StoredTensor], shapes: dict[str, torch.Size]
) -> None:
    if missing := [name for name in shapes if name not in stored]:
        files = {one.path for one in stored.values()}
        holder = files.pop() if len(files) == 1 else folder
        raise damaged(
            holder,
            f"lacks the tensor {missing[0]}",
            "every tensor of the model that config.json describes",
        )
    if more := sorted(set(stored) - set(shapes)):
        got = f"has also the tensor {more[0]}"
        raise damaged(
            stored[more[0]].path,
            got,
            "the tensors of the model that config.json describes, and nothing else",
        )
    for name, shape in shapes.items():
        path, tensor = stored[name]
        if tensor.shape != shape:
            raise damaged(
                path, f"has {name} of shape {list(tensor.shape)}", f"{list(shape)}, by config.json"
            )
