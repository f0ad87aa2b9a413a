"""One thread: the models are tiny, and threads of one operation that wait for each other starve beside other tests."""

import torch

torch.set_num_threads(1)
