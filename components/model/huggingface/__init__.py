"""Checkpoints as plain folders in Hugging Face's formats: read, written, and compared with what `transformers` computes.

Design decision: all that these formats demand (names, the order of rows, files) is applied in this package and known nowhere
else. A folder is checked whole, by names, shapes and types, before memory for a model is taken; weights are then copied
tensor by tensor out of mapped files, so a model is never in memory twice.

    layout     names and rows of the tensors
    settings   config.json both ways, and what is to be known of a tokenizer
    weights    the files: safetensors and PyTorch's, one or several
    reading    a folder becomes a model
    writing    a model becomes a folder
    parity     our logits against those of `transformers`
    exporting  a folder becomes another one, compared before it appears

Not covered: reading GPT-J, quantised weights, variants such as `model.fp16.safetensors`, and bytes that were changed within
a file: neither format has a checksum that its libraries compare, the store has.
"""

from components.model.huggingface.checkpoint_export import export_checkpoint
from components.model.huggingface.checkpoint_reader import load_checkpoint
from components.model.huggingface.checkpoint_writer import save_checkpoint
from components.model.huggingface.hf_config import load_config
from components.model.huggingface.parity import logit_parity

__all__ = ["export_checkpoint", "load_checkpoint", "load_config", "logit_parity", "save_checkpoint"]
