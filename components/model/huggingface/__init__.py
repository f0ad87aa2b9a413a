"""Checkpoint folders in Hugging Face's formats: load, save, export, compare with `transformers`.

Tensor names, shapes and types are checked before memory for a model is allocated; weights are
copied tensor by tensor from memory-mapped files, so a model is never in memory twice.

    hf_format          config.json, tokenizer files, tensor names and row order
    checkpoint_reader  reads a folder (safetensors or PyTorch files, sharded or not) into a model
    checkpoint_writer  writes a model into a folder
    checkpoint_export  converts a folder, and compares logits with `transformers`

Not supported: reading GPT-J, quantized weights, variants such as `model.fp16.safetensors`.
"""

from components.model.huggingface.checkpoint_export import export_checkpoint, logit_parity
from components.model.huggingface.checkpoint_reader import load_checkpoint
from components.model.huggingface.checkpoint_writer import save_checkpoint, write_checkpoint
from components.model.huggingface.hf_format import load_config

__all__ = [
    "export_checkpoint",
    "load_checkpoint",
    "load_config",
    "logit_parity",
    "save_checkpoint",
    "write_checkpoint",
]
