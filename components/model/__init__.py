"""CodeGen's language model: its shape, its arithmetic, its file format and how text is drawn from it.

Importing this package is light; `config` needs pydantic only, the other modules import torch.
"""
