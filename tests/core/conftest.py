"""Where no GPU is at hand, Triton interprets its kernels: it has to be told so before anything imports it."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
