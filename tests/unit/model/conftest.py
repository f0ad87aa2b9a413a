"""Use a single thread: the models are tiny, and several threads are slow beside other tests."""

import torch

torch.set_num_threads(1)
