"""CodeGen's language model: its config, network, text generation and Hugging Face checkpoints.

`config` needs pydantic only; the other modules import torch.
"""
